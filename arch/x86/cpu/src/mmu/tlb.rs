//! The tables of the software TLB.

use super::large::Span;
use super::spaces::Reach;
use ring3_host::addr::GuestPhys;
use ring3_host::mem::HostPage;

/// Address spaces whose translations are kept.
pub const SLOTS: usize = 8;
/// Classes of access per address space, rounded up to a power of two; see [`super::Class`].
pub const CLASSES: usize = 8;
pub const ENTRIES: usize = 4096;

/// A tag no access matches: it is not canonical, no 32-bit address comes near it, and what it would match belongs to
/// another slot.
const fn invalid(slot: usize) -> u64 {
    0x0000_8000_0000_0000 | if slot == 0 { 1 << 12 } else { 0 }
}

#[cfg(test)]
fn is_invalid(tag: u64) -> bool {
    tag >> 13 == invalid(0) >> 13
}

/// The translation of one linear page. A tag is the page's linear address if the kind of access may go straight
/// to `page`, or one that nothing matches.
///
/// Translated code reads the entries, so their layout is fixed.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entry {
    pub read: u64,
    pub write: u64,
    pub execute: u64,
    pub page: HostPage,
}

const fn empty(slot: usize) -> Entry {
    let tag = invalid(slot);
    Entry {
        read: tag,
        write: tag,
        execute: tag,
        page: HostPage::NULL,
    }
}

#[repr(C)]
pub struct Table {
    entries: [Entry; ENTRIES],
    /// Guest-physical page of each entry, [`GLOBAL`] and [`KEYED`].
    gpa: [u64; ENTRIES],
    /// A bit for each entry that is not empty.
    filled: [u64; ENTRIES / 64],
    /// A bit for each protection key that entries may have.
    keys: u16,
}

/// With a guest-physical page: its translation is global.
const GLOBAL: u64 = 1;
/// It was checked against the protection key that is in the bits above this one.
const KEYED: u64 = 2;
const KEY_SHIFT: u32 = 2;

#[inline(always)]
fn index(linear: u64) -> usize {
    (linear >> 12) as usize & (ENTRIES - 1)
}

impl Table {
    pub fn empty() -> Box<Table> {
        Box::new(Table {
            entries: std::array::from_fn(empty),
            gpa: [0; ENTRIES],
            filled: [0; ENTRIES / 64],
            keys: 0,
        })
    }

    /// Where the entries are, for translated code.
    #[inline(always)]
    pub fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    #[inline(always)]
    pub fn entry(&self, linear: u64) -> &Entry {
        &self.entries[index(linear)]
    }

    /// The guest-physical page of an entry just seen to match.
    #[inline(always)]
    pub fn gpa(&self, linear: u64) -> GuestPhys {
        GuestPhys(self.gpa[index(linear)] & !0xfff)
    }

    /// Whether the translation of an entry just seen to match is global.
    #[inline(always)]
    pub fn reach(&self, linear: u64) -> Reach {
        if self.gpa[index(linear)] & GLOBAL != 0 {
            Reach::Global
        } else {
            Reach::Local
        }
    }

    /// Enters a translation for the kinds of access asked for; the others stay if they are of the same page.
    pub fn fill(&mut self, linear: u64, gpa: GuestPhys, reach: Reach, page: HostPage, kinds: Kinds) {
        let slot = index(linear);
        let tag = linear & !0xfff;
        let mut base = gpa.0 & !0xfff | if reach == Reach::Global { GLOBAL } else { 0 };
        if let Some(key) = kinds.key {
            base |= u64::from(key) << KEY_SHIFT | KEYED;
            self.keys |= 1 << key;
        }
        let entry = &mut self.entries[slot];
        let known = entry.read == tag || entry.write == tag || entry.execute == tag;
        if !known || entry.page != page || self.gpa[slot] != base {
            self.filled[slot / 64] |= 1 << (slot % 64);
            *entry = Entry { page, ..empty(slot) };
            self.gpa[slot] = base;
        }
        if kinds.read {
            entry.read = tag;
        }
        if kinds.write {
            entry.write = tag;
        }
        if kinds.execute {
            entry.execute = tag;
        }
    }

    /// Voids every translation.
    pub fn clear(&mut self) {
        self.each_filled(|table, slot| table.empty_slot(slot));
    }

    /// Voids the translations that are not global.
    pub fn clear_local(&mut self) {
        self.each_filled(|table, slot| {
            if table.gpa[slot] & GLOBAL == 0 {
                table.empty_slot(slot);
            }
        });
    }

    /// Voids the translations of some pages.
    pub fn clear_span(&mut self, span: Span) {
        if span.pages == 1 {
            self.clear_if(index(span.first), span);
        } else {
            self.each_filled(|table, slot| table.clear_if(slot, span));
        }
    }

    /// Voids the translations that were checked against some protection keys, a bit each. Whether there were any.
    pub fn clear_keys(&mut self, keys: u16) -> bool {
        if self.keys & keys == 0 {
            return false;
        }
        self.keys &= !keys;
        let mut found = false;
        self.each_filled(|table, slot| {
            let mark = table.gpa[slot];
            if mark & KEYED != 0 && keys >> (mark >> KEY_SHIFT & 15) & 1 != 0 {
                table.empty_slot(slot);
                found = true;
            }
        });
        found
    }

    fn clear_if(&mut self, slot: usize, span: Span) {
        let entry = &self.entries[slot];
        if [entry.read, entry.write, entry.execute]
            .into_iter()
            .any(|tag| span.contains(tag))
        {
            self.empty_slot(slot);
        }
    }

    fn empty_slot(&mut self, slot: usize) {
        self.entries[slot] = empty(slot);
        self.filled[slot / 64] &= !(1 << (slot % 64));
    }

    /// Makes the next write to a guest-physical page miss.
    pub fn protect(&mut self, gpa: GuestPhys) {
        let base = gpa.0 & !0xfff;
        self.each_filled(|table, slot| {
            if table.gpa[slot] & !0xfff == base {
                table.entries[slot].write = invalid(slot);
            }
        });
    }

    /// Makes every next write miss.
    pub fn protect_all(&mut self) {
        self.each_filled(|table, slot| table.entries[slot].write = invalid(slot));
    }

    #[inline(always)]
    fn each_filled(&mut self, mut act: impl FnMut(&mut Table, usize)) {
        for word in 0..self.filled.len() {
            let mut bits = self.filled[word];
            while bits != 0 {
                act(self, word * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

/// Kinds of access that a translation is entered for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kinds {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
    /// The protection key that the access was checked against.
    pub key: Option<u8>,
}

const PHYS_ENTRIES: usize = 256;

/// Guest-physical page to host page, for reads of page tables.
pub struct PhysCache {
    entries: [(u64, HostPage); PHYS_ENTRIES],
}

impl PhysCache {
    pub fn empty() -> Box<PhysCache> {
        Box::new(PhysCache {
            entries: [(u64::MAX, HostPage::NULL); PHYS_ENTRIES],
        })
    }

    #[inline]
    pub fn get(&self, gpa: u64) -> Option<HostPage> {
        let (tag, page) = self.entries[(gpa >> 12) as usize & (PHYS_ENTRIES - 1)];
        (tag == gpa & !0xfff).then_some(page)
    }

    pub fn put(&mut self, gpa: u64, page: HostPage) {
        self.entries[(gpa >> 12) as usize & (PHYS_ENTRIES - 1)] = (gpa & !0xfff, page);
    }

    pub fn clear(&mut self) {
        self.entries.fill((u64::MAX, HostPage::NULL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_slot_matches_no_address_that_is_looked_up_in_it() {
        let table = Table::empty();
        for page in (0u64..0x10_0000).map(|n| 0x0000_7fff_f800_0000 + (n << 12)) {
            let entry = table.entry(page);
            for tag in [entry.read, entry.write, entry.execute] {
                assert!(page.wrapping_sub(tag) > 4095, "{page:#x}");
            }
        }
    }

    #[test]
    fn a_cleared_slot_can_be_filled_again() {
        let mut table = Table::empty();
        let both = Kinds {
            read: true,
            write: true,
            execute: false,
            key: None,
        };
        for linear in [0, 0x1000, 0x40_0000] {
            table.fill(linear, GuestPhys(0x5000), Reach::Local, HostPage::NULL, both);
            assert_eq!(table.entry(linear).write, linear);
            table.protect(GuestPhys(0x5000));
            assert!(is_invalid(table.entry(linear).write));
            table.clear_span(Span::page(linear));
            assert!(is_invalid(table.entry(linear).read));
            table.fill(linear, GuestPhys(0x5000), Reach::Local, HostPage::NULL, both);
            table.clear();
            assert!(is_invalid(table.entry(linear).read));
        }
    }
}
