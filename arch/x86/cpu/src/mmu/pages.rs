//! Sets of linear pages: one that is exact, and one that may claim to hold more than it does.

use super::large::Span;
use rustc_hash::FxHashSet;

const BITS: usize = 1 << 14;
/// Pages of a span that are looked for one by one.
const MANY: u64 = 1 << 10;

/// Linear pages.
#[derive(Default)]
pub struct PageSet(FxHashSet<u64>);

impl PageSet {
    pub fn insert(&mut self, linear: u64) {
        self.0.insert(linear >> 12);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a page of the span is in the set.
    pub fn touches(&self, span: Span) -> bool {
        if span.pages > self.0.len() as u64 {
            self.0.iter().any(|page| span.contains(page << 12))
        } else {
            span.each().any(|page| self.0.contains(&(page >> 12)))
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Linear pages: what was inserted is always found, and now and then something else. It never grows.
pub struct PageFilter {
    words: Box<[u64; BITS / 64]>,
    empty: bool,
}

impl Default for PageFilter {
    fn default() -> PageFilter {
        PageFilter {
            words: Box::new([0; BITS / 64]),
            empty: true,
        }
    }
}

impl PageFilter {
    /// The two bits of a page: that another page claims both is rare, also with hundreds in the set.
    #[inline]
    fn bits(linear: u64) -> [(usize, u64); 2] {
        let hash = (linear >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        [hash >> 50, hash >> 36].map(|hash| {
            let bit = hash as usize & (BITS - 1);
            (bit / 64, 1 << (bit % 64))
        })
    }

    #[inline]
    pub fn insert(&mut self, linear: u64) {
        for (word, bit) in Self::bits(linear) {
            self.words[word] |= bit;
        }
        self.empty = false;
    }

    #[inline]
    fn may_contain(&self, linear: u64) -> bool {
        Self::bits(linear)
            .into_iter()
            .all(|(word, bit)| self.words[word] & bit != 0)
    }

    /// Whether a page of the span may have been inserted.
    pub fn may_touch(&self, span: Span) -> bool {
        if self.empty {
            return false;
        }
        span.pages > MANY || span.each().any(|page| self.may_contain(page))
    }

    pub fn clear(&mut self) {
        if !self.empty {
            self.words.fill(0);
            self.empty = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: [u64; 4] = [0, 0x40_0000, 0x7fff_ffff_f000, 0xffff_ffff_8100_0000];

    #[test]
    fn what_was_inserted_is_found_until_the_set_is_cleared() {
        let (mut set, mut filter) = (PageSet::default(), PageFilter::default());
        for page in PAGES {
            set.insert(page + 0x123);
            filter.insert(page + 0x123);
        }
        for page in PAGES {
            let span = Span::page(page + 0xfff);
            assert!(set.touches(span) && filter.may_touch(span), "{page:#x}");
        }
        let other = Span::page(0x1000);
        assert!(!set.touches(other) && !filter.may_touch(other));
        set.clear();
        filter.clear();
        for page in PAGES {
            let span = Span::page(page);
            assert!(!set.touches(span) && !filter.may_touch(span));
        }
    }

    #[test]
    fn a_span_is_touched_at_its_ends_and_not_beside_them() {
        let mut set = PageSet::default();
        for page in PAGES {
            set.insert(page);
        }
        for (first, pages, touched) in [
            (0x3f_f000, 1, false),
            (0x3f_f000, 2, true),
            (0x3f_f000, 1 << 20, true),
            (0x40_1000, 2, false),
            (0x40_1000, 1 << 20, false),
        ] {
            assert_eq!(set.touches(Span { first, pages }), touched, "{first:#x}, {pages}");
        }
    }
}
