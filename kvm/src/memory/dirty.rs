//! Dirty logs: KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG.

use super::book::Book;
use super::{Memory, Slot};
use crate::errno::Errno;
use crate::vcpu::Request;
use crate::vcpu::dirty_ring::{DirtyPage, DirtyRing, ENTRY, MOST, RESERVED};
use ring3_host::addr::PAGE_SIZE;
use ring3_host::user::UserPtr;
use ring3_uapi::{KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KvmClearDirtyLog, KvmDirtyLog};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, PoisonError};
use zerocopy::{FromZeros, IntoBytes};

/// A bit for each page of a slot that was written since the log was last cleared.
#[derive(Debug)]
pub struct DirtyLog {
    words: Box<[AtomicU64]>,
}

impl DirtyLog {
    /// A clean log.
    pub(super) fn new(pages: u64) -> Result<DirtyLog, Errno> {
        let words = usize::try_from(pages.div_ceil(64)).map_err(|_| Errno::ENOMEM)?;
        // The host gives zeroed memory page by page as it is touched.
        let words = <[AtomicU64]>::new_box_zeroed_with_elems(words).map_err(|_| Errno::ENOMEM)?;
        Ok(DirtyLog { words })
    }

    /// Marks the first `pages` pages (KVM_DIRTY_LOG_INITIALLY_SET).
    pub(super) fn mark_all(&self, pages: u64) {
        for (i, word) in self.words.iter().enumerate() {
            let here = pages - (i as u64 * 64).min(pages);
            word.store(if here >= 64 { u64::MAX } else { (1 << here) - 1 }, SeqCst);
        }
    }

    /// Marks a page. Whether it was not marked.
    #[inline]
    pub(super) fn mark(&self, page: u64) -> bool {
        let (word, bit) = (&self.words[(page / 64) as usize], 1 << (page % 64));
        // Mostly it is set already, and reading does not take the line from other vCPUs.
        word.load(SeqCst) & bit == 0 && word.fetch_or(bit, SeqCst) & bit == 0
    }

    /// Unmarks a page, if there is such.
    fn unmark(&self, page: u64) {
        let word = usize::try_from(page / 64)
            .ok()
            .and_then(|word| self.words.get(word));
        if let Some(word) = word {
            word.fetch_and(!(1 << (page % 64)), SeqCst);
        }
    }

    fn snapshot(&self) -> Vec<u64> {
        self.words.iter().map(|word| word.load(SeqCst)).collect()
    }

    fn take(&self) -> Vec<u64> {
        let take = |word: &AtomicU64| {
            if word.load(SeqCst) == 0 {
                0
            } else {
                word.swap(0, SeqCst)
            }
        };
        self.words.iter().map(take).collect()
    }
}

impl Memory {
    fn logged_slot(&self, book: &Book, slot: u32) -> Result<(Arc<Slot>, Arc<DirtyLog>), Errno> {
        let (space, id) = ((slot >> 16) as u16, slot as u16);
        if space >= self.limits.address_spaces || id >= self.limits.user_slots {
            return Err(Errno::EINVAL);
        }
        let slot = book.slot(space, id).ok_or(Errno::ENOENT)?;
        let log = slot.dirty.as_ref().ok_or(Errno::ENOENT)?;
        Ok((Arc::clone(slot), Arc::clone(log)))
    }

    /// With dirty rings, there are no dirty logs for the client.
    fn needs_bitmap(&self) -> Result<(), Errno> {
        if self.dirty_ring_size() == 0 {
            Ok(())
        } else {
            Err(Errno::ENXIO)
        }
    }

    /// KVM_CAP_DIRTY_LOG_RING: the size of vCPUs' rings in bytes, once. `vcpus` says whether there are any yet.
    pub(crate) fn set_dirty_ring_size(&self, bytes: u32, vcpus: bool) -> Result<(), Errno> {
        if !bytes.is_power_of_two() || bytes < RESERVED * ENTRY || u64::from(bytes) < PAGE_SIZE {
            return Err(Errno::EINVAL);
        }
        if bytes > MOST * ENTRY {
            return Err(Errno::E2BIG);
        }
        if vcpus || self.dirty_ring_size() != 0 {
            return Err(Errno::EINVAL);
        }
        self.dirty_ring_size.store(bytes, SeqCst);
        Ok(())
    }

    /// Zero if there are no rings.
    pub(crate) fn dirty_ring_size(&self) -> u32 {
        self.dirty_ring_size.load(SeqCst)
    }

    /// A page was written by nobody's vCPU: the next that runs enters it in its ring.
    pub(super) fn unclaimed(&self, page: DirtyPage) {
        if self.dirty_ring_size() != 0 {
            self.unclaimed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(page);
            self.any_unclaimed.store(true, SeqCst);
        }
    }

    /// Such pages, for a vCPU.
    pub(crate) fn take_unclaimed(&self) -> Vec<DirtyPage> {
        if !self.any_unclaimed.load(SeqCst) {
            return Vec::new();
        }
        let mut pages = self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner);
        self.any_unclaimed.store(false, SeqCst);
        std::mem::take(&mut pages)
    }

    /// KVM_RESET_DIRTY_RINGS: how many pages were taken out. When it returns they are watched again.
    pub(crate) fn reset_dirty_rings<'a>(
        &self,
        rings: impl Iterator<Item = &'a DirtyRing>,
    ) -> Result<i64, Errno> {
        if self.dirty_ring_size() == 0 {
            return Err(Errno::EINVAL);
        }
        let book = self.changes.lock();
        let mut count = 0;
        for ring in rings {
            count += i64::from(ring.take_out(|page| {
                if let Some(log) = book
                    .slot((page.slot >> 16) as u16, page.slot as u16)
                    .and_then(|slot| slot.dirty.as_ref())
                {
                    log.unmark(page.index);
                }
            }));
        }
        if count != 0 {
            self.flush_all(Request::TLB_FLUSH);
        }
        Ok(count)
    }

    /// KVM_GET_DIRTY_LOG: clears the log, unless the client took that on itself (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2).
    pub fn get_dirty_log(&self, args: &KvmDirtyLog) -> Result<(), Errno> {
        let book = self.changes.lock();
        self.needs_bitmap()?;
        let (_, log) = self.logged_slot(&book, args.slot)?;
        let bits = if self.manual_protect() & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE != 0 {
            log.snapshot()
        } else {
            let bits = log.take();
            if bits.iter().any(|&word| word != 0) {
                self.flush_all(Request::TLB_FLUSH);
            }
            bits
        };
        Ok(UserPtr::new(args.dirty_bitmap).write_bytes(bits.as_bytes())?)
    }

    /// KVM_CLEAR_DIRTY_LOG.
    pub fn clear_dirty_log(&self, args: &KvmClearDirtyLog) -> Result<(), Errno> {
        let book = self.changes.lock();
        self.needs_bitmap()?;
        let (pages, first) = (u64::from(args.num_pages), args.first_page);
        let (space, id) = ((args.slot >> 16) as u16, args.slot as u16);
        if space >= self.limits.address_spaces || id >= self.limits.user_slots || first % 64 != 0 {
            return Err(Errno::EINVAL);
        }
        let (slot, log) = self.logged_slot(&book, args.slot)?;
        let after = slot.pages().checked_sub(first).ok_or(Errno::EINVAL)?;
        if pages > after || (pages < after && pages % 64 != 0) {
            return Err(Errno::EINVAL);
        }
        let masks: Vec<u64> = UserPtr::new(args.dirty_bitmap).read_vec(pages.div_ceil(64) as usize)?;
        let words = log.words.iter().skip((first / 64) as usize);
        let mut cleared = false;
        for (word, mask) in words.zip(masks) {
            // Bits beyond the slot are never set in the log, so the client may set them in the mask.
            cleared |= mask != 0 && word.fetch_and(!mask, SeqCst) & mask != 0;
        }
        if cleared {
            self.flush_all(Request::TLB_FLUSH);
        }
        Ok(())
    }
}
