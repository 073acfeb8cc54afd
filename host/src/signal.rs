//! Signals in a process that is also somebody else's.
//!
//! From [`activate`] on, each signal that the client handles reaches [`handler`] first, which notes it (a vCPU that
//! runs on the thread leaves guest mode) and then calls the client's handler, unless ring3 is at work on the thread:
//! then the signal is left pending and delivered when that work is done, as by a kernel on the way out of a system
//! call. So a client's handler never sees ring3 half way, and may do anything, `longjmp` included.
//!
//! Where somebody else is the kernel's handler of every signal, as what serves static programs is, all of that is left to it
//! ([`front`]).
//!
//! * [`actions`]: what the client asked `sigaction` for, which is not what the kernel was told.
//! * [`handler`]: the handler behind all of them.
//! * [`scope`]: [`Shield`] and [`RunScope`], what a thread is at.
//! * [`mask`]: the client's signal masks, from which the signals of our own faults are kept out.
//!
//! The faults of our own accesses (see [`crate::mem`]) are caught from [`install_fault_handlers`] on. Not supported: a
//! client that changes signal state by system calls of its own making after activation.

mod actions;
mod cell;
pub mod front;
mod handler;
mod mask;
mod scope;
#[cfg(test)]
mod tests;

pub use crate::sys::{KernelAction as Action, SigSet};
pub use actions::{activate, client_sigaction, install_fault_handlers, is_active};
pub use cell::ActionCell;
pub use handler::{Fault, Handled, add_fault_hook};
pub use mask::{MaskChange, client_sigmask};
pub use scope::{RunScope, Shield};

/// The signals that a thread's own instructions raise. They are never blocked while ring3 works.
pub const FAULTS: SigSet = SigSet::of(libc::SIGSEGV)
    .with(SigSet::of(libc::SIGBUS))
    .with(SigSet::of(libc::SIGFPE))
    .with(SigSet::of(libc::SIGILL))
    .with(SigSet::of(libc::SIGTRAP));

/// Signals that nobody may handle or block.
pub const UNBLOCKABLE: SigSet = SigSet::of(libc::SIGKILL).with(SigSet::of(libc::SIGSTOP));

/// Those, and the two that the C library keeps to itself.
const UNTOUCHED: SigSet = UNBLOCKABLE.with(SigSet::of(32)).with(SigSet::of(33));

/// The numbers of all signals.
const ALL: std::ops::RangeInclusive<i32> = 1..=64;
