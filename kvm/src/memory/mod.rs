//! Guest memory: slots over the client's own memory, their dirty logs, and where translated code lies.
//!
//! # Reading the slots
//!
//! The slots of an address space are an immutable snapshot ([`Memslots`]). A vCPU keeps one in a [`SlotsView`] and looks
//! pages up in it without locks. A change swaps the snapshot and then waits until every vCPU has been out of guest mode
//! ([`Request::SLOTS_CHANGED`]), so when KVM_SET_USER_MEMORY_REGION returns none can reach what was removed. Threads that are
//! not in guest mode use [`Memory::read`] and [`Memory::write`], which hold the snapshot's lock while they copy; the swap
//! waits for that.
//!
//! # When a page may be written directly
//!
//! A vCPU may keep a page writable in its TLB ([`SlotPage::direct_write`]) while the slot is writable, the page holds no
//! translated code, and it is in the dirty log already (or there is none). The three change like this:
//!
//! * *The log is read and cleared*: the bits are taken, then every vCPU is asked to flush and waited for, then the client
//!   gets the bits. A write through an old TLB entry happened before the wait ended, and its page's bit was among those taken,
//!   since a page enters the log before the TLB. A later write finds no TLB entry and marks the page again.
//! * *Code appears* ([`code`]): lines are marked, then the other vCPUs lose their TLB entries for the page and are waited for,
//!   and only then are the bytes read to be translated. A write that the translator misses comes after, finds the page not
//!   direct, and is reported.
//! * *The slot changes*, or whether a page is private: all of the above at once, by SLOTS_CHANGED.
//!
//! # Private pages
//!
//! Where a VM has such, whether a page is private is part of the snapshot, too ([`attributes`]). A private page is in the slot's
//! guest_memfd ([`guest_memfd`]) and is nowhere if the slot has none.

mod access;
mod attributes;
mod book;
pub mod code;
mod dirty;
pub(crate) mod guest_memfd;
mod ranges;
mod region;
mod slots;

pub use code::Lines;
pub use dirty::DirtyLog;
pub use guest_memfd::GuestMemfd;
pub use region::SlotSpec;
pub use slots::{Memslots, Slot, SlotPage};

use crate::ranks;
use crate::stats::{VmStats, rows};
use crate::vcpu::dirty_ring::DirtyPage;
use crate::vcpu::{Request, Seats};
use book::Book;
use code::CodeMaps;
use ring3_host::lock::RankedMutex;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

/// What an architecture allows of memslots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLimits {
    /// Slots of one address space that the client may use.
    pub user_slots: u16,
    /// 2 where system management mode sees memory of its own.
    pub address_spaces: u16,
    pub readonly: bool,
    /// Whether there is guest_memfd, and a type of VM with private pages.
    pub private: bool,
}

/// An address space: which view of memory a vCPU has.
#[derive(Debug, Default)]
struct Space {
    current: RwLock<Arc<Memslots>>,
    generation: AtomicU64,
}

impl Space {
    fn read(&self) -> RwLockReadGuard<'_, Arc<Memslots>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A VM's memory.
#[derive(Debug)]
pub struct Memory {
    /// Tells VMs apart.
    id: u64,
    limits: SlotLimits,
    private: bool,
    spaces: Box<[Space]>,
    seats: Arc<Seats>,
    stats: Arc<VmStats>,
    code: CodeMaps,
    /// Held by whoever changes slots or attributes, or clears logs.
    changes: RankedMutex<Book>,
    /// What the book says, for everybody: whether memory may be shown by more than one slot.
    aliased: AtomicBool,
    /// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
    manual_protect: AtomicU64,
    /// Bytes of each vCPU's dirty ring, or zero.
    dirty_ring_size: AtomicU32,
    /// What has to go to a dirty ring, and whether there is anything.
    unclaimed: Mutex<Vec<DirtyPage>>,
    any_unclaimed: AtomicBool,
}

impl Memory {
    /// `private` says whether pages can be private.
    pub(crate) fn new(limits: SlotLimits, private: bool, seats: &Arc<Seats>, stats: &Arc<VmStats>) -> Memory {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let limits = SlotLimits {
            // As in Linux.
            address_spaces: if private { 1 } else { limits.address_spaces },
            ..limits
        };
        Memory {
            id: LAST.fetch_add(1, Relaxed),
            limits,
            private,
            spaces: (0..limits.address_spaces).map(|_| Space::default()).collect(),
            seats: Arc::clone(seats),
            stats: Arc::clone(stats),
            code: CodeMaps::default(),
            changes: RankedMutex::new(ranks::SLOTS, Book::default()),
            aliased: AtomicBool::new(false),
            manual_protect: AtomicU64::new(0),
            dirty_ring_size: AtomicU32::new(0),
            unclaimed: Mutex::default(),
            any_unclaimed: AtomicBool::new(false),
        }
    }

    pub(crate) fn address_spaces(&self) -> u16 {
        self.limits.address_spaces
    }

    /// Whether the VM's pages can be private.
    fn has_private(&self) -> bool {
        self.private
    }

    /// The slots of an address space now. Holding them keeps no change from happening; see the module's head.
    pub fn slots(&self, space: u16) -> Arc<Memslots> {
        self.spaces
            .get(usize::from(space))
            .map_or_else(Arc::default, |space| Arc::clone(&space.read()))
    }

    /// A view for a vCPU.
    pub fn view(&self, space: u16) -> SlotsView {
        let generation = self.generation(space);
        SlotsView {
            space,
            generation,
            slots: self.slots(space),
            last: (0, 0),
        }
    }

    #[inline]
    fn generation(&self, space: u16) -> u64 {
        self.spaces
            .get(usize::from(space))
            .map_or(0, |space| space.generation.load(Acquire))
    }

    fn publish(&self, space: u16, slots: Memslots) {
        let Some(space) = self.spaces.get(usize::from(space)) else {
            return;
        };
        let new = Arc::new(slots);
        let old = std::mem::replace(
            &mut *space.current.write().unwrap_or_else(PoisonError::into_inner),
            new,
        );
        space.generation.fetch_add(1, Release);
        drop(old);
    }

    /// KVM_ENABLE_CAP of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, checked.
    pub(crate) fn set_manual_protect(&self, options: u64) {
        self.manual_protect.store(options, Relaxed);
    }

    /// Has every vCPU forget what it keeps of pages, and waits until each was out of guest mode.
    fn flush_all(&self, request: Request) {
        let interrupted = self.seats.request_all_and_wait(None, request);
        let counts = self.stats.shown();
        counts.at(rows::REMOTE_TLB_FLUSH_REQUESTS).add(1);
        counts.at(rows::REMOTE_TLB_FLUSH).add(interrupted.into());
    }

    fn manual_protect(&self) -> u64 {
        self.manual_protect.load(Relaxed)
    }
}

/// A vCPU's own handle on the slots of its address space.
#[derive(Clone, Debug)]
pub struct SlotsView {
    space: u16,
    generation: u64,
    slots: Arc<Memslots>,
    /// The place among the slots of the one found last.
    last: slots::Place,
}

impl SlotsView {
    /// The page that guest page number `gfn` is, by the newest slots.
    #[inline]
    pub fn lookup(&mut self, memory: &Memory, gfn: u64) -> Option<SlotPage<'_>> {
        self.refresh(memory);
        self.slots.lookup_from(&mut self.last, gfn)
    }

    /// The newest slots.
    pub fn slots(&mut self, memory: &Memory) -> &Memslots {
        self.refresh(memory);
        &self.slots
    }

    pub fn space(&self) -> u16 {
        self.space
    }

    /// Changes the address space (entering or leaving system management mode).
    pub fn set_space(&mut self, memory: &Memory, space: u16) {
        if space != self.space {
            *self = memory.view(space);
        }
    }

    #[inline]
    fn refresh(&mut self, memory: &Memory) {
        if memory.generation(self.space) != self.generation {
            self.renew(memory);
        }
    }

    #[cold]
    fn renew(&mut self, memory: &Memory) {
        *self = memory.view(self.space);
    }
}
