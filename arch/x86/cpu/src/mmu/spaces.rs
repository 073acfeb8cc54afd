//! Address spaces: which PCID has which slot, the numbers that their translations are stamped with, and until when a
//! remembered lookup of code holds.
//!
//! Whoever remembers what code lies at a linear address stamps that with an epoch: the slot's, or, if the code was fetched
//! through global translations only, the one of those. An epoch is replaced by a new one when a translation that code was
//! fetched through may have changed. An address space that is left and entered again with its translations kept has its old
//! epoch, and finds its lookups again.
//!
//! Epochs and stamps are numbers drawn from one counter, so that no two are equal; none is zero.

use super::large::{LargePages, Span};
use super::pages::{PageFilter, PageSet};
use super::tlb::SLOTS;

/// Pages of code that are told apart in an epoch.
const MOST_CODE: usize = 1 << 16;

/// Which translations something concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of one address space.
    Local,
    /// Those that all address spaces share.
    Global,
}

/// Translations that are voided together.
#[derive(Default)]
struct Family {
    /// Stamps translations of the second level.
    stamp: u64,
    /// Stamps lookups of code.
    epoch: u64,
    /// The pages in which lookups were made since the epoch began, at most [`MOST_CODE`].
    code: PageSet,
    large: LargePages,
}

impl Family {
    /// The epoch ends if lookups may have been made in these pages.
    fn holds_code(&self, span: Span) -> bool {
        self.code.touches(span)
    }
}

#[derive(Default)]
struct Space {
    /// The PCID it belongs to.
    owner: Option<u16>,
    local: Family,
    /// Stamps what is cached of the upper levels of page tables.
    upper: u64,
}

pub struct Spaces {
    slots: [Space; SLOTS],
    global: Family,
    /// At least the pages whose global translations are in some table of the first level.
    shared: PageFilter,
    current: usize,
    next_victim: usize,
    last_number: u64,
}

impl Spaces {
    pub fn new() -> Spaces {
        let mut spaces = Spaces {
            slots: Default::default(),
            global: Family::default(),
            shared: PageFilter::default(),
            current: 0,
            next_victim: 1,
            last_number: 0,
        };
        spaces.reset(0);
        spaces
    }

    #[inline(always)]
    pub fn current(&self) -> usize {
        self.current
    }

    fn family(&self, reach: Reach) -> &Family {
        match reach {
            Reach::Local => &self.slots[self.current].local,
            Reach::Global => &self.global,
        }
    }

    fn family_mut(&mut self, reach: Reach) -> &mut Family {
        match reach {
            Reach::Local => &mut self.slots[self.current].local,
            Reach::Global => &mut self.global,
        }
    }

    /// The epoch of lookups in the current address space, or of those through global translations.
    #[inline]
    pub fn epoch(&self, reach: Reach) -> u64 {
        self.family(reach).epoch
    }

    /// The stamp of translations in the current address space, or of global ones.
    #[inline]
    pub fn stamp(&self, reach: Reach) -> u64 {
        self.family(reach).stamp
    }

    /// The stamp of a slot's translations.
    pub fn stamp_of(&self, slot: usize) -> u64 {
        self.slots[slot].local.stamp
    }

    /// The stamp of what is cached of the upper levels of the current page tables.
    #[inline]
    pub fn upper(&self) -> u64 {
        self.slots[self.current].upper
    }

    /// Notes that lookups in the pages of `linear` are about to be remembered.
    pub fn note_code(&mut self, code: &[(u64, Reach)]) {
        for (_, reach) in code {
            if self.family(*reach).code.len() + code.len() > MOST_CODE {
                self.end_all_epochs();
            }
        }
        for (linear, reach) in code {
            self.family_mut(*reach).code.insert(*linear);
        }
    }

    /// Notes that a page is entered in the current tables.
    #[inline]
    pub fn note_entered(&mut self, linear: u64, reach: Reach) {
        if reach == Reach::Global {
            self.shared.insert(linear);
        }
    }

    /// Notes that a page is a piece of a large one.
    pub fn note_large(&mut self, linear: u64, size: u64, reach: Reach) {
        self.family_mut(reach).large.note(linear, size);
    }

    /// The slot of a PCID, if it has one.
    pub fn find(&self, pcid: u16) -> Option<usize> {
        self.slots.iter().position(|space| space.owner == Some(pcid))
    }

    /// Makes `pcid` the current address space. `Err` if it has a slot only now: what that held is void.
    pub fn switch(&mut self, pcid: u16) -> Result<(), ()> {
        if let Some(slot) = self.find(pcid) {
            self.current = slot;
            return Ok(());
        }
        let victim = self.next_victim;
        self.next_victim = (victim + 1) % SLOTS;
        self.slots[victim].owner = Some(pcid);
        self.current = victim;
        Err(())
    }

    /// Voids everything: every slot is free again but the current one, which is `pcid`'s.
    pub fn reset(&mut self, pcid: u16) {
        for slot in 0..SLOTS {
            self.slots[slot].owner = None;
            self.void(slot);
        }
        self.slots[self.current].owner = Some(pcid);
        self.global.stamp = self.draw();
        self.global.large.clear();
        self.shared.clear();
        self.end_all_epochs();
    }

    /// Voids a slot's own translations.
    pub fn void(&mut self, slot: usize) {
        let (stamp, upper) = (self.draw(), self.draw());
        let space = &mut self.slots[slot];
        (space.local.stamp, space.upper) = (stamp, upper);
        space.local.large.clear();
        self.end_epoch(slot);
    }

    /// Voids what is cached of the upper levels of a slot's page tables.
    pub fn void_upper(&mut self, slot: usize) {
        self.slots[slot].upper = self.draw();
    }

    /// The pages to void with a slot's own translation of a page, which is gone after this.
    pub fn void_page(&mut self, slot: usize, linear: u64) -> Span {
        let span = self.slots[slot].local.large.span(linear);
        if self.slots[slot].local.holds_code(span) {
            self.end_epoch(slot);
        }
        span
    }

    /// The like for a global translation; `None` if no table of the first level has one.
    pub fn void_global_page(&mut self, linear: u64) -> (Span, Entered) {
        let span = self.global.large.span(linear);
        // Lookups in every address space may have been made through it: one that lies in a global page and in
        // another, or one whose maker did not ask.
        if self.global.holds_code(span) {
            self.end_all_epochs();
        }
        let entered = if self.shared.may_touch(span) {
            Entered::Perhaps
        } else {
            Entered::No
        };
        (span, entered)
    }

    /// Every lookup is made anew.
    pub fn end_all_epochs(&mut self) {
        for slot in 0..SLOTS {
            self.end_epoch(slot);
        }
        self.global.epoch = self.draw();
        self.global.code.clear();
    }

    fn end_epoch(&mut self, slot: usize) {
        self.slots[slot].local.epoch = self.draw();
        self.slots[slot].local.code.clear();
    }

    fn draw(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// Whether a page is in tables of the first level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    No,
    Perhaps,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_end_before_more_code_is_noted_than_is_told_apart() {
        let mut spaces = Spaces::new();
        let epochs = |spaces: &Spaces| (spaces.epoch(Reach::Local), spaces.epoch(Reach::Global));
        let before = epochs(&spaces);
        for page in 0..MOST_CODE as u64 {
            spaces.note_code(&[(page << 12, Reach::Global)]);
        }
        assert_eq!(epochs(&spaces), before);
        spaces.note_code(&[(1 << 40, Reach::Global), (1 << 41, Reach::Local)]);
        let after = epochs(&spaces);
        assert!(after.0 != before.0 && after.1 != before.1);
        // The new ones are noted.
        spaces.void_global_page(0);
        assert_eq!(epochs(&spaces), after);
        spaces.void_page(0, 1 << 41);
        assert_ne!(spaces.epoch(Reach::Local), after.0);
        spaces.void_global_page(1 << 40);
        assert_ne!(spaces.epoch(Reach::Global), after.1);
    }

    #[test]
    fn no_two_numbers_are_equal() {
        let mut spaces = Spaces::new();
        let mut seen = std::collections::HashSet::new();
        for pcid in 0..3 * SLOTS as u16 {
            assert!(spaces.switch(pcid).is_err() || pcid == 0);
            spaces.void(spaces.current());
            for number in [
                spaces.epoch(Reach::Local),
                spaces.stamp(Reach::Local),
                spaces.upper(),
            ] {
                assert!(number != 0 && seen.insert(number));
            }
        }
        assert_eq!(spaces.find(0), None, "the oldest lost its slot");
    }
}
