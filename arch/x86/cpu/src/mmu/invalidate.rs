//! What voids translations: MOV to CR3, INVLPG, INVPCID, changes of mode, and the client.
//!
//! Translated code and [`crate::block`] remember where code lies by linear address. They hold what they know against
//! [`Core::epoch`] and [`Core::global_epoch`]; so whatever voids a translation here also ends the epoch of lookups made
//! through it, and asks for [`Attention::RESYNC`], unless no code was fetched through it.

use super::spaces::{Entered, Reach};
use super::tlb::SLOTS;
use super::{Class, Mmu};
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

    /// Voids a slot's own translations.
    fn flush_slot(&mut self, slot: usize) {
        for table in self.tables.of(slot) {
            table.clear_local();
        }
        self.spaces.void(slot);
    }

    /// Voids every translation of every address space, and what is known of guest-physical pages.
    fn flush_all(&mut self, pcid: u16) {
        for table in self.tables.all() {
            table.clear();
        }
        self.spaces.reset(pcid);
        self.walk_cache.clear();
    }

    /// Voids a slot's own translation of a page.
    fn flush_page(&mut self, slot: usize, linear: u64) {
        let span = self.spaces.void_page(slot, linear);
        for table in self.tables.of(slot) {
            table.clear_span(span);
        }
        self.second
            .void(span.first, span.pages, self.spaces.stamp_of(slot));
    }

    /// Voids the global translation of a page.
    fn flush_global_page(&mut self, linear: u64) {
        let (span, entered) = self.spaces.void_global_page(linear);
        if entered == Entered::Perhaps {
            for table in self.tables.all() {
                table.clear_span(span);
            }
        }
        self.second
            .void(span.first, span.pages, self.spaces.stamp(Reach::Global));
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

    /// PKRU was written. The tables have what it allowed before, which matters where it bars more now.
    pub(crate) fn keys_changed(&mut self, before: u32) {
        let bars = self.state.pkru & !before;
        let keys = (0..16)
            .filter(|key| bars >> (2 * key) & 3 != 0)
            .fold(0, |keys, key| keys | 1 << key);
        if keys != 0 && self.mmu.void_keys(keys) {
            // Translated code remembers pages, too.
            self.resync();
        }
    }

    /// INVLPG.
    pub(crate) fn invalidate_page(&mut self, linear: u64) {
        let slot = self.mmu.spaces.current();
        self.mmu.flush_page(slot, linear);
        self.mmu.flush_global_page(linear);
        self.mmu.spaces.void_upper(slot);
        self.resync_if_voided();
    }

    /// A page fault voids what is cached for its address.
    #[cold]
    pub(super) fn fault_voids(&mut self, linear: u64) {
        let slot = self.mmu.spaces.current();
        self.mmu.flush_page(slot, linear);
        self.mmu.flush_global_page(linear);
        let stamp = self.mmu.spaces.upper();
        self.mmu.upper.forget(linear, stamp);
        self.resync_if_voided();
    }

    /// INVPCID of an address.
    pub(crate) fn invalidate_page_of(&mut self, pcid: u16, linear: u64) {
        if let Some(slot) = self.mmu.spaces.find(pcid) {
            self.mmu.flush_page(slot, linear);
            self.mmu.spaces.void_upper(slot);
            self.resync_if_voided();
        }
    }

    /// INVPCID of an address space.
    pub(crate) fn invalidate_space(&mut self, pcid: u16) {
        if let Some(slot) = self.mmu.spaces.find(pcid) {
            self.mmu.flush_slot(slot);
            self.resync_if_voided();
        }
    }

    /// INVPCID of all address spaces, global translations left out.
    pub(crate) fn invalidate_spaces(&mut self) {
        for slot in 0..SLOTS {
            self.mmu.flush_slot(slot);
        }
        self.resync_if_voided();
    }

    /// Looks for the next block anew if lookups that translated code may rely on no longer hold.
    fn resync_if_voided(&mut self) {
        let before = (self.epoch, self.global_epoch);
        self.take_epochs();
        if before != (self.epoch, self.global_epoch) {
            self.resync();
        }
    }

    /// Notes that lookups of code in these pages are about to be remembered.
    pub(crate) fn note_code(&mut self, code: &[(u64, Reach)]) {
        self.mmu.spaces.note_code(code);
        self.resync_if_voided();
    }

    /// What is remembered of code is looked up anew, and what was decoded compared with memory: others may have written there.
    pub fn distrust_code(&mut self) {
        self.mmu.spaces.end_all_epochs();
        self.take_epochs();
        self.turn = self.turn.wrapping_add(1);
    }

    #[inline]
    fn take_epochs(&mut self) {
        self.epoch = self.mmu.spaces.epoch(Reach::Local);
        self.global_epoch = self.mmu.spaces.epoch(Reach::Global);
    }

    /// Whether instructions in the page of `linear` are fetched, by a supervisor, through a translation that all address
    /// spaces share: what is remembered of code in that page may be stamped with [`Core::global_epoch`], and then
    /// outlasts changes of CR3. False also where it is not known; [`Core::epoch`] is right for any code.
    #[inline]
    pub fn is_global_code(&self, linear: u64) -> bool {
        let table = self.mmu.table_ref(Class::SupervisorCode);
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
