//! The ends of threads and processes.

use super::threads::release;
use super::{Call, Outcome};
use crate::process::Kind;
use crate::signal::block_all;
use crate::thread::Thread;

pub fn exit(thread: &Thread, call: &Call) -> Outcome {
    // SAFETY: plain questions.
    let first = unsafe { libc::gettid() == libc::getpid() };
    if !first {
        return Outcome::Leave;
    }
    block_all();
    thread.process().has_no_longer(thread);
    release(thread);
    loop {
        // The first thread's stack is not the C library's to free. Others may live on.
        // SAFETY: the client's own wish; it does not return.
        unsafe { libc::syscall(libc::SYS_exit, call.arguments[0]) };
    }
}

pub fn exit_group(thread: &Thread, call: &Call) -> Outcome {
    let status = call.arguments[0] as i32;
    if thread.process().kind == Kind::Own {
        // What a process that opened the device does at its end is registered there.
        // SAFETY: the client's own wish; it does not return.
        unsafe { libc::exit(status) };
    }
    loop {
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}
