//! What voids translations: MOV to CR3, INVLPG, INVPCID, changes of mode, and the client.
//!
//! Translated code and [`crate::block`] remember where code lies by linear address. They hold what they know against
//! [`Core::epoch`] and [`Core::global_epoch`]; so whatever voids a translation here also ends the epoch of lookups made
//! through it, and asks for [`Attention::RESYNC`], unless no code was fetched through it.

use super::Mmu;
use super::spaces::Reach;
use super::tlb::CLASSES;
use crate::Core;
use crate::core::Attention;
use crate::state::CR4_PCIDE;

/// What becomes of the cached translations of an address space that is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    Kept,
    Void,
}

impl Mmu {
    /// Makes `pcid` the current address space.
    fn switch(&mut self, pcid: u16, cached: Cached) {
        let known = self.spaces.switch(pcid);
        self.choose_table();
        if known.is_err() || cached == Cached::Void {
            self.flush_slot(self.spaces.current());
        }
    }

    fn flush_slot(&mut self, slot: usize) {
        for table in &mut self.tables[slot * CLASSES..(slot + 1) * CLASSES] {
            table.clear();
        }
        self.spaces.renew(slot);
    }

    /// Voids every translation of every address space, and what is known of guest-physical pages.
    fn flush_all(&mut self, pcid: u16) {
        for table in &mut self.tables {
            table.clear();
        }
        self.spaces.reset(pcid);
        self.large = [None; 2];
        self.walk_cache.clear();
    }

    /// Voids the translation of one linear page, in every address space (more than INVLPG promises).
    fn flush_page(&mut self, linear: u64, pcid: u16) {
        if self.may_be_large(linear) {
            self.flush_all(pcid);
            return;
        }
        for table in &mut self.tables {
            table.clear_page(linear);
        }
        self.spaces.page_voided(self.spaces.current(), linear);
        self.spaces.global_page_voided(linear);
    }

    /// Voids the translation of a page in one slot.
    fn flush_page_of(&mut self, slot: usize, linear: u64) {
        if self.may_be_large(linear) {
            self.flush_slot(slot);
            return;
        }
        for table in &mut self.tables[slot * CLASSES..(slot + 1) * CLASSES] {
            table.clear_page(linear);
        }
        self.spaces.page_voided(slot, linear);
    }

    fn may_be_large(&self, linear: u64) -> bool {
        let half = (linear >> 63) as usize;
        self.large[half].is_some_and(|(low, high)| (low..=high).contains(&linear))
    }
}

impl Core {
    fn pcid(&self) -> u16 {
        if self.state.cr4 & CR4_PCIDE != 0 {
            (self.state.cr3 & 0xfff) as u16
        } else {
            0
        }
    }

    /// CR3 was written.
    pub(crate) fn switch_space(&mut self, cached: Cached) {
        self.mmu.switch(self.pcid(), cached);
        self.take_epochs();
        // Even if nothing was voided: other translations are in force, in another table.
        self.resync();
    }

    /// Voids every translation and every lookup of code: the mode changed, or the client changed something.
    pub fn flush_tlb(&mut self) {
        self.mmu.flush_all(self.pcid());
        self.take_epochs();
        self.resync();
    }

    /// INVLPG, and INVPCID of an address in the current address space.
    pub(crate) fn invalidate_page(&mut self, linear: u64) {
        self.mmu.flush_page(linear, self.pcid());
        self.resync_if_voided();
    }

    /// INVPCID of an address.
    pub(crate) fn invalidate_page_of(&mut self, pcid: u16, linear: u64) {
        if pcid == self.pcid() {
            self.invalidate_page(linear);
        } else if let Some(slot) = self.mmu.spaces.find(pcid) {
            self.mmu.flush_page_of(slot, linear);
        }
    }

    /// INVPCID of an address space.
    pub(crate) fn invalidate_space(&mut self, pcid: u16) {
        if let Some(slot) = self.mmu.spaces.find(pcid) {
            self.mmu.flush_slot(slot);
            self.resync_if_voided();
        }
    }

    /// Looks for the next block anew if lookups that translated code may rely on no longer hold.
    fn resync_if_voided(&mut self) {
        let before = (self.epoch, self.global_epoch);
        self.take_epochs();
        if before != (self.epoch, self.global_epoch) {
            self.resync();
        }
    }

    fn take_epochs(&mut self) {
        self.epoch = self.mmu.spaces.epoch(Reach::Local);
        self.global_epoch = self.mmu.spaces.epoch(Reach::Global);
    }

    /// Whether instructions in the page of `linear` are fetched, by a supervisor, through a translation that all address
    /// spaces share: what is remembered of code in that page may be stamped with [`Core::global_epoch`], and then
    /// outlasts changes of CR3. False also where it is not known; [`Core::epoch`] is right for any code.
    #[inline]
    pub fn is_global_code(&self, linear: u64) -> bool {
        let table = self.mmu.table_ref(super::Class::Supervisor);
        self.mode.cpl != 3
            && table.entry(linear).execute == linear & !0xfff
            && table.reach(linear) == Reach::Global
    }

    /// Makes the run loop look up the next block anew, after this operation.
    #[inline]
    pub fn resync(&mut self) {
        self.attention.0 |= Attention::RESYNC;
    }
}
