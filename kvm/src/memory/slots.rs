//! A slot, and the slots of an address space as an immutable snapshot.
//!
//! A snapshot shares nearly all of itself with the one before: slots are in runs, and a change copies one run and the list of
//! runs.

use super::code::SlotCode;
use super::dirty::DirtyLog;
use super::guest_memfd::Binding;
use super::ranges::Ranges;
use crate::vcpu::dirty_ring::DirtyPage;
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
    /// The guest_memfd behind its private pages.
    pub(super) guest: Option<Binding>,
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

    /// The client's memory behind it, or behind what is not private of it.
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

    /// Every region of this process's memory that it shows.
    pub(super) fn regions(&self) -> impl Iterator<Item = &HostRegion> {
        let guest = self.guest.as_ref().map(Binding::region);
        [Some(&self.region), guest].into_iter().flatten()
    }

    #[inline]
    fn page(&self, gfn: u64, private: &Ranges) -> Option<SlotPage<'_>> {
        let index = gfn.checked_sub(self.base)?;
        let mut page = self.region.page(index)?;
        let mut code = &self.code;
        // Without private pages and a guest_memfd there is but one place.
        let is_private = private.has(gfn);
        if is_private || self.guest.is_some() {
            (page, code) = self.place(index, is_private, page)?;
        }
        Some(SlotPage {
            slot: self,
            index,
            page,
            code,
        })
    }

    /// Where the page is, private or not; `None` if it is nowhere.
    fn place(&self, index: u64, private: bool, shared: HostPage) -> Option<(HostPage, &SlotCode)> {
        match &self.guest {
            Some(guest) if private || guest.is_all() => Some((guest.page(index)?, guest.code())),
            None if private => None,
            _ => Some((shared, &self.code)),
        }
    }
}

/// A page of a slot.
#[derive(Clone, Copy, Debug)]
pub struct SlotPage<'a> {
    slot: &'a Slot,
    index: u64,
    page: HostPage,
    code: &'a SlotCode,
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

    /// Enters it in the dirty log, if there is one. Whether it was not there, and is to go to a dirty ring, too.
    #[inline]
    pub(crate) fn mark_dirty(&self) -> bool {
        self.slot.dirty.as_ref().is_some_and(|log| log.mark(self.index))
    }

    /// It, as a dirty ring names it.
    pub(crate) fn dirty(&self) -> DirtyPage {
        DirtyPage {
            slot: u32::from(self.slot.space) << 16 | u32::from(self.slot.id),
            index: self.index,
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
        self.code_word().load(std::sync::atomic::Ordering::SeqCst)
    }

    /// The word with those lines.
    #[inline]
    pub(super) fn code_word(&self) -> &'a std::sync::atomic::AtomicU64 {
        self.code.lines(self.page)
    }
}

/// Slots that follow each other, never none.
type Run = Vec<Arc<Slot>>;

/// A run that grows beyond this is parted.
const LONGEST: usize = 128;

/// The slots of an address space.
#[derive(Clone, Debug, Default)]
pub struct Memslots {
    /// By guest page number, each with its first.
    runs: Vec<(u64, Arc<Run>)>,
    private: Arc<Ranges>,
}

/// A place among the slots: the run, and where in it.
pub(super) type Place = (usize, usize);

impl Memslots {
    /// The page with guest page number `gfn`.
    #[inline]
    pub fn lookup(&self, gfn: u64) -> Option<SlotPage<'_>> {
        self.lookup_from(&mut (0, 0), gfn)
    }

    /// As [`Memslots::lookup`], by way of the place where a page was found before: mostly, it is the same slot.
    #[inline]
    pub(super) fn lookup_from(&self, last: &mut Place, gfn: u64) -> Option<SlotPage<'_>> {
        let near = self.runs.get(last.0).and_then(|(_, run)| run.get(last.1));
        if let Some(page) = near.and_then(|slot| slot.page(gfn, &self.private)) {
            return Some(page);
        }
        let place = self.place_of(gfn)?;
        let page = self.runs[place.0].1[place.1].page(gfn, &self.private)?;
        *last = place;
        Some(page)
    }

    /// Whether the page is private by its attributes, be there a slot or not.
    pub fn is_private(&self, gfn: u64) -> bool {
        self.private.has(gfn)
    }

    /// Whether the slot that the page is in, if it is in one, has it in its guest_memfd, private or not.
    pub fn is_in_guest_memfd(&self, gfn: u64) -> bool {
        let slot = self.place_of(gfn).map(|(run, at)| &self.runs[run].1[at]);
        slot.is_some_and(|slot| gfn < slot.end() && slot.guest.as_ref().is_some_and(Binding::is_all))
    }

    /// Where the last slot is that begins at `gfn` or before it.
    fn place_of(&self, gfn: u64) -> Option<Place> {
        let run = self
            .runs
            .partition_point(|&(first, _)| first <= gfn)
            .checked_sub(1)?;
        let after = self.runs[run].1.partition_point(|slot| slot.base <= gfn);
        Some((run, after - 1))
    }

    /// All slots, by guest page number.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.runs.iter().flat_map(|(_, run)| run.iter())
    }

    /// Whether a slot other than `id` has pages from `base` up to `end`.
    pub(super) fn overlaps(&self, id: u16, base: u64, end: u64) -> bool {
        let (mut run, mut at) = self.place_of(base).unwrap_or((0, 0));
        // Slots do not overlap each other, so the second that ends behind `base` begins behind it, too.
        while let Some((_, slots)) = self.runs.get(run) {
            for slot in &slots[at..] {
                if slot.base >= end {
                    return false;
                }
                if slot.id != id && base < slot.end() {
                    return true;
                }
            }
            (run, at) = (run + 1, 0);
        }
        false
    }

    /// The same slots without one of them.
    pub(super) fn without(&self, slot: &Slot) -> Memslots {
        let mut new = self.clone();
        if let Some((run, _)) = self.place_of(slot.base) {
            let mut slots: Run = Vec::clone(&self.runs[run].1);
            slots.retain(|other| other.id != slot.id);
            // What has become short goes together with what follows, if there is room.
            let next = self.runs.get(run + 1).map(|(_, next)| next);
            let next = next.filter(|next| slots.len() + next.len() <= LONGEST / 2);
            if let Some(next) = next {
                slots.extend(next.iter().cloned());
                new.runs.remove(run + 1);
            }
            match slots.first() {
                Some(first) => new.runs[run] = (first.base, Arc::new(slots)),
                None => drop(new.runs.remove(run)),
            }
        }
        new
    }

    /// The same slots and one more, which overlaps none.
    pub(super) fn with(&self, slot: Arc<Slot>) -> Memslots {
        let mut new = self.clone();
        let run = self.place_of(slot.base).map_or(0, |(run, _)| run);
        let mut slots = self
            .runs
            .get(run)
            .map(|(_, run)| Vec::clone(run))
            .unwrap_or_default();
        let at = slots.partition_point(|other| other.base <= slot.base);
        slots.insert(at, slot);
        let rest = (slots.len() > LONGEST).then(|| slots.split_off(slots.len() / 2));
        let runs = [Some(slots), rest].into_iter().flatten();
        let runs = runs.map(|run| (run[0].base, Arc::new(run)));
        new.runs.splice(run..(run + 1).min(self.runs.len()), runs);
        new
    }

    pub(super) fn private(&self) -> &Ranges {
        &self.private
    }

    /// The same slots, with other private pages.
    pub(super) fn with_private(&self, private: Ranges) -> Memslots {
        Memslots {
            runs: self.runs.clone(),
            private: Arc::new(private),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::code::CodeMaps;
    use std::collections::BTreeMap;

    fn slot(code: &CodeMaps, id: u16, base: u64, pages: u64) -> Arc<Slot> {
        let at = 0x1000_0000 + u64::from(id) * 0x10_0000;
        let region = HostRegion::from_client(at, pages * 4096).unwrap();
        Arc::new(Slot {
            space: 0,
            id,
            base,
            flags: 0,
            region,
            dirty: None,
            code: code.of(&region).unwrap(),
            guest: None,
        })
    }

    /// Slots of up to 8 pages, one at each of the multiples of 8 that are in the model.
    #[test]
    fn many_slots_come_and_go() {
        let code = CodeMaps::default();
        let mut model: BTreeMap<u64, Arc<Slot>> = BTreeMap::new();
        let mut slots = Memslots::default();
        let mut hint = (0, 0);
        let mut seed = 7u64;
        let mut random = |below: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for turn in 0..20_000u32 {
            // First it mostly grows, then it shrinks.
            let id = random(2000) as u16;
            let base = u64::from(id) * 8;
            let grow = random(10) < if turn < 12_000 { 8 } else { 2 };
            match model.get(&base).cloned() {
                None if grow => {
                    let new = slot(&code, id, base, 1 + random(8));
                    assert!(!slots.overlaps(id, new.base(), new.end()));
                    slots = slots.with(Arc::clone(&new));
                    model.insert(base, new);
                }
                Some(old) if !grow => {
                    slots = slots.without(&old);
                    model.remove(&base);
                }
                _ => {}
            }
            let gfn = random(2000 * 8);
            let expected = model.range(..=gfn).next_back();
            let expected = expected.filter(|(_, slot)| gfn < slot.end());
            for found in [slots.lookup(gfn), slots.lookup_from(&mut hint, gfn)] {
                assert_eq!(
                    found.map(|page| page.slot().id()),
                    expected.map(|(_, slot)| slot.id())
                );
            }
            let end = gfn + 1 + random(40);
            let id = random(2000) as u16;
            let overlap = model
                .values()
                .any(|slot| slot.id() != id && slot.base() < end && gfn < slot.end());
            assert_eq!(slots.overlaps(id, gfn, end), overlap, "{gfn:#x} to {end:#x}");
        }
        assert!(
            slots
                .iter()
                .map(|slot| slot.id())
                .eq(model.values().map(|slot| slot.id()))
        );
        assert!(slots.runs.len() > 1 && slots.runs.iter().all(|(_, run)| run.len() <= LONGEST));
    }
}
