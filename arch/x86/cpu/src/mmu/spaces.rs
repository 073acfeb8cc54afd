//! Address spaces: which PCID has which slot, and until when a remembered lookup of code holds.
//!
//! Whoever remembers what code lies at a linear address stamps that with an epoch: the slot's, or, if the code was fetched
//! through global translations only, the one of those. Epochs are numbers drawn from one counter, so that no two are equal, and an epoch is replaced by a new one
//! when a translation that code was fetched through may have changed. An address space that is left and entered again
//! with its translations kept has its old epoch, and finds its lookups again.

use super::pages::PageSet;
use super::tlb::SLOTS;

/// Remembered lookups of code that hold or cease to hold together.
struct Lookups {
    epoch: u64,
    /// At least the pages they were made in since the epoch began.
    pages: PageSet,
}

impl Lookups {
    fn new(epoch: u64) -> Lookups {
        Lookups {
            epoch,
            pages: PageSet::new(),
        }
    }

    fn renew(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.pages.clear();
    }
}

/// Which translations something concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of one address space.
    Local,
    /// Those that all address spaces share.
    Global,
}

pub struct Spaces {
    /// PCID that each slot belongs to, or `None`.
    owners: [Option<u16>; SLOTS],
    local: [Lookups; SLOTS],
    global: Lookups,
    current: usize,
    next_victim: usize,
    last_epoch: u64,
}

impl Spaces {
    pub fn new() -> Spaces {
        let mut owners = [None; SLOTS];
        owners[0] = Some(0);
        // Zero is no epoch: it stamps what was never filled.
        Spaces {
            owners,
            local: std::array::from_fn(|slot| Lookups::new(slot as u64 + 1)),
            global: Lookups::new(SLOTS as u64 + 1),
            current: 0,
            next_victim: 1,
            last_epoch: SLOTS as u64 + 1,
        }
    }

    #[inline(always)]
    pub fn current(&self) -> usize {
        self.current
    }

    /// The epoch of lookups in the current address space, or of those through global translations.
    #[inline]
    pub fn epoch(&self, reach: Reach) -> u64 {
        match reach {
            Reach::Local => self.local[self.current].epoch,
            Reach::Global => self.global.epoch,
        }
    }

    /// Notes that a lookup in the page of `linear` is about to be remembered.
    #[inline]
    pub fn note_code(&mut self, linear: u64, reach: Reach) {
        match reach {
            Reach::Local => self.local[self.current].pages.insert(linear),
            Reach::Global => self.global.pages.insert(linear),
        }
    }

    /// The slot of a PCID, if it has one.
    pub fn find(&self, pcid: u16) -> Option<usize> {
        self.owners.iter().position(|owner| *owner == Some(pcid))
    }

    /// Makes `pcid` the current address space. `Err` if it has a slot only now: what that held is void.
    pub fn switch(&mut self, pcid: u16) -> Result<(), ()> {
        if let Some(slot) = self.find(pcid) {
            self.current = slot;
            return Ok(());
        }
        let victim = self.next_victim;
        self.next_victim = (victim + 1) % SLOTS;
        self.owners[victim] = Some(pcid);
        self.current = victim;
        Err(())
    }

    /// Every slot is free again but the current one, which is `pcid`'s. All epochs end.
    pub fn reset(&mut self, pcid: u16) {
        self.owners = [None; SLOTS];
        self.owners[self.current] = Some(pcid);
        self.renew_all();
    }

    /// Ends the epoch of a slot.
    pub fn renew(&mut self, slot: usize) {
        let epoch = self.draw();
        self.local[slot].renew(epoch);
    }

    /// A slot's translation of a page went: if code may have been found through it, the epoch ends.
    pub fn page_voided(&mut self, slot: usize, linear: u64) {
        if self.local[slot].pages.may_contain(linear) {
            self.renew(slot);
        }
    }

    /// The like for a global translation. Lookups in every address space may have been made through it: one that lies in
    /// a global page and in another, or whose maker did not ask.
    pub fn global_page_voided(&mut self, linear: u64) {
        if self.global.pages.may_contain(linear) {
            self.renew_all();
        }
    }

    fn renew_all(&mut self) {
        for slot in 0..SLOTS {
            self.renew(slot);
        }
        let epoch = self.draw();
        self.global.renew(epoch);
    }

    fn draw(&mut self) -> u64 {
        self.last_epoch += 1;
        self.last_epoch
    }
}
