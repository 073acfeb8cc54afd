//! A set of linear pages that may claim to hold more than it does.

const BITS: usize = 1 << 14;

/// Linear pages, one bit for all that share a hash: what was inserted is always found, and now and then something else.
pub struct PageSet {
    words: Box<[u64; BITS / 64]>,
    empty: bool,
}

impl PageSet {
    pub fn new() -> PageSet {
        PageSet {
            words: Box::new([0; BITS / 64]),
            empty: true,
        }
    }

    fn place(linear: u64) -> (usize, u64) {
        let page = linear >> 12;
        let bit = (page ^ page >> 14 ^ page >> 28) as usize & (BITS - 1);
        (bit / 64, 1 << (bit % 64))
    }

    #[inline]
    pub fn insert(&mut self, linear: u64) {
        let (word, bit) = Self::place(linear);
        self.words[word] |= bit;
        self.empty = false;
    }

    #[inline]
    pub fn may_contain(&self, linear: u64) -> bool {
        let (word, bit) = Self::place(linear);
        self.words[word] & bit != 0
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
        let mut set = PageSet::new();
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
