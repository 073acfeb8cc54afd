//! For tests only: the host CPU as the processor that all others are compared with.
//!
//! [`Direct`] executes arbitrary unprivileged machine code, with all of its registers given, in a child process that can
//! do nothing else, and tells which exception ended it and what the registers and memory were then. The child has the
//! memory that the code is to find at its own addresses, so linear addresses are the same as in a guest.
//!
//! No instruction of ours runs between loading and saving the registers: the kernel does both, on the way out of and
//! into a signal handler whose frame is edited (see `child`). Not supported: code that makes system calls (it ends the
//! child), privileged code, and exceptions that the kernel serves silently.
//!
//! [`ClientMemory`] and [`ThreadId`] are for tests that do to memory and threads what a client may do, [`Usage`] for those that look for
//! leaks.

mod child;
mod client;
mod direct;
mod usage;

#[cfg(test)]
mod tests;

pub use client::{ClientMemory, ThreadId};
pub use direct::{CODE32, CODE64, DATA, Direct, Lost, Registers, Rights, Segment, SegmentKind, Trap, Window};
pub use usage::Usage;
