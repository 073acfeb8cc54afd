//! KVM_SET_USER_MEMORY_REGION: creating, moving, changing and deleting slots.
//!
//! Not supported: guest_memfd (KVM_MEM_GUEST_MEMFD is refused, and its capability not offered).

use super::dirty::DirtyLog;
use super::{Memory, Slot};
use crate::errno::Errno;
use crate::vcpu::Request;
use ring3_host::addr::{PAGE_SIZE, USER_END};
use ring3_host::mem::HostRegion;
use ring3_uapi::{
    KVM_DIRTY_LOG_INITIALLY_SET, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KvmUserspaceMemoryRegion,
    KvmUserspaceMemoryRegion2,
};
use std::sync::Arc;

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
}

impl From<KvmUserspaceMemoryRegion> for SlotSpec {
    fn from(r: KvmUserspaceMemoryRegion) -> SlotSpec {
        SlotSpec {
            slot: r.slot,
            flags: r.flags,
            guest: r.guest_phys_addr,
            size: r.memory_size,
            client: r.userspace_addr,
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

    fn check(&self, memory: &Memory) -> Result<(), Errno> {
        let limits = &memory.limits;
        let readonly = if limits.readonly { KVM_MEM_READONLY } else { 0 };
        let aligned = |value: u64| value.is_multiple_of(PAGE_SIZE);
        let fine = self.id() < limits.user_slots
            && self.flags & !(KVM_MEM_LOG_DIRTY_PAGES | readonly) == 0
            && aligned(self.size)
            && aligned(self.guest)
            && aligned(self.client)
            // With no size it is only a place.
            && (self.size == 0 || HostRegion::from_client(self.client, self.size).is_some())
            && self.client <= USER_END
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
        let _changes = self.changes.lock();
        let slots = self.slots(spec.space());
        let old = slots.by_id(spec.id());
        if spec.size == 0 {
            old.ok_or(Errno::EINVAL)?;
            self.replace(spec, None);
            return Ok(());
        }
        let region = HostRegion::from_client(spec.client, spec.size).ok_or(Errno::EINVAL)?;
        let base = spec.guest / PAGE_SIZE;
        if let Some(old) = old {
            if *old.region() != region || (spec.flags ^ old.flags) & KVM_MEM_READONLY != 0 {
                return Err(Errno::EINVAL);
            }
            if old.base == base && old.flags == spec.flags {
                return Ok(());
            }
        }
        let moved = old.is_none_or(|old| old.base != base);
        if moved && slots.overlaps(spec.id(), base, base + region.pages()) {
            return Err(Errno::EEXIST);
        }
        let slot = Slot {
            space: spec.space(),
            id: spec.id(),
            base,
            flags: spec.flags,
            region,
            dirty: self.log_for(spec, region.pages(), old)?,
            code: self.code.of(&region)?,
        };
        allowed(&slot)?;
        self.replace(spec, Some(Arc::new(slot)));
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
        if self.manual_protect() & KVM_DIRTY_LOG_INITIALLY_SET != 0 {
            log.mark_all(pages);
        }
        Ok(Some(Arc::new(log)))
    }

    /// Swaps the slot with this id, and waits until no vCPU uses the old one.
    fn replace(&self, spec: &SlotSpec, slot: Option<Arc<Slot>>) {
        let slots = self.slots(spec.space());
        self.publish(spec.space(), slots.with(spec.id(), slot));
        self.seats.request_all_and_wait(None, Request::SLOTS_CHANGED);
    }
}
