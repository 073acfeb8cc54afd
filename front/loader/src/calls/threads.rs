//! Threads from their beginning to their end, and what Linux keeps of each.

use super::{Call, Outcome, done, failed};
use crate::signal::block_all;
use crate::signal::calls::fault;
use crate::signal::{for_kernel, set_kernel_mask};
use crate::thread::*;
use crate::{area, catch, entry, sites};
use ring3_host::user::UserPtr;
use std::ffi::c_void;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// A thread that is about to begin.
pub struct Start {
    pub thread: &'static Thread,
    /// Where its number is written.
    pub tell: [u64; 2],
}

/// Bytes of the stack on which ring3 works for a thread, guests' code included; as of a thread of Rust's.
const STACK: usize = 2 << 20;

struct Handed {
    start: Start,
    /// The thread's number, zero until it is known.
    tid: AtomicI32,
}

/// Starts a thread, and says its number. All signals are blocked, and are in the new thread until it has all that it needs.
pub fn start(start: Start) -> Result<i64, i32> {
    let handed = Handed {
        start,
        tid: AtomicI32::new(0),
    };
    let handed = std::ptr::from_ref(&handed);
    // SAFETY: the attributes are ours, and what is handed over outlives its use: this waits until the thread has told its number.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        libc::pthread_attr_init(&mut attributes);
        libc::pthread_attr_setstacksize(&mut attributes, STACK);
        libc::pthread_attr_setdetachstate(&mut attributes, libc::PTHREAD_CREATE_DETACHED);
        let mut id = 0;
        let result = libc::pthread_create(&mut id, &attributes, run, handed.cast_mut().cast());
        libc::pthread_attr_destroy(&mut attributes);
        if result != 0 {
            return Err(result);
        }
        let tid = &(*handed).tid;
        while tid.load(Acquire) == 0 {
            libc::syscall(libc::SYS_futex, tid.as_ptr(), libc::FUTEX_WAIT, 0, 0);
        }
        Ok(tid.load(Relaxed).into())
    }
}

extern "C" fn run(handed: *mut c_void) -> *mut c_void {
    // SAFETY: the one that started this thread waits for its number, which is the last that is taken from here.
    let handed = unsafe { &*handed.cast::<Handed>() };
    let thread = handed.start.thread;
    // SAFETY: a plain question.
    let tid = unsafe { libc::gettid() };
    for at in handed.start.tell.into_iter().filter(|at| *at != 0) {
        let _ = UserPtr::new(at).write(&(tid as u32));
    }
    handed.tid.store(tid, Release);
    // The word may be gone already; then nobody waits there.
    // SAFETY: waking nobody is no harm.
    unsafe { libc::syscall(libc::SYS_futex, handed.tid.as_ptr(), libc::FUTEX_WAKE, 1) };
    begin(thread);
    // SAFETY: the registers are the client's, as clone left them.
    unsafe { entry::run(thread) };
    end(thread);
    std::ptr::null_mut()
}

/// Makes this thread one whose calls and signals ring3 takes.
pub fn begin(thread: &Thread) {
    // SAFETY: a plain question.
    thread.tid.store(unsafe { libc::gettid() } as u32, Relaxed);
    thread.host_fs.set(fs());
    give_up_sequences(thread.host_fs.get());
    use_signal_stack(thread);
    sites::thread(thread);
    if catch::thread(thread).is_err() {
        crate::die("the kernel does not catch system calls in a thread");
    }
    set_kernel_mask(for_kernel(thread.mask.load(Relaxed)));
}

/// A thread may have one registration for restartable sequences. The C library that ring3 uses gives up its own for the client's.
fn give_up_sequences(fs: u64) {
    const SIGNATURE: u64 = 0x5305_3053;
    /// As the first kernels had it, and libraries register unless they know of more.
    const SIZE: u64 = 32;
    // SAFETY: the symbols, where there are any, are words; and the kernel refuses what is not registered.
    unsafe {
        let word = |name: &std::ffi::CStr| libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        let (offset, size) = (word(c"__rseq_offset"), word(c"__rseq_size"));
        if offset.is_null() || size.is_null() || *size.cast::<u32>() == 0 {
            return;
        }
        let at = fs.wrapping_add_signed(*offset.cast::<i64>());
        let size = u64::from(*size.cast::<u32>()).next_multiple_of(SIZE);
        if libc::syscall(libc::SYS_rseq, at, SIZE, UNREGISTER, SIGNATURE) != 0 && size != SIZE {
            libc::syscall(libc::SYS_rseq, at, size, UNREGISTER, SIGNATURE);
        }
    }
}

fn fs() -> u64 {
    const ARCH_GET_FS: i32 = 0x1003;
    let mut fs = 0u64;
    // SAFETY: the kernel writes the word.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_FS, &mut fs) };
    fs
}

/// Has the kernel deliver this thread's signals on its area's stack.
pub fn use_signal_stack(thread: &Thread) {
    let stack = area::signal_stack(thread);
    // SAFETY: the stack is there as long as the thread.
    unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
}

/// The client's thread is at its end; all that is left is ring3's part of it.
fn end(thread: &Thread) {
    block_all();
    thread.process().has_no_longer(thread);
    catch::stop();
    let none = libc::stack_t {
        ss_flags: libc::SS_DISABLE,
        ..area::signal_stack(thread)
    };
    // SAFETY: nothing runs on it.
    unsafe { libc::sigaltstack(&none, std::ptr::null_mut()) };
    release(thread);
    // SAFETY: the thread runs no more, and gets no signals there.
    unsafe { area::give_back(std::ptr::from_ref(thread).cast_mut()) };
}

/// Registers or, with the flag, unregisters.
const UNREGISTER: u64 = 1;

pub fn rseq(thread: &Thread, call: &Call) -> Outcome {
    let outcome = call.pass(thread);
    if outcome == Outcome::Value(0) {
        let [at, len, flags, signature, ..] = call.arguments;
        let gone = flags & UNREGISTER != 0;
        thread
            .sequences
            .set(if gone { [0; 3] } else { [at, len, signature] });
    }
    outcome
}

/// Tells those that wait for the thread's end, and for what it holds. They may take the client's memory away then.
pub fn release(thread: &Thread) {
    let [at, len, signature] = thread.sequences.get();
    if at != 0 {
        // SAFETY: the kernel refuses what is not registered.
        unsafe { libc::syscall(libc::SYS_rseq, at, len, UNREGISTER, signature) };
    }
    let list = thread.robust_list.get();
    if list != 0 {
        // SAFETY: a plain question.
        let _ = release_robust(list, unsafe { libc::gettid() } as u32);
    }
    let word = thread.clear_at_exit.get();
    if word != 0 && UserPtr::new(word).write(&0u32).is_ok() {
        wake(word);
    }
}

fn wake(word: u64) {
    // SAFETY: waking is no harm, whatever is there.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, 1) };
}

/// Marks the locks of a robust list as left by a thread that is gone, as the kernel does.
fn release_robust(head: u64, tid: u32) -> Result<(), ring3_host::mem::HostFault> {
    const LIMIT: usize = 2048;
    let [first, offset, pending] = UserPtr::new(head).read::<[u64; 3]>()?;
    // Bit 0 says that the lock inherits priority, which the kernel looks after by itself.
    let lock_of = |entry: u64| (entry & !1).wrapping_add(offset);
    let mut entry = first;
    for _ in 0..LIMIT {
        if entry & !1 == head {
            break;
        }
        let next = UserPtr::new(entry & !1).read::<u64>();
        if entry != pending {
            leave_lock(lock_of(entry), tid)?;
        }
        entry = next?;
    }
    if pending != 0 {
        leave_lock(lock_of(pending), tid)?;
    }
    Ok(())
}

fn leave_lock(word: u64, tid: u32) -> Result<(), ring3_host::mem::HostFault> {
    const OWNER: u32 = 0x3fff_ffff;
    const DIED: u32 = 0x4000_0000;
    const WAITERS: u32 = 0x8000_0000;
    let at = UserPtr::new(word);
    let value: u32 = at.read()?;
    if value & OWNER == tid {
        at.write(&(value & WAITERS | DIED))?;
        if value & WAITERS != 0 {
            wake(word);
        }
    }
    Ok(())
}

pub fn set_tid_address(thread: &Thread, call: &Call) -> Outcome {
    thread.clear_at_exit.set(call.arguments[0]);
    // SAFETY: a plain question.
    Outcome::Value(unsafe { libc::gettid() }.into())
}

/// Bytes of a robust list's head.
const HEAD: u64 = 24;

pub fn set_robust_list(thread: &Thread, call: &Call) -> Outcome {
    let [list, len, ..] = call.arguments;
    if len != HEAD {
        return failed(libc::EINVAL);
    }
    thread.robust_list.set(list);
    Outcome::Value(0)
}

pub fn get_robust_list(thread: &Thread, call: &Call) -> Outcome {
    let [of, list, len, ..] = call.arguments;
    // SAFETY: a plain question.
    if of != 0 && of != unsafe { libc::gettid() } as u64 {
        return failed(libc::EPERM);
    }
    let told = UserPtr::new(list)
        .write(&thread.robust_list.get())
        .and_then(|()| UserPtr::new(len).write(&HEAD));
    done(told.map(|()| 0).map_err(fault))
}
