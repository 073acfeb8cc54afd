//! How the client's system calls are caught: by Syscall User Dispatch, of Linux 5.11, which asks a byte of the thread's whether the call
//! passes; where that is not there, by a seccomp filter that knows the client's instructions by their addresses.
//!
//! Not caught by the filter: calls made by code that the client puts elsewhere than its program. It is inherited by programs executed,
//! where it does no harm, since the only programs at those addresses are static ones, loaded by ring3 again.

use crate::entry::{self, Resume};
use crate::image;
use crate::thread::*;
use rustix::io::Errno;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
const PR_SYS_DISPATCH_ON: u64 = 1;
const PR_SYS_DISPATCH_OFF: u64 = 0;

// Reasons of SIGSYS.
const SYS_SECCOMP: i32 = 1;
const SYS_USER_DISPATCH: i32 = 2;

/// Has the filter used even where the kernel has the better way, for tests.
pub const FILTER_ONLY: &str = "RING3_STATIC_BY_FILTER";

/// Whether the process catches by the filter.
static BY_FILTER: AtomicBool = AtomicBool::new(false);

/// Prepares the process.
pub fn begin() -> Result<(), Errno> {
    let selector = 0u8;
    if std::env::var_os(FILTER_ONLY).is_none() && dispatch(PR_SYS_DISPATCH_ON, &selector).is_ok() {
        return dispatch(PR_SYS_DISPATCH_OFF, std::ptr::null());
    }
    BY_FILTER.store(true, Relaxed);
    filter()
}

/// From now on this thread's calls are caught, while its selector says so.
pub fn thread(thread: &Thread) -> Result<(), Errno> {
    if BY_FILTER.load(Relaxed) {
        return Ok(());
    }
    dispatch(PR_SYS_DISPATCH_ON, thread.selector.as_ptr())
}

/// No longer.
pub fn stop() {
    if !BY_FILTER.load(Relaxed) {
        let _ = dispatch(PR_SYS_DISPATCH_OFF, std::ptr::null());
    }
}

fn dispatch(mode: u64, selector: *const u8) -> Result<(), Errno> {
    let free = if mode == PR_SYS_DISPATCH_ON {
        entry::all()
    } else {
        0..0
    };
    let len = free.end - free.start;
    // SAFETY: the selector is a thread's, there as long as it is; the kernel only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prctl,
            PR_SET_SYSCALL_USER_DISPATCH,
            mode,
            free.start,
            len,
            selector,
        )
    };
    if result == 0 { Ok(()) } else { Err(Errno::NOSYS) }
}

/// Has the kernel trap calls made from where programs are loaded.
fn filter() -> Result<(), Errno> {
    // Of the data that filters see: the upper half of the instruction's address.
    const HIGH: u32 = 12;
    let load = |at| (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let equal = |value, yes, no| (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value);
    let at_least = |value, yes, no| (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, yes, no, value);
    let answer = |value| (libc::BPF_RET | libc::BPF_K, 0, 0, value);
    const { assert!(image::FIXED.start == 0 && image::FIXED.end == 1 << 32) };
    let program = [
        load(HIGH),
        equal(0, 2, 0),
        at_least((image::ANYWHERE.start >> 32) as u32, 0, 2),
        at_least((image::ANYWHERE.end >> 32) as u32, 1, 0),
        answer(libc::SECCOMP_RET_TRAP),
        answer(libc::SECCOMP_RET_ALLOW),
    ]
    .map(|(code, jt, jf, k)| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    });
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the filter lets pass all that ring3 does, and the kernel copies it.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &filter)
    };
    if result == 0 { Ok(()) } else { Err(Errno::NOSYS) }
}

/// Whether this reason of SIGSYS is a call that was caught.
pub fn is_call(code: i32) -> bool {
    code == if BY_FILTER.load(Relaxed) {
        SYS_SECCOMP
    } else {
        SYS_USER_DISPATCH
    }
}

/// A call was caught: the client goes on as if the instruction had led to ring3.
pub fn enter(uc: &mut libc::ucontext_t, thread: &Thread) -> Resume {
    let registers = &mut uc.uc_mcontext.gregs;
    let after = registers[REG_RIP as usize];
    registers[REG_RCX as usize] = after;
    registers[REG_R11 as usize] = std::ptr::from_ref(thread) as i64;
    registers[REG_RIP as usize] = entry::enter() as i64;
    thread.caught.set(true);
    Resume::AsWas
}
