//! Where the threads' own memory is: an area each, in a reserved range of addresses.
//!
//! An area is a [`Thread`] at its beginning, and above it the stack on which the kernel delivers the thread's signals. So the handler
//! knows whose signal it has by its stack pointer, while the thread-local storage that is in place is the client's, and knows, too,
//! the threads of ring3's own, whose stacks are elsewhere.

use crate::thread::Thread;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect};
use std::ffi::c_void;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of an area, which begins at a multiple of that.
pub const SIZE: usize = 1 << 17;
/// As much of it is the thread's data; a page that nobody may touch follows.
const DATA: usize = SIZE / 2 - PAGE;
const PAGE: usize = 4096;
/// Areas that there may be.
const COUNT: usize = 1 << 13;

/// Bytes of all areas.
pub const ALL: usize = SIZE * COUNT;

/// Where they begin; the handler reads it.
pub static FIRST: AtomicU64 = AtomicU64::new(u64::MAX);

#[derive(Debug)]
pub struct Pool {
    used: usize,
    free: Vec<usize>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    used: 0,
    free: Vec::new(),
});

/// Reserves the addresses.
pub fn reserve() -> Result<(), Errno> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
    let all = unsafe { mmap_anonymous(std::ptr::null_mut(), ALL + SIZE, ProtFlags::empty(), flags) }?;
    FIRST.store((all as u64).next_multiple_of(SIZE as u64), Relaxed);
    Ok(())
}

/// A new area, all zeroes.
pub fn take() -> Result<*mut Thread, Errno> {
    const { assert!(size_of::<Thread>() <= DATA) };
    let mut pool = hold();
    let index = match pool.free.pop() {
        Some(index) => index,
        None if pool.used == COUNT => return Err(Errno::AGAIN),
        None => pool.used,
    };
    let at = FIRST.load(Relaxed) as usize + index * SIZE;
    let rights = MprotectFlags::READ | MprotectFlags::WRITE;
    for (from, len) in [(at, DATA), (at + SIZE / 2, SIZE / 2)] {
        // SAFETY: both parts are within the reservation, and nobody's.
        unsafe { mprotect(from as *mut c_void, len, rights) }?;
    }
    pool.used = pool.used.max(index + 1);
    Ok(at as *mut Thread)
}

/// Gives an area back.
///
/// # Safety
/// Its thread will not run in it again, nor get a signal on its stack.
pub unsafe fn give_back(thread: *mut Thread) {
    // SAFETY: nobody uses it any more.
    let wiped = unsafe { madvise(thread.cast(), SIZE, Advice::LinuxDontNeed) };
    if wiped.is_ok() {
        let index = (thread as usize - FIRST.load(Relaxed) as usize) / SIZE;
        hold().free.push(index);
    }
}

/// Keeps others from taking areas.
pub fn hold() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stack of an area, for the kernel.
pub fn signal_stack(thread: *const Thread) -> libc::stack_t {
    libc::stack_t {
        ss_sp: (thread as usize + SIZE / 2) as *mut c_void,
        ss_flags: 0,
        ss_size: SIZE / 2,
    }
}
