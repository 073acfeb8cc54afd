//! KVM_ENABLE_CAP on a VM and on a vCPU.

use std::sync::atomic::Ordering;

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

fn within(value: u64, mask: u64) -> Result<u64, Errno> {
    if value & !mask == 0 {
        Ok(value)
    } else {
        Err(Errno::EINVAL)
    }
}

/// On a VM; the irqchip's capabilities are in [`crate::irqchip`].
pub fn on_vm(vm: &X86Vm, cap: &KvmEnableCap) -> Result<i64, Errno> {
    if cap.flags != 0 {
        return Err(Errno::EINVAL);
    }
    let set = &vm.arch().settings;
    let value = cap.args[0];
    match cap.cap {
        KVM_CAP_DISABLE_QUIRKS => set.disabled_quirks.store(value, Ordering::Relaxed),
        KVM_CAP_DISABLE_QUIRKS2 => {
            set.disabled_quirks
                .store(within(value, QUIRKS)?, Ordering::Relaxed);
        }
        KVM_CAP_X2APIC_API => {
            let value = within(value, super::X2APIC_API)?;
            set.x2apic_api.fetch_or(value, Ordering::Relaxed);
            if value & KVM_X2APIC_API_USE_32BIT_IDS != 0 {
                vm.arch().apics.each(|apic| apic.lock().lapic.widen_ids());
            }
        }
        KVM_CAP_X86_DISABLE_EXITS => {
            let all = DISABLE_EXITS | KVM_X86_DISABLE_EXITS_MWAIT | KVM_X86_DISABLE_EXITS_CSTATE;
            let value = within(value, all)? & DISABLE_EXITS;
            let _changes = vm.changes().lock();
            if !vm.vcpus().is_empty() {
                return Err(Errno::EINVAL);
            }
            set.disabled_exits.fetch_or(value, Ordering::Relaxed);
        }
        KVM_CAP_PMU_CAPABILITY => {
            let value = within(value, KVM_PMU_CAP_DISABLE)?;
            let _changes = vm.changes().lock();
            if !vm.vcpus().is_empty() {
                return Err(Errno::EINVAL);
            }
            set.performance_counters
                .store(value & KVM_PMU_CAP_DISABLE == 0, Ordering::Relaxed);
        }
        KVM_CAP_X86_APIC_BUS_CYCLES_NS => return bus_cycle(vm, value),
        KVM_CAP_MAX_VCPU_ID => return max_vcpu_id(vm, value),
        KVM_CAP_MSR_PLATFORM_INFO => set.guest_reads_platform_info.store(value != 0, Ordering::Relaxed),
        KVM_CAP_EXCEPTION_PAYLOAD => set.exception_payload.store(value != 0, Ordering::Relaxed),
        KVM_CAP_X86_TRIPLE_FAULT_EVENT => set.triple_fault_event.store(value != 0, Ordering::Relaxed),
        KVM_CAP_X86_USER_SPACE_MSR => {
            let value = within(value, u64::from(KVM_MSR_EXIT_REASON_VALID_MASK))?;
            set.user_space_msr.store(value, Ordering::Relaxed);
        }
        KVM_CAP_EXIT_HYPERCALL => {
            let value = within(value, pv::KVM_EXIT_HYPERCALL_VALID_MASK)?;
            set.hypercall_exits.store(value, Ordering::Relaxed);
        }
        _ => return Err(Errno::EINVAL),
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

/// On a vCPU.
pub fn on_vcpu(_: &X86Vcpu, s: &mut VcpuState, cap: &KvmEnableCap) -> Result<i64, Errno> {
    if cap.flags != 0 {
        return Err(Errno::EINVAL);
    }
    match cap.cap {
        KVM_CAP_ENFORCE_PV_FEATURE_CPUID => s.unit.enforce_pv_cpuid = cap.args[0] != 0,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
