//! The dirty ring: instead of a bitmap to be searched, a list of pages, which each vCPU adds to.
//!
//! It is in the vCPU's own file, behind the run page and what follows it. The client takes entries out by marking them, and
//! KVM_RESET_DIRTY_RINGS makes room and has the pages watched again. Which pages are in a ring already the slots' dirty logs tell.
//!
//! When little room is left the vCPU goes no further. What its last instructions need beyond that waits aside, and so does what is
//! written on the VM's behalf while no vCPU runs.

use ring3_host::shared::SharedPages;
use ring3_uapi::{KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET, KvmDirtyGfn};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of an entry.
pub(crate) const ENTRY: u32 = size_of::<KvmDirtyGfn>() as u32;
/// Entries that are left free for what a vCPU still does when it is to stop.
pub(crate) const RESERVED: u32 = 64;
/// The most entries of a ring.
pub(crate) const MOST: u32 = 1 << 16;

// Fields of an entry.
const FLAGS: usize = 0;
const SLOT: usize = 4;
const OFFSET: usize = 8;

/// A page, as entries name it: slot and address space, and where in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirtyPage {
    pub slot: u32,
    pub index: u64,
}

/// A vCPU's ring.
#[derive(Debug)]
pub(crate) struct DirtyRing {
    pages: Arc<SharedPages>,
    /// Where in them.
    at: usize,
    /// A power of two.
    entries: u32,
    /// How many were ever put in, by the vCPU's thread.
    put: AtomicU32,
    /// How many of them were taken out, by whoever holds the slots' lock.
    reset: AtomicU32,
    waiting: Mutex<VecDeque<DirtyPage>>,
}

impl DirtyRing {
    /// An empty ring of `bytes` from `at` on.
    pub fn new(pages: Arc<SharedPages>, at: usize, bytes: u32) -> DirtyRing {
        DirtyRing {
            pages,
            at,
            entries: bytes / ENTRY,
            put: AtomicU32::new(0),
            reset: AtomicU32::new(0),
            waiting: Mutex::default(),
        }
    }

    fn used(&self) -> u32 {
        self.put.load(Relaxed).wrapping_sub(self.reset.load(Acquire))
    }

    fn entry(&self, number: u32) -> usize {
        self.at + (number & (self.entries - 1)) as usize * ENTRY as usize
    }

    /// Adds a page, by the vCPU's thread. Whether the vCPU is to stop.
    pub fn push(&self, page: DirtyPage) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back(page);
        self.settle(&mut waiting)
    }

    /// Whether the vCPU may not run.
    pub fn is_full(&self) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.settle(&mut waiting)
    }

    /// Puts in what waits, as far as there is room.
    fn settle(&self, waiting: &mut VecDeque<DirtyPage>) -> bool {
        while self.used() < self.entries
            && let Some(page) = waiting.pop_front()
        {
            let number = self.put.load(Relaxed);
            let at = self.entry(number);
            self.pages.atomic_u32(at + SLOT).store(page.slot, Relaxed);
            self.pages.atomic_u64(at + OFFSET).store(page.index, Relaxed);
            self.pages
                .atomic_u32(at + FLAGS)
                .store(KVM_DIRTY_GFN_F_DIRTY, Release);
            self.put.store(number.wrapping_add(1), Relaxed);
        }
        self.used() >= self.entries - RESERVED
    }

    /// Takes out what the client has marked, and says which pages it names: that need not be those that were put in. How many.
    pub fn take_out(&self, mut each: impl FnMut(DirtyPage)) -> u32 {
        let mut count = 0;
        while self.used() != 0 {
            let number = self.reset.load(Relaxed);
            let at = self.entry(number);
            let flags = self.pages.atomic_u32(at + FLAGS);
            if flags.load(Acquire) & KVM_DIRTY_GFN_F_RESET == 0 {
                break;
            }
            each(DirtyPage {
                slot: self.pages.atomic_u32(at + SLOT).load(Relaxed),
                index: self.pages.atomic_u64(at + OFFSET).load(Relaxed),
            });
            flags.store(0, Release);
            self.reset.store(number.wrapping_add(1), Release);
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn page(index: u64) -> DirtyPage {
        DirtyPage { slot: 3, index }
    }

    /// The client's side: the next `count` pages, marked.
    fn harvest(ring: &DirtyRing, next: &mut u32, most: usize) -> Vec<u64> {
        let mut found = Vec::new();
        while found.len() < most {
            let at = ring.entry(*next);
            let entry: KvmDirtyGfn = ring.pages.load(at);
            if entry.flags != KVM_DIRTY_GFN_F_DIRTY {
                break;
            }
            found.push(entry.offset);
            ring.pages.atomic_u32(at).store(KVM_DIRTY_GFN_F_RESET, Release);
            *next = next.wrapping_add(1);
        }
        found
    }

    #[test]
    fn pages_come_out_as_they_went_in_and_none_is_lost() {
        let pages = Arc::new(SharedPages::create("ring", 2).unwrap().0);
        let ring = DirtyRing::new(pages, PAGE, PAGE as u32);
        let (mut sent, mut got, mut next) = (0, Vec::new(), 0);
        for round in 0..50u64 {
            while !ring.push(page(sent)) {
                sent += 1;
            }
            sent += 1;
            // What the last instructions do, more than there is room for.
            for _ in 0..round * 3 {
                assert!(ring.push(page(sent)));
                sent += 1;
            }
            assert!(ring.is_full());
            while ring.is_full() {
                got.extend(harvest(&ring, &mut next, 100));
                let mut named = 0;
                assert_eq!(ring.take_out(|_| named += 1), named);
                assert!(named > 0);
            }
        }
        got.extend(harvest(&ring, &mut next, usize::MAX));
        ring.take_out(|_| ());
        assert!(got.iter().copied().eq(0..sent), "{} of {sent}", got.len());
    }

    #[test]
    fn marks_where_nothing_is_mean_nothing() {
        let pages = Arc::new(SharedPages::create("ring", 2).unwrap().0);
        let ring = DirtyRing::new(Arc::clone(&pages), PAGE, PAGE as u32);
        for entry in 0..256 {
            pages
                .atomic_u32(PAGE + entry * 16)
                .store(KVM_DIRTY_GFN_F_RESET, Relaxed);
        }
        assert_eq!(ring.take_out(|_| ()), 0);
        assert!(!ring.push(page(1)));
        assert_eq!(ring.take_out(|_| ()), 0, "not marked");
        pages.atomic_u32(PAGE).store(u32::MAX, Relaxed);
        pages.atomic_u64(PAGE + 8).store(u64::MAX, Relaxed);
        let mut named = Vec::new();
        assert_eq!(ring.take_out(|page| named.push(page)), 1);
        assert_eq!(
            named,
            [DirtyPage {
                slot: 3,
                index: u64::MAX
            }]
        );
    }
}
