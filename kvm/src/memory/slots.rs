//! A slot, and the slots of an address space as an immutable snapshot.

use super::code::SlotCode;
use super::dirty::DirtyLog;
use ring3_host::mem::{HostPage, HostRegion};
use ring3_uapi::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use std::sync::Arc;

/// A memory slot.
#[derive(Debug)]
pub struct Slot {
    pub(super) space: u16,
    pub(super) id: u16,
    pub(super) base: u64,
    pub(super) flags: u32,
    pub(super) region: HostRegion,
    pub(super) dirty: Option<Arc<DirtyLog>>,
    pub(super) code: SlotCode,
}

impl Slot {
    /// The address space.
    pub fn space(&self) -> u16 {
        self.space
    }

    pub fn id(&self) -> u16 {
        self.id
    }

    /// The guest page number of its first page.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// How many pages.
    pub fn pages(&self) -> u64 {
        self.region.pages()
    }

    /// The guest page number after its last.
    pub fn end(&self) -> u64 {
        self.base + self.pages()
    }

    /// The client's memory behind it.
    pub fn region(&self) -> &HostRegion {
        &self.region
    }

    pub fn flags(&self) -> u32 {
        self.flags
    }

    pub fn readonly(&self) -> bool {
        self.flags & KVM_MEM_READONLY != 0
    }

    pub fn logged(&self) -> bool {
        self.flags & KVM_MEM_LOG_DIRTY_PAGES != 0
    }

    #[inline]
    fn page(&self, gfn: u64) -> Option<SlotPage<'_>> {
        let index = gfn.checked_sub(self.base)?;
        let page = self.region.page(index)?;
        Some(SlotPage {
            slot: self,
            index,
            page,
        })
    }
}

/// A page of a slot.
#[derive(Clone, Copy, Debug)]
pub struct SlotPage<'a> {
    slot: &'a Slot,
    index: u64,
    page: HostPage,
}

impl<'a> SlotPage<'a> {
    /// The memory.
    #[inline]
    pub fn host(&self) -> HostPage {
        self.page
    }

    pub fn slot(&self) -> &'a Slot {
        self.slot
    }

    /// The guest page number.
    pub fn gfn(&self) -> u64 {
        self.slot.base + self.index
    }

    /// Whether the guest may write it; if not, a write is MMIO.
    #[inline]
    pub fn writable(&self) -> bool {
        !self.slot.readonly()
    }

    /// Enters it in the dirty log, if there is one: before the write, or before it becomes writable in a TLB.
    #[inline]
    pub fn mark_dirty(&self) {
        if let Some(log) = &self.slot.dirty {
            log.mark(self.index);
        }
    }

    /// Whether, marked dirty, it may be written without asking again: see [`crate::memory`].
    #[inline]
    pub fn direct_write(&self) -> bool {
        self.writable() && !self.has_code()
    }

    /// Whether any line of it holds translated code.
    #[inline]
    pub fn has_code(&self) -> bool {
        self.code_lines() != 0
    }

    /// The lines of it that hold translated code.
    #[inline]
    pub fn code_lines(&self) -> u64 {
        self.slot
            .code
            .lines(self.page)
            .load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// The slots of an address space.
#[derive(Debug, Default)]
pub struct Memslots {
    /// By guest page number.
    slots: Vec<Arc<Slot>>,
}

impl Memslots {
    /// The page with guest page number `gfn`.
    #[inline]
    pub fn lookup(&self, gfn: u64) -> Option<SlotPage<'_>> {
        self.lookup_from(&mut 0, gfn)
    }

    /// As [`Memslots::lookup`], by way of the place where a page was found before: mostly, it is the same slot.
    #[inline]
    pub(super) fn lookup_from(&self, last: &mut usize, gfn: u64) -> Option<SlotPage<'_>> {
        if let Some(page) = self.slots.get(*last).and_then(|slot| slot.page(gfn)) {
            return Some(page);
        }
        let after = self.slots.partition_point(|slot| slot.base <= gfn);
        let place = after.checked_sub(1)?;
        let page = self.slots.get(place)?.page(gfn)?;
        *last = place;
        Some(page)
    }

    /// All slots, by guest page number.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.slots.iter()
    }

    pub(super) fn by_id(&self, id: u16) -> Option<&Arc<Slot>> {
        self.slots.iter().find(|slot| slot.id == id)
    }

    /// Whether a slot other than `id` has pages from `base` up to `end`.
    pub(super) fn overlaps(&self, id: u16, base: u64, end: u64) -> bool {
        self.slots
            .iter()
            .any(|slot| slot.id != id && slot.base < end && base < slot.end())
    }

    /// The same slots, but for the one with this id.
    pub(super) fn with(&self, id: u16, slot: Option<Arc<Slot>>) -> Memslots {
        let mut slots: Vec<_> = self.slots.iter().filter(|slot| slot.id != id).cloned().collect();
        slots.extend(slot);
        slots.sort_by_key(|slot| slot.base);
        Memslots { slots }
    }
}
