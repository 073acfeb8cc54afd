//! sigprocmask and pthread_sigmask: a client may block everything, and the faults that we live by still come through.

use super::fail;
use super::signals::Next;
use ring3_host::signal::{MaskChange, SigSet, client_sigmask, is_active};
use std::ffi::{c_int, c_void};

/// The kernel's 64 signals of the C library's larger set: its first word.
pub(super) fn to_kernel(set: &libc::sigset_t) -> SigSet {
    // SAFETY: the set is larger than a word and aligned as one.
    SigSet(unsafe { *std::ptr::from_ref(set).cast::<u64>() })
}

/// Writes the kernel's signals to the C library's larger set, whose rest is left as it is.
pub(super) fn from_kernel(set: SigSet, to: &mut libc::sigset_t) {
    // SAFETY: as in `to_kernel`.
    unsafe { *std::ptr::from_mut(to).cast::<u64>() = set.0 };
}

type SigmaskFn = unsafe extern "C" fn(c_int, *const libc::sigset_t, *mut libc::sigset_t) -> c_int;

static NEXT_SIGPROCMASK: Next = Next::new(c"sigprocmask");
static NEXT_PTHREAD_SIGMASK: Next = Next::new(c"pthread_sigmask");

/// The two that the C library keeps to itself, which it leaves out of every mask.
const RESERVED: SigSet = SigSet::of(32).with(SigSet::of(33));

/// # Safety
/// Both pointers are valid or null.
unsafe fn change(how: c_int, set: *const libc::sigset_t, old: *mut libc::sigset_t) -> Result<(), c_int> {
    // SAFETY: valid or null by contract.
    let change = match unsafe { set.as_ref() }.map(|set| to_kernel(set).without(RESERVED)) {
        None => MaskChange::Keep,
        Some(set) => match how {
            libc::SIG_BLOCK => MaskChange::Block(set),
            libc::SIG_UNBLOCK => MaskChange::Unblock(set),
            libc::SIG_SETMASK => MaskChange::Set(set),
            _ => return Err(libc::EINVAL),
        },
    };
    let was = client_sigmask(change);
    // SAFETY: valid or null by contract.
    if let Some(old) = unsafe { old.as_mut() } {
        from_kernel(was, old);
    }
    Ok(())
}

/// The next library's function, as long as it is to be used.
fn next(next: &Next) -> Option<SigmaskFn> {
    let found = if is_active() {
        std::ptr::null_mut()
    } else {
        next.get()
    };
    // SAFETY: both symbols are functions of this type.
    (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, SigmaskFn>(found) })
}

/// As the C library's.
///
/// # Safety
/// Both pointers are valid or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigprocmask(
    how: c_int,
    set: *const libc::sigset_t,
    old: *mut libc::sigset_t,
) -> c_int {
    match next(&NEXT_SIGPROCMASK) {
        // SAFETY: the arguments are the client's.
        Some(next) => unsafe { next(how, set, old) },
        // SAFETY: as above.
        None => unsafe { change(how, set, old) }.map_or_else(fail, |()| 0),
    }
}

/// As the C library's, which returns the error.
///
/// # Safety
/// Both pointers are valid or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_sigmask(
    how: c_int,
    set: *const libc::sigset_t,
    old: *mut libc::sigset_t,
) -> c_int {
    match next(&NEXT_PTHREAD_SIGMASK) {
        // SAFETY: the arguments are the client's.
        Some(next) => unsafe { next(how, set, old) },
        // SAFETY: as above.
        None => unsafe { change(how, set, old) }.map_or_else(|errno| errno, |()| 0),
    }
}
