//! Capabilities that every architecture has: KVM_CHECK_EXTENSION and KVM_ENABLE_CAP.

use super::Vm;
use crate::arch::{Arch, System, Vms};
use crate::errno::Errno;
use crate::vcpu::dirty_ring::{ENTRY, MOST};
use ring3_uapi::cap::*;
use ring3_uapi::{
    GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEMORY_ATTRIBUTE_PRIVATE, KvmEnableCap,
};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const GUEST_MEMFD_FLAGS: u64 = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
const MANUAL_PROTECT: u64 = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;

/// KVM_CHECK_EXTENSION, of `/dev/kvm` or of a VM.
pub(crate) fn check_extension<A: Arch>(vm: Option<&Vm<A>>, arg: u64) -> i64 {
    let Ok(cap) = u32::try_from(arg) else { return 0 };
    let limits = &A::LIMITS;
    match cap {
        KVM_CAP_USER_MEMORY
        | KVM_CAP_USER_MEMORY2
        | KVM_CAP_DESTROY_MEMORY_REGION_WORKS
        | KVM_CAP_JOIN_MEMORY_REGIONS_WORKS
        | KVM_CAP_INTERNAL_ERROR_DATA
        | KVM_CAP_SIGNAL_MSI
        | KVM_CAP_IRQFD
        | KVM_CAP_IRQFD_RESAMPLE
        | KVM_CAP_IOEVENTFD
        | KVM_CAP_IOEVENTFD_ANY_LENGTH
        | KVM_CAP_CHECK_EXTENSION_VM
        | KVM_CAP_ENABLE_CAP_VM
        | KVM_CAP_SYNC_MMU
        | KVM_CAP_IMMEDIATE_EXIT
        | KVM_CAP_BINARY_STATS_FD
        | KVM_CAP_HALT_POLL => 1,
        KVM_CAP_READONLY_MEM => i64::from(limits.memory.readonly),
        KVM_CAP_COALESCED_MMIO => limits.coalesced_page.map_or(0, |page| page as i64),
        KVM_CAP_COALESCED_PIO => i64::from(limits.coalesced_page.is_some()),
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => MANUAL_PROTECT as i64,
        KVM_CAP_DIRTY_LOG_RING | KVM_CAP_DIRTY_LOG_RING_ACQ_REL if limits.dirty_ring_page.is_some() => {
            i64::from(MOST * ENTRY)
        }
        KVM_CAP_IRQ_ROUTING => i64::from(limits.irq_routes),
        KVM_CAP_MULTI_ADDRESS_SPACE => {
            let all = limits.memory.address_spaces;
            match vm.map_or(all, |vm| vm.memory.address_spaces()) {
                // There is nothing to choose from.
                1 => 0,
                spaces => i64::from(spaces),
            }
        }
        KVM_CAP_MEMORY_ATTRIBUTES if limits.memory.private => {
            vm.map_or(KVM_MEMORY_ATTRIBUTE_PRIVATE, |vm| vm.memory.attributes()) as i64
        }
        KVM_CAP_GUEST_MEMFD => i64::from(limits.memory.private),
        KVM_CAP_GUEST_MEMFD_FLAGS if limits.memory.private => {
            vm.map_or(GUEST_MEMFD_FLAGS, |vm| vm.memory.guest_memfd_flags()) as i64
        }
        KVM_CAP_NR_MEMSLOTS => i64::from(limits.memory.user_slots),
        KVM_CAP_NR_VCPUS => {
            let here = std::thread::available_parallelism().map_or(1, usize::from) as i64;
            // Some clients want to make four whatever the host has, and processors are threads here.
            here.max(4).min(i64::from(limits.vcpus))
        }
        KVM_CAP_MAX_VCPUS => i64::from(limits.vcpus),
        KVM_CAP_MAX_VCPU_ID => i64::from(limits.vcpu_ids),
        _ => <A as System>::check_extension(vm, cap),
    }
}

/// KVM_ENABLE_CAP on a VM.
pub(super) fn enable<A: Arch>(vm: &Arc<Vm<A>>, cap: &KvmEnableCap) -> Result<i64, Errno> {
    match cap.cap {
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => {
            let enable = cap.args[0] & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
            let allowed = if enable != 0 { MANUAL_PROTECT } else { 0 };
            if cap.flags != 0 || cap.args[0] & !allowed != 0 {
                return Err(Errno::EINVAL);
            }
            vm.memory.set_manual_protect(cap.args[0]);
            Ok(0)
        }
        KVM_CAP_DIRTY_LOG_RING | KVM_CAP_DIRTY_LOG_RING_ACQ_REL if A::LIMITS.dirty_ring_page.is_some() => {
            let _changes = vm.changes.lock();
            // Of the argument, Linux looks at the lower half.
            vm.memory
                .set_dirty_ring_size(cap.args[0] as u32, !vm.vcpus().is_empty())?;
            Ok(0)
        }
        KVM_CAP_HALT_POLL => {
            let most = u32::try_from(cap.args[0]).map_err(|_| Errno::EINVAL)?;
            if cap.flags != 0 {
                return Err(Errno::EINVAL);
            }
            vm.halt_poll_most.store(most, Relaxed);
            Ok(0)
        }
        _ => <A as Vms>::enable_cap(vm, cap),
    }
}
