//! pthread_cancel: a thread that may be cancelled at any moment cannot be in the midst of KVM_RUN, whose frames the C library
//! does not know how to leave. It is made to leave KVM_RUN as by a signal, and ends then.

use super::outcome;
use super::signals::Next;
use std::cell::Cell;
use std::ffi::{c_int, c_ulong};
use std::sync::{Mutex, MutexGuard, PoisonError};

// The C library's cancellation types.
const DEFERRED: c_int = 0;
const ASYNCHRONOUS: c_int = 1;

thread_local! {
    /// Whether the thread may be cancelled at any moment.
    static AT_ANY_MOMENT: Cell<bool> = const { Cell::new(false) };
}

/// A KVM_RUN of a thread that may be cancelled at any moment.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stay {
    thread: libc::pthread_t,
    fd: c_int,
    serial: u64,
}

struct Stays {
    now: Vec<Stay>,
    serial: u64,
}

static STAYS: Mutex<Stays> = Mutex::new(Stays {
    now: Vec::new(),
    serial: 0,
});

fn stays() -> MutexGuard<'static, Stays> {
    STAYS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often a thread in KVM_RUN is asked to leave, a millisecond apart; one that keeps cancellation off stays.
const ATTEMPTS: u32 = 1000;

type SetTypeFn = unsafe extern "C-unwind" fn(c_int, *mut c_int) -> c_int;
type CancelFn = unsafe extern "C-unwind" fn(libc::pthread_t) -> c_int;

static NEXT_SET_TYPE: Next = Next::new(c"pthread_setcanceltype");
static NEXT_CANCEL: Next = Next::new(c"pthread_cancel");

/// Ends the thread, if it is to be and may be at any moment now.
///
/// # Safety
/// `old` is null or for the result.
unsafe fn set_type(kind: c_int, old: *mut c_int) -> c_int {
    let next = NEXT_SET_TYPE.get();
    if next.is_null() {
        return libc::ENOSYS;
    }
    // SAFETY: that is the type of the symbol.
    let next: SetTypeFn = unsafe { std::mem::transmute(next) };
    // SAFETY: as given.
    unsafe { next(kind, old) }
}

/// As the C library's.
///
/// # Safety
/// `old` is null or for the result.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_setcanceltype(kind: c_int, old: *mut c_int) -> c_int {
    AT_ANY_MOMENT.set(kind == ASYNCHRONOUS);
    // SAFETY: as given.
    let result = unsafe { set_type(kind, old) };
    if result != 0 {
        AT_ANY_MOMENT.set(false);
    }
    result
}

/// As the C library's; a thread that it makes leave KVM_RUN has left it on return.
///
/// # Safety
/// The thread is one that was not joined.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_cancel(thread: libc::pthread_t) -> c_int {
    let next = NEXT_CANCEL.get();
    if next.is_null() {
        return libc::ENOSYS;
    }
    // SAFETY: that is the type of the symbol.
    let next: CancelFn = unsafe { std::mem::transmute(next) };
    // SAFETY: as given.
    let result = unsafe { next(thread) };
    let stay = |stays: &Stays| stays.now.iter().copied().find(|stay| stay.thread == thread);
    let Some(first) = stay(&stays()) else {
        return result;
    };
    // The first request may come before KVM_RUN forgets earlier ones.
    for _ in 0..ATTEMPTS {
        if stay(&stays()) != Some(first) {
            break;
        }
        ring3_interpose::interrupt(first.fd);
        // SAFETY: a plain call.
        unsafe { libc::usleep(1000) };
    }
    result
}

/// Whether the calling thread may be cancelled at any moment.
#[inline]
pub(super) fn at_any_moment() -> bool {
    AT_ANY_MOMENT.get()
}

/// KVM_RUN of such a thread. Nothing in here is to be dropped when the thread ends at its last call.
#[cold]
pub(super) fn run(fd: c_int, request: u32, arg: c_ulong) -> Option<c_int> {
    // SAFETY: no result is wanted.
    unsafe { set_type(DEFERRED, std::ptr::null_mut()) };
    let serial = enter(fd);
    let result = ring3_interpose::ioctl(fd, request, arg).map(outcome);
    stays().now.retain(|stay| stay.serial != serial);
    // SAFETY: no result is wanted.
    unsafe { set_type(ASYNCHRONOUS, std::ptr::null_mut()) };
    result
}

fn enter(fd: c_int) -> u64 {
    let mut stays = stays();
    stays.serial += 1;
    let serial = stays.serial;
    // SAFETY: a plain question.
    let thread = unsafe { libc::pthread_self() };
    stays.now.push(Stay { thread, fd, serial });
    serial
}
