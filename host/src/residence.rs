//! Whether memory of the process is in the host's memory, or has to be fetched from a file or from swap first.
//!
//! Memory under a userfaultfd counts as being there: nothing tells cheaply that it is not.

use crate::sys;
use rustix::fs::{Mode, OFlags};
use rustix::mm::{Advice, madvise};
use std::ffi::c_void;
use std::ops::Range;
use std::sync::OnceLock;

const PAGE: u64 = 4096;

/// Where a mapping's pages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// From nowhere, or from a file in memory: they can only be in swap.
    Memory,
    File,
    /// They are not to be asked about.
    Unwatched,
}

#[derive(Clone, Debug)]
struct Mapping {
    range: Range<u64>,
    origin: Origin,
}

/// The mappings that were asked about. What the process maps anew in their place makes a difference for speed only.
#[derive(Clone, Debug, Default)]
pub struct Mappings {
    known: Vec<Mapping>,
}

impl Mappings {
    /// More than a client has for guest memory.
    const MOST: usize = 64;

    /// Whether the page at `at` has to be fetched. Where that cannot be, this costs next to nothing.
    pub fn is_away(&mut self, at: u64) -> bool {
        let origin = match self.find(at) {
            Some(origin) => origin,
            None => self.learn(at),
        };
        match origin {
            Origin::Unwatched => false,
            Origin::Memory => has_swap() && !is_resident(at) && is_swapped(at),
            // What was a file's may be memory's by now, never touched before.
            Origin::File => !is_resident(at) && self.learn(at) == Origin::File,
        }
    }

    /// The page at `at` did not come when it was asked for: pages of its mapping are not asked for any more.
    pub fn forgo(&mut self, at: u64) {
        for mapping in &mut self.known {
            if mapping.range.contains(&at) {
                mapping.origin = Origin::Unwatched;
            }
        }
    }

    #[inline]
    fn find(&self, at: u64) -> Option<Origin> {
        let mapping = self.known.iter().find(|mapping| mapping.range.contains(&at));
        mapping.map(|mapping| mapping.origin)
    }

    /// Looks a mapping up.
    #[cold]
    fn learn(&mut self, at: u64) -> Origin {
        self.known.retain(|mapping| !mapping.range.contains(&at));
        if self.known.len() >= Mappings::MOST {
            self.known.clear();
        }
        let maps = read("/proc/self/maps");
        let found = maps
            .split(|&byte| byte == b'\n')
            .filter_map(|line| parse(str::from_utf8(line).ok()?))
            .find(|mapping| mapping.range.contains(&at));
        let mapping = found.unwrap_or(Mapping {
            range: at & !(PAGE - 1)..(at | (PAGE - 1)).saturating_add(1),
            origin: Origin::Unwatched,
        });
        let origin = mapping.origin;
        self.known.push(mapping);
        origin
    }
}

/// A line of `/proc/self/maps`.
fn parse(line: &str) -> Option<Mapping> {
    /// What the kernel calls files that are in memory.
    const IN_MEMORY: [&str; 5] = ["/memfd:", "/dev/shm/", "/dev/zero", "/SYSV", "/anon_hugepage"];
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let name = rest.splitn(5, ' ').nth(4).unwrap_or("").trim_start();
    let is_file = name.starts_with('/') && !IN_MEMORY.iter().any(|prefix| name.starts_with(prefix));
    Some(Mapping {
        range: u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?,
        origin: if is_file { Origin::File } else { Origin::Memory },
    })
}

/// Has the page at `at` fetched, without waiting for it.
pub fn fetch(at: u64) {
    let start = (at & !(PAGE - 1)) as *mut c_void;
    // SAFETY: this advice changes nothing in memory, and an address where nothing is gets an error. It does not matter here.
    let _ = unsafe { madvise(start, PAGE as usize, Advice::WillNeed) };
}

/// Whether the page at `at` is in the host's memory, or is not there at all.
pub fn is_resident(at: u64) -> bool {
    sys::mincore(at & !(PAGE - 1)).unwrap_or(true)
}

/// Whether it is in swap.
fn is_swapped(at: u64) -> bool {
    const SWAPPED: u64 = 1 << 62;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(pagemap) = rustix::fs::open("/proc/self/pagemap", flags, Mode::empty()) else {
        return false;
    };
    let mut entry = [0; 8];
    let read = rustix::io::pread(&pagemap, &mut entry, at / PAGE * 8);
    read == Ok(8) && u64::from_ne_bytes(entry) & SWAPPED != 0
}

/// Whether the host had swap when this was asked first.
fn has_swap() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    // A line of titles, and one for each.
    *HAS.get_or_init(|| read("/proc/swaps").iter().filter(|&&byte| byte == b'\n').count() > 1)
}

/// A file of the kernel's; empty if it cannot be read.
fn read(path: &str) -> Vec<u8> {
    let mut text = Vec::new();
    let Ok(file) = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return text;
    };
    let mut piece = [0; 4096];
    while let Ok(len @ 1..) = rustix::io::read(&file, &mut piece) {
        text.extend_from_slice(&piece[..len]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_mapping_is_told_from_memory() {
        let origin = |line| parse(line).map(|mapping| mapping.origin);
        let file = "7f00-7f10 r--s 00001000 08:01 42                       /var/lib/guest memory.img";
        assert_eq!(origin(file), Some(Origin::File));
        assert_eq!(parse(file).unwrap().range, 0x7f00..0x7f10);
        for memory in [
            "7f00-7f10 rw-p 00000000 00:00 0 ",
            "7f00-7f10 rw-p 00000000 00:00 0                          [heap]",
            "7f00-7f10 rw-s 00000000 00:01 1026      /memfd:guest (deleted)",
        ] {
            assert_eq!(origin(memory), Some(Origin::Memory), "{memory}");
        }
        assert!(parse("").is_none() && parse("7f00 rw-p").is_none());
    }

    #[test]
    fn memory_that_was_never_touched_is_not_away() {
        let pages = crate::shared::SharedPages::create("residence", 4).unwrap().0;
        let at = pages.address().0;
        let mut mappings = Mappings::default();
        assert!(!is_resident(at + PAGE));
        assert!(!mappings.is_away(at + PAGE));
        assert_eq!(mappings.known.len(), 1);
        assert!(!mappings.is_away(8), "nothing is there");
    }

    #[test]
    fn what_the_page_cache_lost_is_away_until_it_is_fetched() {
        use rustix::fs::{Advice as FileAdvice, fadvise};
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 64 * PAGE as usize]).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, FileAdvice::DontNeed).unwrap();
        let pages = crate::testing::ClientMemory::of_file(&file, 64).unwrap();
        let at = pages.address() + 32 * PAGE;
        if is_resident(at) {
            eprintln!("skipped: this file system keeps its files in memory");
            return;
        }
        let mut mappings = Mappings::default();
        assert!(mappings.is_away(at));
        fetch(at);
        while mappings.is_away(at) {
            std::thread::yield_now();
        }
        fadvise(&file, 0, None, FileAdvice::DontNeed).unwrap();
        mappings.forgo(at);
        assert!(!mappings.is_away(at));
    }
}
