//! KVM_SET_MEMORY_ATTRIBUTES: which guest pages are private, in VMs that have such.

use super::Memory;
use crate::errno::Errno;
use crate::vcpu::Request;
use ring3_host::addr::PAGE_SIZE;
use ring3_uapi::{KVM_MEMORY_ATTRIBUTE_PRIVATE, KvmMemoryAttributes};

impl Memory {
    /// The attributes that pages can have.
    pub(crate) fn attributes(&self) -> u64 {
        if self.has_private() {
            KVM_MEMORY_ATTRIBUTE_PRIVATE
        } else {
            0
        }
    }

    /// KVM_SET_MEMORY_ATTRIBUTES. When it returns, no vCPU reaches a page as what it was before.
    pub(crate) fn set_attributes(&self, args: &KvmMemoryAttributes) -> Result<(), Errno> {
        let aligned = args.address.is_multiple_of(PAGE_SIZE) && args.size.is_multiple_of(PAGE_SIZE);
        let end = args.address.checked_add(args.size);
        let known = args.flags == 0 && args.attributes & !self.attributes() == 0;
        let end = end
            .filter(|_| known && aligned && args.size != 0)
            .ok_or(Errno::EINVAL)?;
        let private = args.attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE != 0;
        let (first, end) = (args.address / PAGE_SIZE, end / PAGE_SIZE);
        let _changes = self.changes.lock();
        // There is one address space only where there are private pages.
        let slots = self.slots(0);
        if slots.private().all_are(first, end, private) {
            return Ok(());
        }
        self.publish(0, slots.with_private(slots.private().with(first, end, private)));
        self.flush_all(Request::SLOTS_CHANGED);
        Ok(())
    }
}
