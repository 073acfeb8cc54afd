//! `libring3.so`: the C library's symbols that concern KVM, in front of the C library's own.
//!
//! A call that does not concern us goes on as the system call it stands for; the signal functions go on to the next
//! library's as long as `/dev/kvm` was never opened, so that a program that never does notices nothing.
//!
//! Not supported: clients that make system calls without the C library (static programs), `stat` of `/dev/kvm` where
//! the host has none, and reading statistics descriptors.

mod files;
mod signals;

use ring3_interpose::Errno;
use std::ffi::{CStr, c_char, c_int, c_long};

/// Sets `errno` and returns what a failed call returns.
fn fail(errno: i32) -> c_int {
    // SAFETY: the C library's errno of this thread is always there to be written.
    unsafe { *libc::__errno_location() = errno };
    -1
}

fn outcome(result: Result<i64, Errno>) -> c_int {
    match result {
        Ok(value) => value as c_int,
        Err(errno) => fail(errno.0),
    }
}

/// Whether a path from the client is `/dev/kvm`.
fn is_device(path: *const c_char) -> bool {
    if path.is_null() {
        return false;
    }
    // SAFETY: a path given to open or access is a string, by those functions' own contract.
    unsafe { CStr::from_ptr(path) }.to_bytes() == ring3_interpose::DEVICE
}

/// What the `syscall` function returned, as the wrappers return it.
fn passed(result: c_long) -> c_int {
    result as c_int
}
