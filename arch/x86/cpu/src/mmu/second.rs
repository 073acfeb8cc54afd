//! The second level of the software TLB: translations of all address spaces, as the page tables gave them.
//!
//! It knows nothing of classes of access: a translation holds rights, and whoever finds it checks them. Each is stamped with
//! a number that the address space has, or that global translations have, until they are voided; so voiding
//! all of them is a new number.

use super::rights::Rights;
use ring3_host::addr::GuestPhys;
use ring3_host::mem::HostPage;

const SETS: usize = 1 << 11;
const WAYS: usize = 2;

#[derive(Clone, Copy)]
struct Line {
    /// Linear page and rights.
    page: u64,
    stamp: u64,
    gpa: u64,
    /// Where the page is if it is memory, else [`HostPage::NULL`].
    host: HostPage,
}

/// No stamp is zero.
const EMPTY: Line = Line {
    page: 0,
    stamp: 0,
    gpa: 0,
    host: HostPage::NULL,
};

/// A translation of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The page's address.
    pub gpa: GuestPhys,
    pub rights: Rights,
    pub host: HostPage,
}

/// A set is a line of the host's cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Set([Line; WAYS]);

pub struct Second {
    sets: Box<[Set]>,
}

/// The set of a page. The stamp spreads address spaces, which have much at the same addresses.
#[inline]
fn place(linear: u64, stamp: u64) -> usize {
    let page = linear >> 12;
    (page ^ page >> 11 ^ stamp.wrapping_mul(0x9e5)) as usize & (SETS - 1)
}

impl Line {
    #[inline]
    fn is(&self, linear: u64, stamp: u64) -> bool {
        self.stamp == stamp && (self.page ^ linear) >> 12 == 0
    }
}

impl Second {
    pub fn new() -> Second {
        Second {
            sets: vec![Set([EMPTY; WAYS]); SETS].into_boxed_slice(),
        }
    }

    #[inline]
    pub fn find(&self, linear: u64, stamp: u64) -> Option<Known> {
        let Set(lines) = &self.sets[place(linear, stamp)];
        let line = lines.iter().find(|line| line.is(linear, stamp))?;
        Some(Known {
            gpa: GuestPhys(line.gpa),
            rights: Rights::unpack(line.page),
            host: line.host,
        })
    }

    /// Enters a translation, in place of an older one of the page or of the one that was entered before the last.
    pub fn enter(&mut self, linear: u64, stamp: u64, known: Known) {
        let Set(lines) = &mut self.sets[place(linear, stamp)];
        if !lines[0].is(linear, stamp) {
            lines[1] = lines[0];
        }
        lines[0] = Line {
            page: known.rights.pack(linear),
            stamp,
            gpa: known.gpa.0 & !0xfff,
            host: known.host,
        };
    }

    /// Voids the translations of `pages` pages.
    pub fn void(&mut self, linear: u64, pages: u64, stamp: u64) {
        let first = linear & !0xfff;
        if pages > SETS as u64 {
            let inside = |line: &Line| line.stamp == stamp && (line.page.wrapping_sub(first)) >> 12 < pages;
            for line in self.sets.iter_mut().flat_map(|set| &mut set.0) {
                if inside(line) {
                    *line = EMPTY;
                }
            }
            return;
        }
        for page in (0..pages).map(|n| first.wrapping_add(n << 12)) {
            for line in &mut self.sets[place(page, stamp)].0 {
                if line.is(page, stamp) {
                    *line = EMPTY;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Known = Known {
        gpa: GuestPhys(0x5000),
        rights: Rights::ALL,
        host: HostPage::NULL,
    };

    #[test]
    fn translations_are_found_under_their_stamp_and_no_other() {
        let mut second = Second::new();
        second.enter(0xffff_8000_0000_1234, 7, KNOWN);
        assert_eq!(second.find(0xffff_8000_0000_1fff, 7), Some(KNOWN));
        assert_eq!(second.find(0xffff_8000_0000_2000, 7), None);
        assert_eq!(second.find(0xffff_8000_0000_1234, 8), None);
    }

    #[test]
    fn a_newer_translation_of_a_page_takes_the_place_of_the_older() {
        let mut second = Second::new();
        second.enter(0x1000, 7, KNOWN);
        // Another page in the same set.
        let other = (2u64..)
            .map(|n| n << 12)
            .find(|page| place(*page, 7) == place(0x1000, 7))
            .unwrap();
        second.enter(other, 7, KNOWN);
        let new = Known {
            gpa: GuestPhys(0x9000),
            ..KNOWN
        };
        second.enter(0x1000, 7, new);
        assert_eq!(second.find(0x1000, 7), Some(new));
        second.void(0x1000, 1, 7);
        assert_eq!(second.find(0x1000, 7), None, "the older one does not come back");
        second.enter(other, 7, KNOWN);
        assert_eq!(second.find(other, 7), Some(KNOWN));
    }

    #[test]
    fn spans_are_voided_whole_and_alone() {
        for pages in [1, 512, 1 << 18] {
            let mut second = Second::new();
            let first = 0x4000_0000u64;
            let last = first + ((pages - 1) << 12);
            for page in [first - 0x1000, first, last, last + 0x1000] {
                second.enter(page, 7, KNOWN);
            }
            second.enter(first, 8, KNOWN);
            second.void(first, pages, 7);
            assert_eq!(second.find(first - 0x1000, 7), Some(KNOWN));
            assert_eq!(second.find(first, 7), None);
            assert_eq!(second.find(last, 7), None);
            assert_eq!(second.find(last + 0x1000, 7), Some(KNOWN));
            assert_eq!(second.find(first, 8), Some(KNOWN));
        }
    }
}
