//! A set of linear pages that may claim to hold more than it does.

use super::large::Span;

const BITS: usize = 1 << 14;
/// Pages of a span that are looked for one by one.
const MANY: u64 = 1 << 10;

/// Linear pages: what was inserted is always found, and now and then something else.
pub struct PageSet {
    words: Box<[u64; BITS / 64]>,
    empty: bool,
}

impl Default for PageSet {
    fn default() -> PageSet {
        PageSet {
            words: Box::new([0; BITS / 64]),
            empty: true,
        }
    }
}

impl PageSet {
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

    /// Whether a page of the span may be in the set.
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

    #[test]
    fn what_was_inserted_is_found_until_the_set_is_cleared() {
        let mut set = PageSet::default();
        let pages = [0u64, 0x40_0000, 0x7fff_ffff_f000, 0xffff_ffff_8100_0000];
        for page in pages {
            set.insert(page + 0x123);
        }
        assert!(pages.iter().all(|page| set.may_contain(page + 0xfff)));
        assert!(!set.may_contain(0x1000));
        set.clear();
        assert!(!pages.iter().any(|page| set.may_contain(*page)));
    }
}
