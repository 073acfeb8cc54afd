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
    KVM_X2APIC_API_USE_32BIT_IDS,
};
use ring3_uapi::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP};

use crate::cpuid::{Layout, supported, xsave_size};
use crate::lapic::DEFAULT_CYCLE_NS;
use crate::msr::mce;
use crate::vm::{TYPES, X86Vm};

/// All the control bits of KVM_SET_GUEST_DEBUG that work.
pub const GUEST_DEBUG: u32 = KVM_GUESTDBG_ENABLE
    | KVM_GUESTDBG_SINGLESTEP
    | KVM_GUESTDBG_USE_SW_BP
    | KVM_GUESTDBG_USE_HW_BP
    | KVM_GUESTDBG_INJECT_DB
    | KVM_GUESTDBG_INJECT_BP
    | KVM_GUESTDBG_BLOCKIRQ;

pub const X2APIC_API: u64 = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;

/// Bytes of KVM_GET_XSAVE2, at most.
pub fn xsave2_size() -> u32 {
    xsave_size(supported::permitted_xcr0(), Layout::Standard).max(4096)
}

/// A capability and its answer; the order is that of the numbers.
struct Answer(u32, fn(Option<&X86Vm>) -> i64);

const ANSWERS: &[Answer] = &[
    Answer(KVM_CAP_IRQCHIP, |_| 1),
    Answer(KVM_CAP_HLT, |_| 1),
    Answer(KVM_CAP_MMU_SHADOW_CACHE_CONTROL, |_| 1),
    Answer(KVM_CAP_SET_TSS_ADDR, |_| 1),
    Answer(KVM_CAP_EXT_CPUID, |_| 1),
    Answer(KVM_CAP_VAPIC, |_| 1),
    Answer(KVM_CAP_CLOCKSOURCE, |_| 1),
    Answer(KVM_CAP_PIT, |_| 1),
    Answer(KVM_CAP_NOP_IO_DELAY, |_| 1),
    Answer(KVM_CAP_MP_STATE, |_| 1),
    Answer(KVM_CAP_USER_NMI, |_| 1),
    Answer(KVM_CAP_SET_GUEST_DEBUG, |_| 1),
    Answer(KVM_CAP_REINJECT_CONTROL, |_| 1),
    Answer(KVM_CAP_IRQ_INJECT_STATUS, |_| 1),
    Answer(KVM_CAP_SPLIT_IRQCHIP, |_| 1),
    Answer(KVM_CAP_PCI_SEGMENT, |_| 1),
    Answer(KVM_CAP_MCE, |_| i64::from(mce::MAX_BANKS)),
    Answer(KVM_CAP_PIT2, |_| 1),
    Answer(KVM_CAP_SET_BOOT_CPU_ID, |_| 1),
    Answer(KVM_CAP_PIT_STATE2, |_| 1),
    Answer(KVM_CAP_SET_IDENTITY_MAP_ADDR, |_| 1),
    Answer(KVM_CAP_ADJUST_CLOCK, |_| {
        i64::from(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC)
    }),
    Answer(KVM_CAP_VCPU_EVENTS, |_| 1),
    Answer(KVM_CAP_DEBUGREGS, |_| 1),
    Answer(KVM_CAP_X86_ROBUST_SINGLESTEP, |_| 1),
    Answer(KVM_CAP_ENABLE_CAP, |_| 1),
    Answer(KVM_CAP_XSAVE, |_| 1),
    Answer(KVM_CAP_XCRS, |_| i64::from(supported::supported_xcr0() != 0)),
    Answer(KVM_CAP_ASYNC_PF, |_| 1),
    Answer(KVM_CAP_TSC_CONTROL, |_| 1),
    Answer(KVM_CAP_ONE_REG, |_| 1),
    Answer(KVM_CAP_GET_TSC_KHZ, |_| 1),
    Answer(KVM_CAP_TSC_DEADLINE_TIMER, |_| 1),
    Answer(KVM_CAP_STEAL_TIME, |_| 1),
    Answer(KVM_CAP_KVMCLOCK_CTRL, |_| 1),
    Answer(KVM_CAP_SYNC_REGS, |_| KVM_SYNC_X86_VALID_FIELDS as i64),
    Answer(KVM_CAP_EXT_EMUL_CPUID, |_| 1),
    Answer(KVM_CAP_IOAPIC_POLARITY_IGNORED, |_| 1),
    Answer(KVM_CAP_DISABLE_QUIRKS, |_| 1),
    Answer(KVM_CAP_IOEVENTFD_NO_LENGTH, |_| 1),
    Answer(KVM_CAP_X86_SMM, |_| 1),
    Answer(KVM_CAP_X2APIC_API, |_| X2APIC_API as i64),
    Answer(KVM_CAP_X86_DISABLE_EXITS, |_| enable::DISABLE_EXITS as i64),
    Answer(KVM_CAP_MSR_PLATFORM_INFO, |_| 1),
    Answer(KVM_CAP_GET_MSR_FEATURES, |_| 1),
    Answer(KVM_CAP_PMU_EVENT_FILTER, |_| 1),
    Answer(KVM_CAP_EXCEPTION_PAYLOAD, |_| 1),
    Answer(KVM_CAP_X86_BUS_LOCK_EXIT, |_| enable::BUS_LOCK_EXIT as i64),
    Answer(KVM_CAP_X86_USER_SPACE_MSR, |_| 1),
    Answer(KVM_CAP_X86_MSR_FILTER, |_| 1),
    Answer(KVM_CAP_EXIT_HYPERCALL, |_| {
        pv::KVM_EXIT_HYPERCALL_VALID_MASK as i64
    }),
    Answer(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, |_| 1),
    Answer(KVM_CAP_ASYNC_PF_INT, |_| 1),
    Answer(KVM_CAP_SET_GUEST_DEBUG2, |_| i64::from(GUEST_DEBUG)),
    Answer(KVM_CAP_SREGS2, |_| 1),
    Answer(KVM_CAP_VCPU_ATTRIBUTES, |_| 1),
    Answer(KVM_CAP_SYS_ATTRIBUTES, |_| 1),
    Answer(KVM_CAP_XSAVE2, |_| i64::from(xsave2_size())),
    Answer(KVM_CAP_PMU_CAPABILITY, |_| KVM_PMU_CAP_DISABLE as i64),
    Answer(KVM_CAP_DISABLE_QUIRKS2, |_| enable::QUIRKS as i64),
    Answer(KVM_CAP_VM_TSC_CONTROL, |_| 1),
    Answer(KVM_CAP_X86_TRIPLE_FAULT_EVENT, |_| 1),
    Answer(KVM_CAP_LAST_CPU, |_| 1),
    Answer(KVM_CAP_EXIT_ON_EMULATION_FAILURE, |_| 1),
    Answer(KVM_CAP_X86_NOTIFY_VMEXIT, |_| enable::NOTIFY as i64),
    Answer(KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, |_| 1),
    Answer(KVM_CAP_X86_GUEST_MODE, |_| 1),
    Answer(KVM_CAP_PMU_EVENT_MASKED_EVENTS, |_| 1),
    Answer(KVM_CAP_VM_TYPES, |_| TYPES as i64),
    Answer(KVM_CAP_MEMORY_FAULT_INFO, |_| 1),
    Answer(KVM_CAP_PRE_FAULT_MEMORY, |_| 1),
    Answer(KVM_CAP_X86_APIC_BUS_CYCLES_NS, |vm| {
        let chosen = vm.map(|vm| vm.arch().settings.apic_bus_cycle_ns.load(Relaxed));
        chosen.unwrap_or(DEFAULT_CYCLE_NS) as i64
    }),
];

/// The answer for a capability of x86; zero for what is not there.
pub fn check(vm: Option<&X86Vm>, cap: u32) -> i64 {
    ANSWERS.iter().find(|a| a.0 == cap).map_or(0, |a| (a.1)(vm))
}

/// The capabilities that have an answer.
pub fn answered() -> impl Iterator<Item = u32> {
    ANSWERS.iter().map(|a| a.0)
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
