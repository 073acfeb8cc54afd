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
use super::pages::PageSet;
use super::tlb::SLOTS;

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
    /// At least the pages in which lookups were made since the epoch began.
    code: PageSet,
    large: LargePages,
}

impl Family {
    /// The epoch ends if lookups may have been made in these pages.
    fn holds_code(&self, span: Span) -> bool {
        self.code.may_touch(span)
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
    shared: PageSet,
    current: usize,
    next_victim: usize,
    last_number: u64,
}

impl Spaces {
    pub fn new() -> Spaces {
        let mut spaces = Spaces {
            slots: Default::default(),
            global: Family::default(),
            shared: PageSet::default(),
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

    /// Notes that a lookup in the page of `linear` is about to be remembered.
    #[inline]
    pub fn note_code(&mut self, linear: u64, reach: Reach) {
        self.family_mut(reach).code.insert(linear);
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
        (self.global.stamp, self.global.epoch) = (self.draw(), self.draw());
        self.global.code.clear();
        self.global.large.clear();
        self.shared.clear();
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
            for slot in 0..SLOTS {
                self.end_epoch(slot);
            }
            self.global.epoch = self.draw();
            self.global.code.clear();
        }
        let entered = if self.shared.may_touch(span) {
            Entered::Perhaps
        } else {
            Entered::No
        };
        (span, entered)
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
