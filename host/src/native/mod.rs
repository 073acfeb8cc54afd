//! Native steps: unprivileged guest instructions executed by the host CPU itself.
//!
//! The host is an x86 too, so the meaning of PMADDWD, FPATAN, VPTERNLOGD or SHLD need not be written down: [`compile`]
//! turns a decoded instruction into a small piece of host code that loads the guest's registers it uses, executes that very
//! instruction, and stores what it wrote. Its memory operand is a bounce buffer ([`NativeFrame::mem`]): address
//! translation, permission, alignment, masking and the store itself are the caller's, helped by [`StepInfo`].
//!
//! A step is run so:
//!
//! 1. From [`StepInfo`]: #UD and #NM by `class` and `vex`, #MF by `checks_pending_x87`, alignment; operand bytes (only those
//!    in [`NativeStep::touched`] if it is masked) into `frame.mem`; flags in `flags_read` (and in `flags_written`, for
//!    integer forms, where a shift by zero changes none) into `frame.rflags`; for x87 computation, `frame.x87_pointers`.
//! 2. [`NativeStep::run`], on the [`VectorState`] where the guest's vector and x87 state lives, and its general registers.
//!    In 16- and 32-bit code bits 63:32 of a written register are as in 64-bit code.
//! 3. By [`Outcome`]: store the touched bytes of `frame.mem` if the operand is written, take `frame.rflags` if
//!    `flags_written`. A store has to be known to succeed before the step runs, because registers change in it.
//!
//! Here are also the control instructions of the x87 unit and MXCSR ([`x87_control`]), the conversions between the state and
//! XSAVE images ([`xsave`]), the element-wise parts of gathers and scatters ([`gather`]), and the products of tiles ([`tile`]).
//!
//! Not supported: anything privileged, control flow, stack, string, LOCK prefixes and XCHG with memory (atomicity is the
//! caller's), divisions (their #DE would be a host signal), VSIB and tile operands, and features the host lacks. x87 state is
//! exact down to the contents of empty registers. SIMD floating-point exceptions are real ones, caught by the signal handlers.

mod access;
mod allow;
mod arena;
mod compile;
pub mod gather;
mod lanes;
mod state;
mod step;
mod thunk;
pub mod tile;
mod traps;
mod x87_control;
pub mod xsave;

#[cfg(test)]
mod tests;

pub use access::{Direction, MemoryOperand};
pub use allow::{StateClass, host_has};
pub use compile::{Unsupported, compile};
pub use state::{
    EnvLayout, MXCSR_DEFAULT, NativeFrame, ReservedBits, VectorState, X87, X87Pointers, Zmm, mxcsr_mask,
};
pub use step::{NativeStep, Outcome, StepInfo};
