//! Capabilities: what KVM_CHECK_EXTENSION answers for x86, and what KVM_ENABLE_CAP switches (`enable`).
//!
//! The neutral capabilities (memory slots, irqfd, ioeventfd, coalesced I/O and so on) are answered by `ring3-kvm`.

pub mod enable;

use std::sync::atomic::Ordering::Relaxed;

use ring3_uapi::cap::*;
use ring3_uapi::x86::pv;
use ring3_uapi::x86::{
    KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, KVM_CLOCK_TSC_STABLE, KVM_GUESTDBG_BLOCKIRQ,
    KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP,
    KVM_PMU_CAP_DISABLE, KVM_SYNC_X86_VALID_FIELDS, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
    KVM_X2APIC_API_USE_32BIT_IDS, KVM_X86_DEFAULT_VM,
};
use ring3_uapi::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP};

use crate::cpuid::{Layout, supported, xsave_size};
use crate::lapic::DEFAULT_CYCLE_NS;
use crate::msr::mce;
use crate::vm::X86Vm;

/// All the control bits of KVM_SET_GUEST_DEBUG that work.
pub const GUEST_DEBUG: u32 = KVM_GUESTDBG_ENABLE
    | KVM_GUESTDBG_SINGLESTEP
    | KVM_GUESTDBG_USE_SW_BP
    | KVM_GUESTDBG_USE_HW_BP
    | KVM_GUESTDBG_INJECT_DB
    | KVM_GUESTDBG_INJECT_BP
    | KVM_GUESTDBG_BLOCKIRQ;

pub const X2APIC_API: u64 = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;

/// Bytes of KVM_GET_XSAVE2.
pub fn xsave2_size() -> u32 {
    xsave_size(supported::supported_xcr0(), Layout::Standard).max(4096)
}

/// A capability and its answer; the order is that of the numbers.
struct Answer(u32, fn() -> i64);

const ANSWERS: &[Answer] = &[
    Answer(KVM_CAP_IRQCHIP, || 1),
    Answer(KVM_CAP_HLT, || 1),
    Answer(KVM_CAP_MMU_SHADOW_CACHE_CONTROL, || 1),
    Answer(KVM_CAP_SET_TSS_ADDR, || 1),
    Answer(KVM_CAP_EXT_CPUID, || 1),
    Answer(KVM_CAP_CLOCKSOURCE, || 1),
    Answer(KVM_CAP_PIT, || 1),
    Answer(KVM_CAP_NOP_IO_DELAY, || 1),
    Answer(KVM_CAP_MP_STATE, || 1),
    Answer(KVM_CAP_USER_NMI, || 1),
    Answer(KVM_CAP_SET_GUEST_DEBUG, || 1),
    Answer(KVM_CAP_REINJECT_CONTROL, || 1),
    Answer(KVM_CAP_IRQ_INJECT_STATUS, || 1),
    Answer(KVM_CAP_SPLIT_IRQCHIP, || 1),
    Answer(KVM_CAP_PCI_SEGMENT, || 1),
    Answer(KVM_CAP_MCE, || i64::from(mce::MAX_BANKS)),
    Answer(KVM_CAP_PIT2, || 1),
    Answer(KVM_CAP_SET_BOOT_CPU_ID, || 1),
    Answer(KVM_CAP_PIT_STATE2, || 1),
    Answer(KVM_CAP_SET_IDENTITY_MAP_ADDR, || 1),
    Answer(KVM_CAP_ADJUST_CLOCK, || {
        i64::from(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC)
    }),
    Answer(KVM_CAP_VCPU_EVENTS, || 1),
    Answer(KVM_CAP_DEBUGREGS, || 1),
    Answer(KVM_CAP_X86_ROBUST_SINGLESTEP, || 1),
    Answer(KVM_CAP_ENABLE_CAP, || 1),
    Answer(KVM_CAP_XSAVE, || 1),
    Answer(KVM_CAP_XCRS, || i64::from(supported::supported_xcr0() != 0)),
    Answer(KVM_CAP_TSC_CONTROL, || 1),
    Answer(KVM_CAP_GET_TSC_KHZ, || 1),
    Answer(KVM_CAP_TSC_DEADLINE_TIMER, || 1),
    Answer(KVM_CAP_KVMCLOCK_CTRL, || 1),
    Answer(KVM_CAP_SYNC_REGS, || KVM_SYNC_X86_VALID_FIELDS as i64),
    Answer(KVM_CAP_EXT_EMUL_CPUID, || 1),
    Answer(KVM_CAP_IOAPIC_POLARITY_IGNORED, || 1),
    Answer(KVM_CAP_DISABLE_QUIRKS, || 1),
    Answer(KVM_CAP_X86_SMM, || 1),
    Answer(KVM_CAP_X2APIC_API, || X2APIC_API as i64),
    Answer(KVM_CAP_X86_DISABLE_EXITS, || enable::DISABLE_EXITS as i64),
    Answer(KVM_CAP_MSR_PLATFORM_INFO, || 1),
    Answer(KVM_CAP_GET_MSR_FEATURES, || 1),
    Answer(KVM_CAP_PMU_EVENT_FILTER, || 1),
    Answer(KVM_CAP_EXCEPTION_PAYLOAD, || 1),
    Answer(KVM_CAP_X86_USER_SPACE_MSR, || 1),
    Answer(KVM_CAP_X86_MSR_FILTER, || 1),
    Answer(KVM_CAP_EXIT_HYPERCALL, || {
        pv::KVM_EXIT_HYPERCALL_VALID_MASK as i64
    }),
    Answer(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, || 1),
    Answer(KVM_CAP_SET_GUEST_DEBUG2, || i64::from(GUEST_DEBUG)),
    Answer(KVM_CAP_SREGS2, || 1),
    Answer(KVM_CAP_VCPU_ATTRIBUTES, || 1),
    Answer(KVM_CAP_SYS_ATTRIBUTES, || 1),
    Answer(KVM_CAP_XSAVE2, || i64::from(xsave2_size())),
    Answer(KVM_CAP_PMU_CAPABILITY, || KVM_PMU_CAP_DISABLE as i64),
    Answer(KVM_CAP_DISABLE_QUIRKS2, || enable::QUIRKS as i64),
    Answer(KVM_CAP_VM_TSC_CONTROL, || 1),
    Answer(KVM_CAP_X86_TRIPLE_FAULT_EVENT, || 1),
    Answer(KVM_CAP_VM_TYPES, || 1 << KVM_X86_DEFAULT_VM),
    Answer(KVM_CAP_PMU_EVENT_MASKED_EVENTS, || 1),
    Answer(KVM_CAP_PRE_FAULT_MEMORY, || 1),
];

/// The answer for a capability of x86; zero for what is not there.
pub fn check(vm: Option<&X86Vm>, cap: u32) -> i64 {
    if cap == KVM_CAP_X86_APIC_BUS_CYCLES_NS {
        let chosen = vm.map(|vm| vm.arch().settings.apic_bus_cycle_ns.load(Relaxed));
        return chosen.unwrap_or(DEFAULT_CYCLE_NS) as i64;
    }
    ANSWERS.iter().find(|a| a.0 == cap).map_or(0, |a| (a.1)())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capability_is_answered_once() {
        for (i, a) in ANSWERS.iter().enumerate() {
            assert!(ANSWERS[i + 1..].iter().all(|b| b.0 != a.0), "{}", a.0);
        }
    }

    #[test]
    fn absent_ones_are_zero() {
        assert_eq!(check(None, KVM_CAP_NESTED_STATE), 0);
    }
}
