//! KVM_SET_USER_MEMORY_REGION: creating, moving, changing and deleting slots.

use super::book::Book;
use super::dirty::DirtyLog;
use super::{Memory, Memslots, Slot};
use crate::errno::Errno;
use crate::vcpu::Request;
use ring3_host::addr::{PAGE_SIZE, USER_END};
use ring3_host::mem::HostRegion;
use ring3_uapi::{
    KVM_DIRTY_LOG_INITIALLY_SET, KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY,
    KvmUserspaceMemoryRegion, KvmUserspaceMemoryRegion2,
};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// As Linux: page numbers in a slot fit a signed 32-bit number.
const MOST_PAGES: u64 = (1 << 31) - 1;

/// What the client asks for, from either form of the ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotSpec {
    /// The address space in the upper half.
    pub slot: u32,
    pub flags: u32,
    pub guest: u64,
    pub size: u64,
    pub client: u64,
    /// With KVM_MEM_GUEST_MEMFD: the descriptor, and where in the file.
    pub guest_memfd: Option<(RawFd, u64)>,
}

impl From<KvmUserspaceMemoryRegion> for SlotSpec {
    fn from(r: KvmUserspaceMemoryRegion) -> SlotSpec {
        SlotSpec {
            slot: r.slot,
            flags: r.flags,
            guest: r.guest_phys_addr,
            size: r.memory_size,
            client: r.userspace_addr,
            guest_memfd: None,
        }
    }
}

impl From<KvmUserspaceMemoryRegion2> for SlotSpec {
    fn from(r: KvmUserspaceMemoryRegion2) -> SlotSpec {
        SlotSpec {
            slot: r.slot,
            flags: r.flags,
            guest: r.guest_phys_addr,
            size: r.memory_size,
            client: r.userspace_addr,
            guest_memfd: (r.flags & KVM_MEM_GUEST_MEMFD != 0)
                .then_some((r.guest_memfd as RawFd, r.guest_memfd_offset)),
        }
    }
}

impl SlotSpec {
    fn space(&self) -> u16 {
        (self.slot >> 16) as u16
    }

    fn id(&self) -> u16 {
        self.slot as u16
    }

    /// The flags that it may have. What is in a guest_memfd is neither logged nor read-only.
    fn flags(&self, memory: &Memory) -> u32 {
        match self.guest_memfd {
            Some(_) => KVM_MEM_GUEST_MEMFD,
            None if memory.limits.readonly => KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY,
            None => KVM_MEM_LOG_DIRTY_PAGES,
        }
    }

    fn check(&self, memory: &Memory) -> Result<(), Errno> {
        let limits = &memory.limits;
        let aligned = |value: u64| value.is_multiple_of(PAGE_SIZE);
        let fine = self.id() < limits.user_slots
            && self.flags & !self.flags(memory) == 0
            && aligned(self.size)
            && aligned(self.guest)
            && aligned(self.client)
            // With no size it is only a place.
            && (self.size == 0 || HostRegion::from_client(self.client, self.size).is_some())
            && self.client <= USER_END
            && self.guest_memfd.is_none_or(|(_, offset)| {
                memory.limits.private && aligned(offset) && offset.checked_add(self.size).is_some()
            })
            && self.space() < limits.address_spaces
            && self.guest.checked_add(self.size).is_some()
            && self.size / PAGE_SIZE <= MOST_PAGES;
        if fine { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

impl Memory {
    /// KVM_SET_USER_MEMORY_REGION. `allowed` is the architecture's say, before anything changes.
    pub fn set_region(
        &self,
        spec: &SlotSpec,
        allowed: impl FnOnce(&Slot) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        spec.check(self)?;
        // Finding a file may drop another, whose end takes the lock.
        let memfd = spec
            .guest_memfd
            .map(|(fd, offset)| (self.guest_memfd(fd), offset));
        let mut book = self.changes.lock();
        let old = book.slot(spec.space(), spec.id()).cloned();
        if spec.size == 0 {
            let old = old.ok_or(Errno::EINVAL)?;
            self.replace(&mut book, Some(&old), None);
            return Ok(());
        }
        let region = HostRegion::from_client(spec.client, spec.size).ok_or(Errno::EINVAL)?;
        let base = spec.guest / PAGE_SIZE;
        if let Some(old) = &old {
            let kept = KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD;
            let fixed = spec.guest_memfd.is_some() || (spec.flags ^ old.flags) & kept != 0;
            if *old.region() != region || fixed {
                return Err(Errno::EINVAL);
            }
            if old.base == base && old.flags == spec.flags {
                return Ok(());
            }
        }
        let moved = old.as_ref().is_none_or(|old| old.base != base);
        if moved
            && self
                .slots(spec.space())
                .overlaps(spec.id(), base, base + region.pages())
        {
            return Err(Errno::EEXIST);
        }
        let (dirty, code) = (
            self.log_for(spec, region.pages(), old.as_ref())?,
            self.code.of(&region)?,
        );
        let guest = memfd.map(|(memfd, offset)| self.bind(&memfd?, offset, spec.size));
        let slot = Slot {
            space: spec.space(),
            id: spec.id(),
            base,
            flags: spec.flags,
            region,
            dirty,
            code,
            guest: guest.transpose()?,
        };
        if let Err(errno) = allowed(&slot) {
            slot.guest.as_ref().inspect(|guest| guest.unbind());
            return Err(errno);
        }
        self.replace(&mut book, old.as_ref(), Some(Arc::new(slot)));
        Ok(())
    }

    fn log_for(
        &self,
        spec: &SlotSpec,
        pages: u64,
        old: Option<&Arc<Slot>>,
    ) -> Result<Option<Arc<DirtyLog>>, Errno> {
        if spec.flags & KVM_MEM_LOG_DIRTY_PAGES == 0 {
            return Ok(None);
        }
        if let Some(log) = old.and_then(|old| old.dirty.as_ref()) {
            return Ok(Some(Arc::clone(log)));
        }
        let log = DirtyLog::new(pages)?;
        // What is in the log goes to no ring.
        if self.manual_protect() & KVM_DIRTY_LOG_INITIALLY_SET != 0 && self.dirty_ring_size() == 0 {
            log.mark_all(pages);
        }
        Ok(Some(Arc::new(log)))
    }

    /// Puts one slot, or none, in the place of another, or of none, and waits until no vCPU uses the old one.
    fn replace(&self, book: &mut Book, old: Option<&Arc<Slot>>, new: Option<Arc<Slot>>) {
        let Some(space) = new.as_ref().or(old).map(|slot| slot.space) else {
            return;
        };
        // Keeps what the old slot maps until the end.
        let before = self.slots(space);
        let mut slots = match old {
            Some(old) => before.without(old),
            None => Memslots::clone(&before),
        };
        if let Some(old) = old {
            book.remove(old);
        }
        if let Some(new) = new {
            book.add(&new);
            slots = slots.with(new);
        }
        if book.is_aliased() {
            self.aliased.store(true, SeqCst);
        }
        self.publish(space, slots);
        self.flush_all(Request::SLOTS_CHANGED);
        self.aliased.store(book.is_aliased(), SeqCst);
        if let Some(guest) = old.and_then(|old| old.guest.as_ref()) {
            guest.unbind();
        }
    }
}
