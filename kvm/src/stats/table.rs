//! The numbers themselves, laid out as the file of KVM_GET_STATS_FD: header, name, descriptors, numbers. They are counted on the
//! board, and in a copy for the client once it has asked for one.

use super::board::{self, Post, Whose};
use super::rows::{BUCKETS, Place, StatRow};
use crate::errno::Errno;
use ring3_host::shown::ShownPages;
use ring3_uapi::{KvmStatsDesc, KvmStatsHeader};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use zerocopy::IntoBytes;

/// Bytes of a name, with the zero at its end.
const NAME: usize = 48;

/// A number, and its copy in the file that the client has, if it has one.
#[derive(Debug)]
pub struct Count<'a> {
    word: &'a AtomicU64,
    copy: Option<&'a AtomicU64>,
}

impl Count<'_> {
    /// By the one thread that counts: it is not a locked addition.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.word.load(Relaxed)
    }

    #[inline(always)]
    pub fn set(&self, n: u64) {
        self.word.store(n, Relaxed);
        if let Some(copy) = self.copy {
            copy.store(n, Relaxed);
        }
    }
}

/// Where the numbers are.
#[derive(Debug)]
enum Words {
    /// On the process's board, for everybody to see.
    Posted(Post),
    /// The board has no room, or there is none.
    Own(Box<[AtomicU64]>),
}

/// The numbers of a VM or vCPU.
#[derive(Debug)]
pub struct Table {
    /// What is before the numbers in a file.
    head: Vec<u8>,
    words: Words,
    count: usize,
    /// What the client reads, from when it first wanted to.
    shown: OnceLock<ShownPages>,
}

fn name(text: &str) -> [u8; NAME] {
    let mut bytes = [0; NAME];
    let len = text.len().min(NAME - 1);
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    bytes
}

impl Table {
    /// All zero. `id` is what clients call it.
    pub(super) fn new(whose: Whose, id: &str, neutral: &[StatRow], own: &[StatRow]) -> Table {
        let (head, count) = head(id, neutral, own);
        let words = match board::post(whose, &head, count) {
            Some(post) => Words::Posted(post),
            None => Words::Own((0..count).map(|_| AtomicU64::new(0)).collect()),
        };
        Table {
            head,
            words,
            count,
            shown: OnceLock::new(),
        }
    }

    #[inline(always)]
    fn word(&self, index: usize) -> &AtomicU64 {
        match &self.words {
            Words::Posted(post) => post.word(index),
            Words::Own(words) => &words[index],
        }
    }

    /// The number at a place.
    #[inline(always)]
    pub fn at(&self, place: Place) -> Count<'_> {
        let shown = self.shown.get();
        Count {
            word: self.word(place.0),
            copy: shown.map(|shown| shown.word(self.head.len() + place.0 * 8)),
        }
    }

    /// Counts a time in a histogram.
    pub(crate) fn add_time(&self, hist: Place, ns: u64) {
        let bucket = (u64::BITS - ns.leading_zeros()) as usize;
        self.at(Place(hist.0 + bucket.min(BUCKETS - 1))).add(1);
    }

    /// A descriptor that reads them. Nobody counts meanwhile.
    pub(super) fn open(&self, name: &str) -> Result<OwnedFd, Errno> {
        if let Some(shown) = self.shown.get() {
            return Ok(shown.open(name)?);
        }
        let numbers = (0..self.count).flat_map(|n| self.word(n).load(Relaxed).to_ne_bytes());
        let contents: Vec<u8> = self.head.iter().copied().chain(numbers).collect();
        let shown = ShownPages::new(&contents)?;
        Ok(self.shown.get_or_init(|| shown).open(name)?)
    }
}

/// What is before the numbers in a file, and how many numbers there are.
fn head(id: &str, neutral: &[StatRow], own: &[StatRow]) -> (Vec<u8>, usize) {
    let rows: Vec<&StatRow> = neutral.iter().chain(own).collect();
    let descriptors = size_of::<KvmStatsHeader>() + NAME;
    let data = descriptors + rows.len() * (size_of::<KvmStatsDesc>() + NAME);
    let header = KvmStatsHeader {
        flags: 0,
        name_size: NAME as u32,
        num_desc: rows.len() as u32,
        id_offset: size_of::<KvmStatsHeader>() as u32,
        desc_offset: descriptors as u32,
        data_offset: data as u32,
    };
    let mut file = header.as_bytes().to_vec();
    file.extend(name(id));
    let mut count = 0;
    for row in rows {
        let descriptor = KvmStatsDesc {
            flags: row.kind.flags(),
            exponent: row.kind.exponent(),
            size: row.words() as u16,
            offset: count as u32 * 8,
            bucket_size: 0,
        };
        file.extend(descriptor.as_bytes());
        file.extend(name(row.name));
        count += row.words();
    }
    (file, count)
}
