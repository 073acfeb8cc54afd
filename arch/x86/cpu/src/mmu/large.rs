//! Large pages that were entered in the TLB as pieces of 4 KiB: voiding one piece's address voids the whole page.

use rustc_hash::FxHashSet;

/// As many are told apart: those of 512 GiB of memory.
const MOST: usize = 1 << 18;

/// A run of linear pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub pages: u64,
}

impl Span {
    /// The page of `linear`.
    pub fn page(linear: u64) -> Span {
        Span {
            first: linear & !0xfff,
            pages: 1,
        }
    }

    #[inline]
    pub fn contains(&self, linear: u64) -> bool {
        linear.wrapping_sub(self.first) >> 12 < self.pages
    }

    /// Every page there is.
    const ALL: Span = Span {
        first: 0,
        pages: 1 << 52,
    };

    /// The addresses of its pages.
    pub fn each(&self) -> impl Iterator<Item = u64> + use<> {
        let first = self.first;
        (0..self.pages).map(move |n| first.wrapping_add(n << 12))
    }
}

/// The large pages of one address space, or the global ones.
#[derive(Default)]
pub struct LargePages {
    /// Their addresses, with the number of address bits inside of them.
    known: FxHashSet<u64>,
    /// A bit for each such number.
    sizes: u64,
    /// There were too many: any page may be a piece of one.
    too_many: bool,
}

impl LargePages {
    pub fn note(&mut self, linear: u64, size: u64) {
        if self.known.len() >= MOST {
            self.known.clear();
            self.too_many = true;
        }
        self.sizes |= size;
        self.known.insert(linear & !(size - 1) | u64::from(size.ilog2()));
    }

    /// The span to void for the page of `linear`.
    pub fn span(&self, linear: u64) -> Span {
        if self.too_many {
            return Span::ALL;
        }
        let mut sizes = self.sizes;
        // The largest first: what is mapped by large pages of two sizes, one after the other, has pieces of both.
        while sizes != 0 {
            let shift = sizes.ilog2();
            let first = linear >> shift << shift;
            if self.known.contains(&(first | u64::from(shift))) {
                return Span {
                    first,
                    pages: 1 << (shift - 12),
                };
            }
            sizes &= !(1 << shift);
        }
        Span::page(linear)
    }

    pub fn clear(&mut self) {
        if self.sizes != 0 {
            self.known.clear();
            self.sizes = 0;
            self.too_many = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_a_large_page_voids_all_of_it() {
        let mut large = LargePages::default();
        large.note(0xffff_8880_0021_2345, 1 << 21);
        large.note(0xffff_8880_4021_2345, 1 << 30);
        let span = large.span(0xffff_8880_003f_f000);
        assert_eq!((span.first, span.pages), (0xffff_8880_0020_0000, 512));
        assert!(span.contains(0xffff_8880_003f_ffff) && !span.contains(0xffff_8880_0040_0000));
        assert_eq!(span.each().last(), Some(0xffff_8880_003f_f000));
        let span = large.span(0xffff_8880_4000_0000);
        assert_eq!((span.first, span.pages), (0xffff_8880_4000_0000, 1 << 18));
        assert_eq!(large.span(0x20_1234), Span::page(0x20_1000));
        large.clear();
        assert_eq!(large.span(0xffff_8880_003f_f000).pages, 1);
    }

    #[test]
    fn what_cannot_be_told_apart_is_voided_whole() {
        let mut large = LargePages::default();
        for n in 0..=MOST as u64 {
            large.note(n << 21, 1 << 21);
        }
        assert!(large.known.len() <= MOST);
        assert!(large.span(0xffff_8880_0000_0000).contains(0x1000));
        large.clear();
        assert_eq!(large.span(0x1000).pages, 1);
    }
}
