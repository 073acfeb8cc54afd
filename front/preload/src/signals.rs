//! sigaction and signal: a client's handler that runs on a vCPU's thread must end KVM_RUN, so ours stands before it.

use super::fail;
use ring3_host::signal::{Action, SigSet, client_sigaction, is_active};
use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// The next library's symbol of this name.
fn next(name: &CStr, cache: &AtomicPtr<c_void>) -> *mut c_void {
    let known = cache.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    // SAFETY: the name is a string, and RTLD_NEXT asks for the one after ours.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    cache.store(found, Ordering::Relaxed);
    found
}

static NEXT_SIGACTION: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static NEXT_SIGNAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

type SigactionFn = unsafe extern "C" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;
type SignalFn = unsafe extern "C" fn(c_int, libc::sighandler_t) -> libc::sighandler_t;

/// The kernel's 64 signals of the C library's larger set.
fn to_set(set: &libc::sigset_t) -> SigSet {
    let mut bits = 0;
    for signal in 1..=64 {
        // SAFETY: the set is initialised and the signal in range.
        if unsafe { libc::sigismember(set, signal) } == 1 {
            bits |= 1 << (signal - 1);
        }
    }
    SigSet(bits)
}

fn to_libc(action: &Action) -> libc::sigaction {
    // SAFETY: sigaction is plain data, for which zero is a value.
    let mut out: libc::sigaction = unsafe { std::mem::zeroed() };
    out.sa_sigaction = action.handler as usize;
    out.sa_flags = action.flags as c_int;
    for signal in 1..=64 {
        if action.mask.0 >> (signal - 1) & 1 != 0 {
            // SAFETY: the set is ours and the signal in range.
            let _ = unsafe { libc::sigaddset(&mut out.sa_mask, signal) };
        }
    }
    out
}

/// As the C library's.
///
/// # Safety
/// Both pointers are valid or null, and the handler is one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    if !is_active() {
        let found = next(c"sigaction", &NEXT_SIGACTION);
        if found.is_null() {
            return fail(libc::ENOSYS);
        }
        // SAFETY: the symbol is the C library's function of this type; the arguments are the client's.
        return unsafe { std::mem::transmute::<*mut c_void, SigactionFn>(found)(signal, new, old) };
    }
    // SAFETY: valid or null by contract.
    let new = unsafe { new.as_ref() }.map(|new| Action {
        handler: new.sa_sigaction as u64,
        flags: u64::from(new.sa_flags as u32),
        restorer: 0,
        mask: to_set(&new.sa_mask),
    });
    match client_sigaction(signal, new.as_ref()) {
        Ok(was) => {
            if !old.is_null() {
                // SAFETY: valid by contract.
                unsafe { old.write(to_libc(&was)) };
            }
            0
        }
        Err(errno) => fail(errno.raw_os_error()),
    }
}

/// As the C library's, with BSD's meaning: system calls restart, the handler stays.
///
/// # Safety
/// `handler` is one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn signal(number: c_int, handler: libc::sighandler_t) -> libc::sighandler_t {
    if !is_active() {
        let found = next(c"signal", &NEXT_SIGNAL);
        if found.is_null() {
            fail(libc::ENOSYS);
            return libc::SIG_ERR;
        }
        // SAFETY: the symbol is the C library's function of this type; the arguments are the client's.
        return unsafe { std::mem::transmute::<*mut c_void, SignalFn>(found)(number, handler) };
    }
    let flags = libc::SA_RESTART as u64;
    let new = Action {
        handler: handler as u64,
        flags,
        restorer: 0,
        mask: SigSet(0),
    };
    match client_sigaction(number, Some(&new)) {
        Ok(was) => was.handler as libc::sighandler_t,
        Err(errno) => {
            fail(errno.raw_os_error());
            libc::SIG_ERR
        }
    }
}
