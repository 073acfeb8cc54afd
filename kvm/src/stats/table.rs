//! The numbers themselves, laid out as the file of KVM_GET_STATS_FD: header, name, descriptors, numbers.

use super::rows::{BUCKETS, Place, StatRow};
use crate::errno::Errno;
use ring3_host::shown::ShownPages;
use ring3_uapi::{KvmStatsDesc, KvmStatsHeader};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use zerocopy::IntoBytes;

/// Bytes of a name, with the zero at its end.
const NAME: usize = 48;

/// A number.
#[derive(Debug)]
pub struct Count<'a>(&'a AtomicU64);

impl Count<'_> {
    /// By the one thread that counts: it is not a locked addition.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
}

/// The numbers of a VM or vCPU.
#[derive(Debug)]
pub struct Table {
    pages: ShownPages,
    data: usize,
}

fn name(text: &str) -> [u8; NAME] {
    let mut bytes = [0; NAME];
    let len = text.len().min(NAME - 1);
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    bytes
}

impl Table {
    /// All zero. `id` says whose they are.
    pub(super) fn new(id: &str, neutral: &[StatRow], own: &[StatRow]) -> Result<Table, Errno> {
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
        let mut offset = 0;
        for row in rows {
            let descriptor = KvmStatsDesc {
                flags: row.kind.flags(),
                exponent: row.kind.exponent(),
                size: row.words() as u16,
                offset: offset as u32,
                bucket_size: 0,
            };
            file.extend(descriptor.as_bytes());
            file.extend(name(row.name));
            offset += row.words() * 8;
        }
        file.resize(data + offset, 0);
        Ok(Table {
            pages: ShownPages::new(&file)?,
            data,
        })
    }

    /// The number at a place.
    #[inline(always)]
    pub fn at(&self, place: Place) -> Count<'_> {
        Count(self.pages.word(self.data + place.0 * 8))
    }

    /// Counts a time in a histogram.
    pub(crate) fn add_time(&self, hist: Place, ns: u64) {
        let bucket = (u64::BITS - ns.leading_zeros()) as usize;
        self.at(Place(hist.0 + bucket.min(BUCKETS - 1))).add(1);
    }

    /// A descriptor that reads them. Nobody counts meanwhile.
    pub(super) fn open(&self, name: &str) -> Result<OwnedFd, Errno> {
        Ok(self.pages.open(name)?)
    }
}
