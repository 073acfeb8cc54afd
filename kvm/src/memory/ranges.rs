//! Which guest pages are private: ranges of page numbers, as an immutable value.

/// Ranges that are sorted and neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Whether the page is in one of them.
    #[inline]
    pub fn has(&self, page: u64) -> bool {
        !self.0.is_empty() && self.find(page)
    }

    fn find(&self, page: u64) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= page);
        after != 0 && page < self.0[after - 1].1
    }

    /// Whether all pages from `first` up to `end` are in them (or none is, for `member` false).
    pub fn all_are(&self, first: u64, end: u64, member: bool) -> bool {
        let at = self.0.partition_point(|&(_, other)| other <= first);
        match self.0.get(at) {
            Some(&(other, other_end)) if member => other <= first && end <= other_end,
            Some(&(other, _)) => end <= other,
            None => !member,
        }
    }

    /// These, with the pages from `first` up to `end` added, or taken out.
    pub fn with(&self, first: u64, end: u64, member: bool) -> Ranges {
        let mut ranges = Vec::with_capacity(self.0.len() + 1);
        let (mut new, mut new_end) = (first, end);
        for &(other, other_end) in &self.0 {
            let apart = other_end < first || end < other;
            if apart {
                ranges.push((other, other_end));
            } else if member {
                (new, new_end) = (new.min(other), new_end.max(other_end));
            } else {
                ranges.push((other, other_end.min(first)));
                ranges.push((other.max(end), other_end));
            }
        }
        if member {
            ranges.push((new, new_end));
        }
        ranges.retain(|(first, end)| first < end);
        ranges.sort_unstable();
        Ranges(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_and_go() {
        let mut ranges = Ranges::default();
        // What a set of single pages says, too.
        let mut pages = [false; 64];
        let mut seed = 1u64;
        for _ in 0..2000 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let (a, b, member) = ((seed >> 20) % 64, (seed >> 30) % 64, seed >> 40 & 1 != 0);
            let (first, end) = (a.min(b), a.max(b) + 1);
            let span = &mut pages[first as usize..end as usize];
            assert_eq!(
                ranges.all_are(first, end, member),
                span.iter().all(|&page| page == member)
            );
            ranges = ranges.with(first, end, member);
            span.fill(member);
            assert!(ranges.all_are(first, end, member));
            for (page, member) in pages.iter().enumerate() {
                assert_eq!(ranges.has(page as u64), *member, "{page} of {ranges:?}");
            }
            assert!(
                ranges.0.windows(2).all(|pair| pair[0].1 < pair[1].0),
                "{ranges:?}"
            );
        }
        assert_eq!(ranges.with(0, 1 << 52, false), Ranges::default());
    }
}
