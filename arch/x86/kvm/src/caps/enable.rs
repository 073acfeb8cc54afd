//! KVM_ENABLE_CAP on a VM and on a vCPU.

use std::sync::atomic::Ordering;

use ring3_kvm::Errno;
use ring3_uapi::KvmEnableCap;
use ring3_uapi::cap::*;
use ring3_uapi::exit::KVM_MSR_EXIT_REASON_VALID_MASK;
use ring3_uapi::x86::*;

use crate::vcpu::{VcpuState, X86Vcpu};
use crate::vm::X86Vm;

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
            set.x2apic_api
                .fetch_or(within(value, super::X2APIC_API)?, Ordering::Relaxed);
        }
        KVM_CAP_X86_DISABLE_EXITS => {
            let all = DISABLE_EXITS | KVM_X86_DISABLE_EXITS_MWAIT | KVM_X86_DISABLE_EXITS_CSTATE;
            set.disabled_exits
                .fetch_or(within(value, all)? & DISABLE_EXITS, Ordering::Relaxed);
        }
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
