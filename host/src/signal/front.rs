//! A process whose signals somebody else takes from the kernel first, who knows the client better.
//!
//! The front is the kernel's handler of all signals that are handled at all. It runs no handler of the client's while ring3 is at
//! work, hands the faults of ring3's own instructions to [`fault`], and tells a vCPU of what is due by [`due`].

use super::{Handled, handler, scope};
use std::sync::OnceLock;

static HOLD: OnceLock<fn(i32)> = OnceLock::new();

/// Leaves the process's signals to the caller, from now on. `hold` is to have the front handle a signal whose default action would
/// end the process: a run mask lets it in.
pub fn leave_signals(hold: fn(i32)) {
    let _ = HOLD.set(hold);
}

pub(super) fn is_there() -> bool {
    HOLD.get().is_some()
}

/// Has the front handle the signal; says whether there is one.
pub(super) fn hold(signal: i32) -> bool {
    HOLD.get().inspect(|hold| hold(signal)).is_some()
}

/// An instruction raised a signal: if it is one of ring3's that may, the context continues behind it.
///
/// # Safety
/// Both are what the kernel passed to the handler that calls this.
pub unsafe fn fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) -> Handled {
    // SAFETY: by contract, and to this handler alone.
    unsafe { handler::own_fault(signal, &*info, &mut *context) }
}

/// A signal came on this thread that the mask of a run lets in: the vCPU on it is to leave.
pub fn kick() {
    scope::note_signal();
}

/// A handler of the client's is due on this thread, and waits until ring3's work is done: the vCPU on it, or the next, is to leave.
pub fn due() {
    scope::set_due(true);
    kick();
}

/// What was due has run.
pub fn done() {
    scope::set_due(false);
}
