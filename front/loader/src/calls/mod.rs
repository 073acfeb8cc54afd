//! The client's system calls. Those that concern ring3 are in [`rows`]; all others are the kernel's.
//!
//! What concerns KVM is done by the C library's functions of that name, before which `libring3.so` stands, as for a client that
//! is linked dynamically. Whatever may take long and does not concern ring3 is made by [`Call::pass`], which a signal interrupts.

pub mod clone;
mod control;
mod exec;
mod exit;
mod files;
mod memory;
pub mod rows;
mod threads;

pub use clone::vforked;
pub use threads::begin as begin_first;

use crate::entry::{self, INTERRUPTED};
use crate::signal;
use crate::thread::*;

/// A system call: its number and its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub number: u64,
    pub arguments: [u64; 6],
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With this in RAX: a value, or an error's number below zero.
    Value(i64),
    /// In the thread's signal frame.
    Frame,
    /// With the thread.
    Leave,
}

/// An outcome of a call that may fail.
pub fn done(result: Result<i64, i32>) -> Outcome {
    Outcome::Value(result.unwrap_or_else(|errno| -i64::from(errno)))
}

/// The outcome of one that has failed.
pub fn failed(errno: i32) -> Outcome {
    done(Err(errno))
}

/// The outcome of a function of the C library's that returns -1 and sets `errno`.
fn of_library(result: i64) -> Outcome {
    match result {
        // SAFETY: the thread's errno is always there.
        -1 => failed(unsafe { *libc::__errno_location() }),
        value => Outcome::Value(value),
    }
}

impl Call {
    /// What the client asks for.
    pub fn of(thread: &Thread) -> Call {
        let arguments = [REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9];
        Call {
            number: thread.register(REG_RAX),
            arguments: arguments.map(|index| thread.register(index)),
        }
    }

    /// The same with another argument.
    fn with(&self, index: usize, value: u64) -> Call {
        let mut call = *self;
        call.arguments[index] = value;
        call
    }

    /// The kernel's answer.
    pub fn pass(&self, thread: &Thread) -> Outcome {
        let [a, b, c, d, e, f] = self.arguments;
        // SAFETY: the client's own call, passed on as it is.
        let result = unsafe { entry::call(thread, &[self.number, a, b, c, d, e, f]) };
        if result == INTERRUPTED {
            signal::interrupted(thread, self.number);
            return Outcome::Value(-i64::from(libc::EINTR));
        }
        Outcome::Value(result)
    }
}
