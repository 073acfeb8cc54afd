//! Where translated code lies: for each page of client memory a word with a bit for each 64-byte line.
//!
//! Lines are kept by *host* page: several slots may show the same memory (a ROM under two addresses, the same RAM in system
//! management mode), and a write through one of them must find the code translated through another.
//!
//! # Why no write is missed
//!
//! A translator calls [`Memory::mark_code`] before it reads the bytes. If the page had no code before, the other vCPUs are told to
//! forget that they may write it directly and are waited for; whatever they wrote directly is in memory by then. If the page is
//! being marked by another vCPU at that moment, this one sends and waits too: it does not rely on a wait that another has not
//! finished. From then on writers store first, then call [`Memory::code_written`], which fences and looks at the lines: the
//! writer sees the lines, or the translator sees the bytes.
//!
//! A write that hits lines clears the page's word, so that writes become direct again, and tells every other vCPU to drop its
//! translations of the page. Marking and clearing take the same lock, notice first and clearing second: a vCPU whose mark came
//! before the clearing has the notice pending when its translation is done, and drops it at the next boundary; one that marks
//! after leaves its bits set. Nobody can write the page directly before the word is clear, at which time every
//! vCPU with a translation has been kicked.

use super::{Memory, SlotPage};
use crate::errno::Errno;
use crate::ranks;
use crate::vcpu::{PageNotice, Seat};
use ring3_host::addr::PAGE_SIZE;
use ring3_host::lock::RankedMutex;
use ring3_host::mem::{HostPage, HostRegion};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst, fence};
use std::sync::{Arc, Weak};
use zerocopy::FromZeros;

/// Pages whose words are allocated together (untouched ones cost address space only): 256 MiB of guest memory.
const CHUNK: u64 = 1 << 16;

#[derive(Debug)]
struct Chunk {
    words: Box<[AtomicU64]>,
}

/// The words of a slot's pages.
#[derive(Debug)]
pub(super) struct SlotCode {
    first: u64,
    chunks: Vec<Arc<Chunk>>,
}

impl SlotCode {
    /// The word of a page of the slot's region.
    #[inline]
    pub fn lines(&self, page: HostPage) -> &AtomicU64 {
        let number = page.address().page();
        &self.chunks[(number / CHUNK - self.first) as usize].words[(number % CHUNK) as usize]
    }
}

/// A VM's words, shared by slots over the same memory.
#[derive(Debug)]
pub(super) struct CodeMaps {
    state: RankedMutex<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    chunks: BTreeMap<u64, Weak<Chunk>>,
    /// Pages whose first mark is being made known.
    spreading: Vec<HostPage>,
}

impl Default for CodeMaps {
    fn default() -> CodeMaps {
        CodeMaps {
            state: RankedMutex::new(ranks::CODE, Marks::default()),
        }
    }
}

impl CodeMaps {
    /// The words of a region.
    pub fn of(&self, region: &HostRegion) -> Result<SlotCode, Errno> {
        let first = region.address().page() / CHUNK;
        let last = (region.address().page() + region.pages() - 1) / CHUNK;
        let mut state = self.state.lock();
        state.chunks.retain(|_, chunk| chunk.strong_count() > 0);
        let mut chunk = |number: u64| {
            if let Some(chunk) = state.chunks.get(&number).and_then(Weak::upgrade) {
                return Ok(chunk);
            }
            let words =
                <[AtomicU64]>::new_box_zeroed_with_elems(CHUNK as usize).map_err(|_| Errno::ENOMEM)?;
            let chunk = Arc::new(Chunk { words });
            state.chunks.insert(number, Arc::downgrade(&chunk));
            Ok(chunk)
        };
        let chunks = (first..=last).map(&mut chunk).collect::<Result<_, Errno>>()?;
        Ok(SlotCode { first, chunks })
    }
}

/// 64-byte lines of a page, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines(pub u64);

impl Lines {
    /// The lines that `len` bytes from `offset` touch, within the page.
    #[inline]
    pub fn of(offset: usize, len: usize) -> Lines {
        let page = PAGE_SIZE as usize;
        if len == 0 || offset >= page {
            return Lines(0);
        }
        let (first, last) = (offset / 64, (offset + len - 1).min(page - 1) / 64);
        Lines((u64::MAX >> (63 - (last - first))) << first)
    }
}

impl Memory {
    /// Says that `lines` of the page are about to be translated, by vCPU `me`. On return no other vCPU writes the page
    /// directly. `me` must drop its own direct write to the page, and look at its kick word before it executes guest code,
    /// as it may have waited.
    pub fn mark_code(&self, me: &Seat, page: &SlotPage<'_>, lines: Lines) {
        let host = page.host();
        let word = page.code_word();
        let mut state = self.code.state.lock();
        let before = word.fetch_or(lines.0, SeqCst);
        if before != 0 && !state.spreading.contains(&host) {
            return;
        }
        state.spreading.push(host);
        drop(state);
        self.for_each_gfn(host, page.gfn(), |gfn| {
            self.seats.notice_others(Some(me), PageNotice::WriteRevoked(gfn));
        });
        self.seats
            .notice_others_and_wait(Some(me), PageNotice::WriteRevoked(page.gfn()));
        let mut state = self.code.state.lock();
        if let Some(at) = state.spreading.iter().position(|&other| other == host) {
            state.spreading.swap_remove(at);
        }
    }

    /// Tells of a write to the page, after the fact, by vCPU `me` if it was one. True if translated lines were hit: all
    /// others have been told to drop the page's translations, and the caller must drop its own.
    #[inline]
    pub fn code_written(&self, me: Option<&Seat>, page: &SlotPage<'_>, lines: Lines) -> bool {
        // The store comes before the look at the lines, for every other vCPU too.
        fence(SeqCst);
        page.code_lines() & lines.0 != 0 && self.drop_code(me, page)
    }

    #[cold]
    fn drop_code(&self, me: Option<&Seat>, page: &SlotPage<'_>) -> bool {
        let host = page.host();
        let _state = self.code.state.lock();
        self.seats.notice_others(me, PageNotice::CodeDropped(page.gfn()));
        // The caller knows the page by one number only; under other ones it is told as everybody is.
        self.for_each_gfn(host, page.gfn(), |gfn| {
            self.seats.notice_others(None, PageNotice::CodeDropped(gfn));
        });
        page.code_word().store(0, SeqCst);
        true
    }

    /// Calls `each` with every guest page number of a host page but `known`.
    fn for_each_gfn(&self, host: HostPage, known: u64, mut each: impl FnMut(u64)) {
        // Says so before a slot that shows the same memory can be found, and not after the marks were looked at.
        if !self.aliased.load(SeqCst) {
            return;
        }
        let number = host.address().page();
        for space in &self.spaces {
            let slots = Arc::clone(&space.read());
            for slot in slots.iter() {
                for region in slot.regions() {
                    let index = number.wrapping_sub(region.address().page());
                    if index < slot.pages() && slot.base + index != known {
                        each(slot.base + index);
                    }
                }
            }
        }
    }
}
