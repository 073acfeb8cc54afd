//! Calls about memory.

use super::{Call, Outcome, of_library};
use crate::thread::Thread;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ffi::{c_int, c_void};
use std::sync::PoisonError;

const PAGE: u64 = 4096;

pub fn mmap(thread: &Thread, call: &Call) -> Outcome {
    let [at, len, rights, flags, fd, offset] = call.arguments;
    let anonymous = flags as c_int & libc::MAP_ANONYMOUS != 0;
    if anonymous || ring3_interpose::kind(fd as c_int).is_none() {
        return call.pass(thread);
    }
    let (rights, flags) = (rights as c_int, flags as c_int);
    // SAFETY: the client's own call.
    let result = unsafe {
        libc::mmap(
            at as *mut c_void,
            len as usize,
            rights,
            flags,
            fd as c_int,
            offset as i64,
        )
    };
    of_library(result as i64)
}

pub fn madvise(thread: &Thread, call: &Call) -> Outcome {
    let [at, len, advice, ..] = call.arguments;
    if advice as c_int != libc::MADV_COLLAPSE || !ring3_interpose::is_open() {
        return call.pass(thread);
    }
    // SAFETY: the client's own call.
    of_library(unsafe { libc::madvise(at as *mut c_void, len as usize, advice as c_int) }.into())
}

/// The end of the client's data, which is not that of the process: the C library that ring3 uses has its own there. Data grows as long as
/// nothing else is in the way.
pub fn brk(thread: &Thread, call: &Call) -> Outcome {
    let mut end = thread
        .process()
        .data_end
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let (start, now) = *end;
    let wanted = call.arguments[0];
    if wanted >= start {
        let (from, to) = (now.next_multiple_of(PAGE), wanted.checked_next_multiple_of(PAGE));
        let moved = to.is_some_and(|to| {
            if to > from {
                grow(from, to)
            } else {
                shrink(to, from)
            }
        });
        if moved {
            *end = (start, wanted);
        }
    }
    Outcome::Value(end.1 as i64)
}

fn grow(from: u64, to: u64) -> bool {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: nothing is replaced.
    let got = unsafe { mmap_anonymous(from as *mut c_void, (to - from) as usize, rights, flags) };
    match got {
        Ok(got) if got as u64 == from => true,
        Ok(got) => {
            // A kernel that takes the address as a wish.
            // SAFETY: the mapping has just been made.
            let _ = unsafe { munmap(got, (to - from) as usize) };
            false
        }
        Err(_) => false,
    }
}

fn shrink(to: u64, from: u64) -> bool {
    // SAFETY: the client's own data, which it gives back.
    from == to || unsafe { munmap(to as *mut c_void, (from - to) as usize) }.is_ok()
}
