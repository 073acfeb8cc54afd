//! Whether this is still the process that it was; where it runs, and what it may do.
//!
//! A forked child has copies of everything but the threads, and must not use what they served. A child of `vfork`
//! shares all memory with its parent, and must not change what is the parent's.

use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicU32};

/// A word that reads as zero in a forked child; null as long as nobody asked.
static MARK: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());
/// The process that asked.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Its number.
pub fn id() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get() as u32
}

/// The calling thread's number.
pub fn thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// The host's processor that the calling thread is on, or was a moment ago.
pub fn current_cpu() -> usize {
    rustix::thread::sched_getcpu()
}

/// Whether the process may restart the machine (CAP_SYS_BOOT).
pub fn may_restart_machine() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_BOOT))
}

/// What the word says.
const CHILD: u32 = 0;
const REMEMBERED: u32 = 1;
const SETTLING: u32 = 2;

/// Remembers the process, so that a child is known as such.
pub fn remember() -> std::io::Result<()> {
    if MARK.load(Acquire).is_null() {
        let mark = new_mark()?;
        // SAFETY: the page is mapped for ever.
        unsafe { &*mark }.store(REMEMBERED, Relaxed);
        OWNER.store(id(), Relaxed);
        // If another thread was first, its page does, and this one is left alone.
        let _ = MARK.compare_exchange(std::ptr::null_mut(), mark, Release, Relaxed);
    }
    Ok(())
}

/// In a forked child: makes it a process of its own by `work`, which one thread does and the others wait for. Does nothing
/// elsewhere.
pub fn settle(work: impl FnOnce()) {
    let mark = MARK.load(Acquire);
    if mark.is_null() {
        return;
    }
    // SAFETY: the page is mapped for ever.
    let mark = unsafe { &*mark };
    if mark.compare_exchange(CHILD, SETTLING, Acquire, Relaxed).is_ok() {
        work();
        OWNER.store(id(), Relaxed);
        mark.store(REMEMBERED, Release);
    }
    while mark.load(Acquire) == SETTLING {
        std::thread::yield_now();
    }
}

/// A page that the kernel wipes in a forked child. It is never unmapped.
fn new_mark() -> std::io::Result<*mut AtomicU32> {
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
    let page = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4096, rights, MapFlags::PRIVATE) }?;
    // SAFETY: the page is ours; only what children see of it changes.
    unsafe { rustix::mm::madvise(page, 4096, Advice::LinuxWipeOnFork) }?;
    Ok(page.cast())
}

/// Whether this is a forked child of the process remembered, which has not settled. Two loads.
#[inline]
pub fn is_forked_child() -> bool {
    let mark = MARK.load(Acquire);
    // SAFETY: the page is mapped for ever.
    !mark.is_null() && unsafe { &*mark }.load(Acquire) != REMEMBERED
}

/// Whether this is any other process than the one remembered, a child of `vfork` included. A system call.
pub fn is_another() -> bool {
    let owner = OWNER.load(Relaxed);
    owner != 0 && owner != id()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_knows_that_it_is_one() {
        remember().unwrap();
        assert!(!is_forked_child() && !is_another());
        settle(|| panic!("the process is no child"));
        // SAFETY: the child only makes system calls and ends.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                let before = is_forked_child() && is_another();
                let mut settled = 0;
                settle(|| settled += 1);
                settle(|| settled += 1);
                let after = settled == 1 && !is_forked_child() && !is_another();
                libc::_exit(if before && after { 0 } else { 1 });
            }
            let mut status = 0;
            libc::waitpid(child, &mut status, 0);
            status
        };
        assert_eq!(status, 0);
        assert!(!is_forked_child());
    }
}
