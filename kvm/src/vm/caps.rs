//! Capabilities that every architecture has: KVM_CHECK_EXTENSION and KVM_ENABLE_CAP.

use super::Vm;
use crate::arch::{Arch, Limits, System, Vms};
use crate::errno::Errno;
use ring3_uapi::cap::*;
use ring3_uapi::{KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KvmEnableCap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const MANUAL_PROTECT: u64 = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;

/// A capability and its answer.
type Answer = (u32, fn(&Limits) -> i64);

const ANSWERS: &[Answer] = &[
    (KVM_CAP_USER_MEMORY, |_| 1),
    (KVM_CAP_NR_VCPUS, recommended_vcpus),
    (KVM_CAP_NR_MEMSLOTS, |limits| i64::from(limits.memory.user_slots)),
    (KVM_CAP_COALESCED_MMIO, |limits| {
        limits.coalesced_page.map_or(0, |page| page as i64)
    }),
    (KVM_CAP_SYNC_MMU, |_| 1),
    (KVM_CAP_DESTROY_MEMORY_REGION_WORKS, |_| 1),
    (KVM_CAP_IRQ_ROUTING, |limits| i64::from(limits.irq_routes)),
    (KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, |_| 1),
    (KVM_CAP_IRQFD, |_| 1),
    (KVM_CAP_IOEVENTFD, |_| 1),
    (KVM_CAP_INTERNAL_ERROR_DATA, |_| 1),
    (KVM_CAP_MAX_VCPUS, |limits| i64::from(limits.vcpus)),
    (KVM_CAP_SIGNAL_MSI, |_| 1),
    (KVM_CAP_DEVICE_CTRL, |_| 1),
    (KVM_CAP_READONLY_MEM, |limits| i64::from(limits.memory.readonly)),
    (KVM_CAP_IRQFD_RESAMPLE, |_| 1),
    (KVM_CAP_ENABLE_CAP_VM, |_| 1),
    (KVM_CAP_CHECK_EXTENSION_VM, |_| 1),
    (KVM_CAP_MULTI_ADDRESS_SPACE, |limits| {
        let spaces = limits.memory.address_spaces;
        if spaces > 1 { i64::from(spaces) } else { 0 }
    }),
    (KVM_CAP_IOEVENTFD_ANY_LENGTH, |_| 1),
    (KVM_CAP_MAX_VCPU_ID, |limits| i64::from(limits.vcpu_ids)),
    (KVM_CAP_IMMEDIATE_EXIT, |_| 1),
    (KVM_CAP_COALESCED_PIO, |limits| {
        i64::from(limits.coalesced_page.is_some())
    }),
    (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, |_| MANUAL_PROTECT as i64),
    (KVM_CAP_HALT_POLL, |_| 1),
    (KVM_CAP_SYSTEM_EVENT_DATA, |_| 1),
    (KVM_CAP_USER_MEMORY2, |_| 1),
];

fn recommended_vcpus(limits: &Limits) -> i64 {
    let here = std::thread::available_parallelism().map_or(1, usize::from) as i64;
    // Some clients want to make four whatever the host has, and processors are threads here.
    here.max(4).min(i64::from(limits.vcpus))
}

/// The capabilities answered here.
pub(crate) fn capabilities() -> impl Iterator<Item = u32> {
    ANSWERS.iter().map(|answer| answer.0)
}

/// KVM_CHECK_EXTENSION, of `/dev/kvm` or of a VM.
pub(crate) fn check_extension<A: Arch>(vm: Option<&Vm<A>>, arg: u64) -> i64 {
    let Ok(cap) = u32::try_from(arg) else { return 0 };
    match ANSWERS.iter().find(|answer| answer.0 == cap) {
        Some(answer) => (answer.1)(&A::LIMITS),
        None => <A as System>::check_extension(vm, cap),
    }
}

/// A capability and what KVM_ENABLE_CAP does with its first argument; there are no flags.
type Switch<A> = (u32, fn(&Vm<A>, u64) -> Result<(), Errno>);

fn switches<A: Arch>() -> [Switch<A>; 2] {
    [
        (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, set_manual_protect),
        (KVM_CAP_HALT_POLL, set_halt_poll),
    ]
}

/// The capabilities that are switched here.
pub(crate) fn enabled<A: Arch>() -> impl Iterator<Item = u32> {
    switches::<A>().into_iter().map(|switch| switch.0)
}

/// KVM_ENABLE_CAP on a VM.
pub(super) fn enable<A: Arch>(vm: &Arc<Vm<A>>, cap: &KvmEnableCap) -> Result<i64, Errno> {
    let Some((_, switch)) = switches::<A>().into_iter().find(|switch| switch.0 == cap.cap) else {
        return <A as Vms>::enable_cap(vm, cap);
    };
    if cap.flags != 0 {
        return Err(Errno::EINVAL);
    }
    switch(vm, cap.args[0]).map(|()| 0)
}

fn set_manual_protect<A: Arch>(vm: &Vm<A>, value: u64) -> Result<(), Errno> {
    let enable = value & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
    let allowed = if enable != 0 { MANUAL_PROTECT } else { 0 };
    if value & !allowed != 0 {
        return Err(Errno::EINVAL);
    }
    vm.memory.set_manual_protect(value);
    Ok(())
}

fn set_halt_poll<A: Arch>(vm: &Vm<A>, value: u64) -> Result<(), Errno> {
    let most = u32::try_from(value).map_err(|_| Errno::EINVAL)?;
    vm.halt_poll_most.store(most, Relaxed);
    Ok(())
}
