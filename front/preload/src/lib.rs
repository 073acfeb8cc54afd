//! `libring3.so`: the C library's symbols that concern KVM, in front of the C library's own.
//!
//! What does not concern us goes on as the system call it stands for ([`files`], [`maps`], [`presence`], [`guest_memfd`]), or, about signals, to
//! the next library's symbol as long as `/dev/kvm` was never opened ([`signals`], [`masks`]): a program that never does
//! notices nothing. Variadic functions are defined with their optional argument fixed, which x86-64 calls alike.
//!
//! Static programs are served by `front/loader`, which is part of this library ([`statics`]). Not supported: system calls that a
//! dynamically linked client makes without the C library, and `fopen` of the device.

mod cancel;
mod exec;
mod exits;
mod files;
mod guest_memfd;
mod maps;
mod masks;
mod presence;
mod signals;
mod statics;

use ring3_interpose::{Errno, path};
use std::ffi::{CStr, c_char, c_int, c_long};

/// Sets `errno` and returns what a failed call returns.
fn fail(errno: i32) -> c_int {
    // SAFETY: the C library's errno of this thread is always there to be written.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// The thread's `errno`, which a call that succeeds leaves alone.
fn keeping_errno<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: the C library's errno of this thread is always there.
    let before = unsafe { *libc::__errno_location() };
    let result = work();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = before };
    result
}

fn outcome(result: Result<i64, Errno>) -> c_int {
    match result {
        Ok(value) => value as c_int,
        Err(errno) => fail(errno.0),
    }
}

/// Whether a path from the client, relative to the directory `dir`, is `/dev/kvm`.
#[inline]
fn is_device(dir: c_int, path: *const c_char) -> bool {
    if path.is_null() {
        return false;
    }
    // SAFETY: a path given to open or access is a string, by those functions' own contract.
    path::is_device(dir, unsafe { CStr::from_ptr(path) }.to_bytes())
}

/// What `work` makes of a path from the client.
fn with_path<R>(path: *const c_char, work: impl FnOnce(&[u8]) -> Option<R>) -> Option<R> {
    if path.is_null() {
        return None;
    }
    // SAFETY: as above.
    work(unsafe { CStr::from_ptr(path) }.to_bytes())
}

/// What the `syscall` function returned, as the wrappers return it.
fn passed(result: c_long) -> c_int {
    result as c_int
}
