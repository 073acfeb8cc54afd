//! KVM_ENABLE_CAP on a VM and on a vCPU.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ring3_host::process::may_restart_machine;
use ring3_kvm::Errno;
use ring3_kvm::arch::Types;
use ring3_uapi::KvmEnableCap;
use ring3_uapi::cap::*;
use ring3_uapi::exit::KVM_MSR_EXIT_REASON_VALID_MASK;
use ring3_uapi::x86::*;

use crate::vcpu::{VcpuState, X86Vcpu};
use crate::vm::X86Vm;
use crate::{X86, controllers};

/// Exits that can be turned off. HLT never costs the client anything here, PAUSE never exits.
pub const DISABLE_EXITS: u64 = KVM_X86_DISABLE_EXITS_PAUSE | KVM_X86_DISABLE_EXITS_HLT;

/// Quirks that can be turned off, in fact or because they are not there.
pub const QUIRKS: u64 = KVM_X86_QUIRK_LINT0_REENABLED
    | KVM_X86_QUIRK_CD_NW_CLEARED
    | KVM_X86_QUIRK_LAPIC_MMIO_HOLE
    | KVM_X86_QUIRK_OUT_7E_INC_RIP
    | KVM_X86_QUIRK_FIX_HYPERCALL_INSN;

/// The two modes of KVM_CAP_X86_BUS_LOCK_EXIT.
pub const BUS_LOCK_EXIT: u64 = KVM_BUS_LOCK_DETECTION_OFF | KVM_BUS_LOCK_DETECTION_EXIT;

fn within(value: u64, mask: u64) -> Result<u64, Errno> {
    if value & !mask == 0 {
        Ok(value)
    } else {
        Err(Errno::EINVAL)
    }
}

/// A capability and what KVM_ENABLE_CAP does with its first argument; there are no flags.
type OnVm = fn(&X86Vm, u64) -> Result<i64, Errno>;
type OnVcpu = fn(&mut VcpuState, u64) -> Result<i64, Errno>;

pub const ON_VM: &[(u32, OnVm)] = &[
    (KVM_CAP_DISABLE_QUIRKS, |vm, value| {
        disable_quirks(vm, value & QUIRKS)
    }),
    (KVM_CAP_SPLIT_IRQCHIP, controllers::client::split),
    (KVM_CAP_X2APIC_API, x2apic_api),
    (KVM_CAP_X86_DISABLE_EXITS, disable_exits),
    (KVM_CAP_MAX_VCPU_ID, max_vcpu_id),
    (KVM_CAP_MSR_PLATFORM_INFO, |vm, value| {
        switch(&vm.arch().settings.guest_reads_platform_info, value)
    }),
    (KVM_CAP_EXCEPTION_PAYLOAD, |vm, value| {
        switch(&vm.arch().settings.exception_payload, value)
    }),
    (KVM_CAP_X86_USER_SPACE_MSR, |vm, value| {
        let value = within(value, u64::from(KVM_MSR_EXIT_REASON_VALID_MASK))?;
        put(&vm.arch().settings.user_space_msr, value)
    }),
    (KVM_CAP_X86_BUS_LOCK_EXIT, bus_lock_exit),
    (KVM_CAP_EXIT_ON_EMULATION_FAILURE, exit_on_emulation_failure),
    (KVM_CAP_EXIT_HYPERCALL, |vm, value| {
        let value = within(value, pv::KVM_EXIT_HYPERCALL_VALID_MASK)?;
        put(&vm.arch().settings.hypercall_exits, value)
    }),
    (KVM_CAP_PMU_CAPABILITY, pmu_capability),
    (KVM_CAP_DISABLE_QUIRKS2, |vm, value| {
        disable_quirks(vm, within(value, QUIRKS)?)
    }),
    (KVM_CAP_X86_TRIPLE_FAULT_EVENT, |vm, value| {
        switch(&vm.arch().settings.triple_fault_event, value)
    }),
    (KVM_CAP_X86_NOTIFY_VMEXIT, notify_vmexit),
    (KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, disable_nx_huge_pages),
    (KVM_CAP_X86_APIC_BUS_CYCLES_NS, bus_cycle),
];

pub const ON_VCPU: &[(u32, OnVcpu)] = &[(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, |s, value| {
    s.unit.enforce_pv_cpuid = value != 0;
    Ok(0)
})];

fn find<T: Copy>(rows: &[(u32, T)], cap: &KvmEnableCap) -> Result<T, Errno> {
    let row = rows.iter().find(|row| row.0 == cap.cap && cap.flags == 0);
    row.map(|row| row.1).ok_or(Errno::EINVAL)
}

/// On a VM.
pub fn on_vm(vm: &X86Vm, cap: &KvmEnableCap) -> Result<i64, Errno> {
    find(ON_VM, cap)?(vm, cap.args[0])
}

/// On a vCPU.
pub fn on_vcpu(_: &X86Vcpu, s: &mut VcpuState, cap: &KvmEnableCap) -> Result<i64, Errno> {
    find(ON_VCPU, cap)?(s, cap.args[0])
}

fn put(setting: &AtomicU64, value: u64) -> Result<i64, Errno> {
    setting.store(value, Ordering::Relaxed);
    Ok(0)
}

fn switch(setting: &AtomicBool, value: u64) -> Result<i64, Errno> {
    setting.store(value != 0, Ordering::Relaxed);
    Ok(0)
}

/// What is off stays off.
fn disable_quirks(vm: &X86Vm, quirks: u64) -> Result<i64, Errno> {
    let off = &vm.arch().settings.disabled_quirks;
    off.fetch_or(quirks, Ordering::Relaxed);
    Ok(0)
}

fn x2apic_api(vm: &X86Vm, value: u64) -> Result<i64, Errno> {
    let value = within(value, super::X2APIC_API)?;
    vm.arch().settings.x2apic_api.fetch_or(value, Ordering::Relaxed);
    if value & KVM_X2APIC_API_USE_32BIT_IDS != 0 {
        vm.arch().apics.each(|apic| apic.lock().lapic.widen_ids());
    }
    Ok(0)
}

/// Before there are vCPUs.
fn disable_exits(vm: &X86Vm, value: u64) -> Result<i64, Errno> {
    let value = within(value, DISABLE_EXITS)?;
    let _changes = vm.changes().lock();
    if !vm.vcpus().is_empty() {
        return Err(Errno::EINVAL);
    }
    vm.arch()
        .settings
        .disabled_exits
        .fetch_or(value, Ordering::Relaxed);
    Ok(0)
}

/// Before there are vCPUs.
fn pmu_capability(vm: &X86Vm, value: u64) -> Result<i64, Errno> {
    let value = within(value, KVM_PMU_CAP_DISABLE)?;
    let _changes = vm.changes().lock();
    if !vm.vcpus().is_empty() {
        return Err(Errno::EINVAL);
    }
    let disabled = value & KVM_PMU_CAP_DISABLE;
    switch(
        &vm.arch().settings.performance_counters,
        disabled ^ KVM_PMU_CAP_DISABLE,
    )
}

fn exit_on_emulation_failure(vm: &X86Vm, value: u64) -> Result<i64, Errno> {
    switch(&vm.arch().settings.exit_on_emulation_failure, within(value, 1)?)
}

/// The flags of KVM_CAP_X86_NOTIFY_VMEXIT.
pub const NOTIFY: u64 = KVM_X86_NOTIFY_VMEXIT_ENABLED | KVM_X86_NOTIFY_VMEXIT_USER;

/// Before there are vCPUs. The window, in the upper half, is as long as an event's delivery takes here.
fn notify_vmexit(vm: &X86Vm, value: u64) -> Result<i64, Errno> {
    let flags = within(value & 0xffff_ffff, NOTIFY)?;
    let _changes = vm.changes().lock();
    if flags & KVM_X86_NOTIFY_VMEXIT_ENABLED == 0 || !vm.vcpus().is_empty() {
        return Err(Errno::EINVAL);
    }
    put(&vm.arch().settings.notify_vmexit, flags)
}

/// Before there are vCPUs, and, as in Linux, for those only who may restart the machine. No page is split here as it is.
fn disable_nx_huge_pages(vm: &X86Vm, value: u64) -> Result<i64, Errno> {
    if !may_restart_machine() {
        return Err(Errno::EPERM);
    }
    let _changes = vm.changes().lock();
    if value != 0 || !vm.vcpus().is_empty() {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

/// Of vCPUs that are made from now on.
fn bus_lock_exit(vm: &X86Vm, value: u64) -> Result<i64, Errno> {
    let value = within(value, BUS_LOCK_EXIT)?;
    if value == BUS_LOCK_EXIT {
        return Err(Errno::EINVAL);
    }
    if value & KVM_BUS_LOCK_DETECTION_EXIT != 0 {
        vm.arch().settings.bus_lock_exits.store(true, Ordering::Relaxed);
    }
    Ok(0)
}

/// Of the local APICs, before there are any. The longest time that their timers count has to be a number of nanoseconds.
fn bus_cycle(vm: &X86Vm, ns: u64) -> Result<i64, Errno> {
    const MOST_CYCLES: u64 = (u32::MAX as u64) * 128;
    if ns == 0 || ns.checked_mul(MOST_CYCLES).is_none() {
        return Err(Errno::EINVAL);
    }
    let _changes = vm.changes().lock();
    if !controllers::has_apics(vm) {
        return Err(Errno::ENXIO);
    }
    if !vm.vcpus().is_empty() {
        return Err(Errno::EINVAL);
    }
    let set = &vm.arch().settings;
    set.apic_bus_cycle_ns.store(ns, Ordering::Relaxed);
    Ok(0)
}

/// Once, not below the boot processor's id, and before there are vCPUs.
fn max_vcpu_id(vm: &X86Vm, most: u64) -> Result<i64, Errno> {
    let _changes = vm.changes().lock();
    let set = &vm.arch().settings;
    let now = set.max_vcpu_id.load(Ordering::Relaxed);
    let fits =
        u64::from(set.boot_cpu_id.load(Ordering::Relaxed)) <= most && most <= u64::from(X86::LIMITS.vcpu_ids);
    let first = now == 0 && vm.vcpus().is_empty();
    if !fits || !(first || u64::from(set.vcpu_ids()) == most) {
        return Err(Errno::EINVAL);
    }
    set.max_vcpu_id.store(most as u32, Ordering::Relaxed);
    Ok(0)
}
