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
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const GUEST_MEMFD_FLAGS: u64 = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
const MANUAL_PROTECT: u64 = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;

/// A capability and its answer, of `/dev/kvm` or of a VM.
type Answer<A> = (u32, fn(Option<&Vm<A>>) -> i64);

/// A capability and what KVM_ENABLE_CAP does with its first argument.
type Switch<A> = (u32, Flags, fn(&Vm<A>, u64) -> Result<(), Errno>);

/// What KVM_ENABLE_CAP makes of its flags.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flags {
    MustBeZero,
    Ignored,
}

/// The rows for an architecture.
struct Rows<A>(PhantomData<A>);

impl<A: Arch> Rows<A> {
    const ANSWERS: &'static [Answer<A>] = &[
        (KVM_CAP_USER_MEMORY, |_| 1),
        (KVM_CAP_NR_VCPUS, |_| recommended_vcpus(A::LIMITS.vcpus)),
        (KVM_CAP_NR_MEMSLOTS, |_| i64::from(A::LIMITS.memory.user_slots)),
        (KVM_CAP_COALESCED_MMIO, |_| {
            A::LIMITS.coalesced_page.map_or(0, |page| page as i64)
        }),
        (KVM_CAP_SYNC_MMU, |_| 1),
        (KVM_CAP_DESTROY_MEMORY_REGION_WORKS, |_| 1),
        (KVM_CAP_IRQ_ROUTING, |_| i64::from(A::LIMITS.irq_routes)),
        (KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, |_| 1),
        (KVM_CAP_IRQFD, |_| 1),
        (KVM_CAP_IOEVENTFD, |_| 1),
        (KVM_CAP_INTERNAL_ERROR_DATA, |_| 1),
        (KVM_CAP_MAX_VCPUS, |_| i64::from(A::LIMITS.vcpus)),
        (KVM_CAP_SIGNAL_MSI, |_| 1),
        (KVM_CAP_READONLY_MEM, |_| i64::from(A::LIMITS.memory.readonly)),
        (KVM_CAP_IRQFD_RESAMPLE, |_| 1),
        (KVM_CAP_DEVICE_CTRL, |_| 1),
        (KVM_CAP_ENABLE_CAP_VM, |_| 1),
        (KVM_CAP_CHECK_EXTENSION_VM, |_| 1),
        (KVM_CAP_MULTI_ADDRESS_SPACE, |vm| {
            let all = A::LIMITS.memory.address_spaces;
            match vm.map_or(all, |vm| vm.memory.address_spaces()) {
                // There is nothing to choose from.
                1 => 0,
                spaces => i64::from(spaces),
            }
        }),
        (KVM_CAP_IOEVENTFD_ANY_LENGTH, |_| 1),
        (KVM_CAP_MAX_VCPU_ID, |_| i64::from(A::LIMITS.vcpu_ids)),
        (KVM_CAP_IMMEDIATE_EXIT, |_| 1),
        (KVM_CAP_COALESCED_PIO, |_| {
            i64::from(A::LIMITS.coalesced_page.is_some())
        }),
        (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, |_| MANUAL_PROTECT as i64),
        (KVM_CAP_HALT_POLL, |_| 1),
        (KVM_CAP_DIRTY_LOG_RING, |_| dirty_ring_bytes::<A>()),
        (KVM_CAP_BINARY_STATS_FD, |_| 1),
        (KVM_CAP_SYSTEM_EVENT_DATA, |_| 1),
        (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, |_| dirty_ring_bytes::<A>()),
        (KVM_CAP_USER_MEMORY2, |_| 1),
        (KVM_CAP_MEMORY_ATTRIBUTES, |vm| {
            let all = if A::LIMITS.memory.private {
                KVM_MEMORY_ATTRIBUTE_PRIVATE
            } else {
                0
            };
            vm.map_or(all, |vm| vm.memory.attributes()) as i64
        }),
        (KVM_CAP_GUEST_MEMFD, |_| i64::from(A::LIMITS.memory.private)),
        (KVM_CAP_GUEST_MEMFD_FLAGS, |vm| {
            let all = if A::LIMITS.memory.private {
                GUEST_MEMFD_FLAGS
            } else {
                0
            };
            vm.map_or(all, |vm| vm.memory.guest_memfd_flags()) as i64
        }),
    ];

    const SWITCHES: &'static [Switch<A>] = &[
        (
            KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
            Flags::MustBeZero,
            set_manual_protect,
        ),
        (KVM_CAP_HALT_POLL, Flags::MustBeZero, set_halt_poll),
        (KVM_CAP_DIRTY_LOG_RING, Flags::Ignored, set_dirty_ring),
        (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, Flags::Ignored, set_dirty_ring),
    ];
}

fn recommended_vcpus(most: u32) -> i64 {
    let here = std::thread::available_parallelism().map_or(1, usize::from) as i64;
    // Some clients want to make four whatever the host has, and processors are threads here.
    here.max(4).min(i64::from(most))
}

/// The longest dirty ring.
fn dirty_ring_bytes<A: Arch>() -> i64 {
    A::LIMITS.dirty_ring_page.map_or(0, |_| i64::from(MOST * ENTRY))
}

/// The capabilities answered here.
pub(crate) fn capabilities<A: Arch>() -> impl Iterator<Item = u32> {
    Rows::<A>::ANSWERS.iter().map(|answer| answer.0)
}

/// The capabilities that are switched here.
pub(crate) fn enabled<A: Arch>() -> impl Iterator<Item = u32> {
    Rows::<A>::SWITCHES.iter().map(|switch| switch.0)
}

/// KVM_CHECK_EXTENSION, of `/dev/kvm` or of a VM.
pub(crate) fn check_extension<A: Arch>(vm: Option<&Vm<A>>, arg: u64) -> i64 {
    let Ok(cap) = u32::try_from(arg) else { return 0 };
    match Rows::<A>::ANSWERS.iter().find(|answer| answer.0 == cap) {
        Some(answer) => (answer.1)(vm),
        None => <A as System>::check_extension(vm, cap),
    }
}

/// KVM_ENABLE_CAP on a VM.
pub(super) fn enable<A: Arch>(vm: &Arc<Vm<A>>, cap: &KvmEnableCap) -> Result<i64, Errno> {
    let row = Rows::<A>::SWITCHES.iter().find(|switch| switch.0 == cap.cap);
    let Some((_, flags, switch)) = row else {
        return <A as Vms>::enable_cap(vm, cap);
    };
    if *flags == Flags::MustBeZero && cap.flags != 0 {
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

/// Of the argument, Linux looks at the lower half.
fn set_dirty_ring<A: Arch>(vm: &Vm<A>, value: u64) -> Result<(), Errno> {
    if A::LIMITS.dirty_ring_page.is_none() {
        return Err(Errno::EINVAL);
    }
    let _changes = vm.changes.lock();
    vm.memory
        .set_dirty_ring_size(value as u32, !vm.vcpus().is_empty())
}

fn set_halt_poll<A: Arch>(vm: &Vm<A>, value: u64) -> Result<(), Errno> {
    let most = u32::try_from(value).map_err(|_| Errno::EINVAL)?;
    vm.halt_poll_most.store(most, Relaxed);
    Ok(())
}
