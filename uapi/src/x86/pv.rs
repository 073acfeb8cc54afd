//! What a guest sees of KVM: CPUID leaves and feature bits, MSRs, hypercalls, and the structures shared in guest memory.

macro_rules! rows {
    ($table:ident, $what:literal: $($(#[doc = $purpose:literal])* $name:ident = $number:literal;)*) => {
        $($(#[doc = $purpose])* pub const $name: u32 = $number;)*

        #[doc = $what]
        pub const $table: &[(&str, u32)] = &[$((stringify!($name), $name)),*];
    };
}

pub const KVM_SIGNATURE: &[u8; 12] = b"KVMKVMKVM\0\0\0";

rows! { LEAVES, "CPUID leaves.":
    /// KVM signature string and highest hypervisor leaf.
    KVM_CPUID_SIGNATURE = 0x4000_0000;
    /// EAX feature bits and EDX hints.
    KVM_CPUID_FEATURES = 0x4000_0001;
}

rows! { FEATURES, "Feature bits (numbers of bits) in EAX of the features leaf.":
    /// kvmclock at legacy MSRs 0x11 and 0x12.
    KVM_FEATURE_CLOCKSOURCE = 0;
    /// Port-I/O delays unnecessary.
    KVM_FEATURE_NOP_IO_DELAY = 1;
    /// Deprecated paravirtual MMU.
    KVM_FEATURE_MMU_OP = 2;
    /// kvmclock at the new MSR numbers.
    KVM_FEATURE_CLOCKSOURCE2 = 3;
    /// Async page faults may be enabled.
    KVM_FEATURE_ASYNC_PF = 4;
    /// Steal-time record may be registered.
    KVM_FEATURE_STEAL_TIME = 5;
    /// Memory-based end-of-interrupt shortcut.
    KVM_FEATURE_PV_EOI = 6;
    /// Kick call for paravirtual spinlocks.
    KVM_FEATURE_PV_UNHALT = 7;
    /// Deferred TLB flush for preempted vCPUs.
    KVM_FEATURE_PV_TLB_FLUSH = 9;
    /// Async faults delivered to L1 as VM exits.
    KVM_FEATURE_ASYNC_PF_VMEXIT = 10;
    /// Multicast IPI hypercall.
    KVM_FEATURE_PV_SEND_IPI = 11;
    /// Guest may disable host halt polling.
    KVM_FEATURE_POLL_CONTROL = 12;
    /// Directed-yield hypercall.
    KVM_FEATURE_PV_SCHED_YIELD = 13;
    /// Page-ready events come as an interrupt.
    KVM_FEATURE_ASYNC_PF_INT = 14;
    /// Extended destination id in MSI address; set by the client.
    KVM_FEATURE_MSI_EXT_DEST_ID = 15;
    /// Page-state change hypercall; set by the client.
    KVM_FEATURE_HC_MAP_GPA_RANGE = 16;
    /// Migration-ready MSR exists; set by the client.
    KVM_FEATURE_MIGRATION_CONTROL = 17;
    /// kvmclock is monotonic across vCPUs.
    KVM_FEATURE_CLOCKSOURCE_STABLE_BIT = 24;
}

rows! { HINTS, "Hints (numbers of bits) in EDX of the features leaf.":
    /// vCPUs are never preempted for unbounded time.
    KVM_HINTS_REALTIME = 0;
}

rows! { MSRS, "MSRs.":
    /// Deprecated alias of the wall-clock MSR.
    MSR_KVM_WALL_CLOCK = 0x11;
    /// Deprecated alias of the system-time MSR.
    MSR_KVM_SYSTEM_TIME = 0x12;
    /// Where to write boot wall-clock time, once per write.
    MSR_KVM_WALL_CLOCK_NEW = 0x4b56_4d00;
    /// Per-vCPU kvmclock structure address and enable bit.
    MSR_KVM_SYSTEM_TIME_NEW = 0x4b56_4d01;
    /// Async page-fault area and delivery flags.
    MSR_KVM_ASYNC_PF_EN = 0x4b56_4d02;
    /// Steal-time record address and enable bit.
    MSR_KVM_STEAL_TIME = 0x4b56_4d03;
    /// End-of-interrupt flag word.
    MSR_KVM_PV_EOI_EN = 0x4b56_4d04;
    /// Bit 0 allows host halt polling.
    MSR_KVM_POLL_CONTROL = 0x4b56_4d05;
    /// Vector for page-ready interrupts.
    MSR_KVM_ASYNC_PF_INT = 0x4b56_4d06;
    /// Acknowledge one page-ready event.
    MSR_KVM_ASYNC_PF_ACK = 0x4b56_4d07;
    /// Guest permits live migration.
    MSR_KVM_MIGRATION_CONTROL = 0x4b56_4d08;
}

rows! { HYPERCALLS, "Hypercalls.":
    /// Force an exit so pending interrupts are rechecked.
    KVM_HC_VAPIC_POLL_IRQ = 1;
    /// Deprecated paravirtual MMU operations.
    KVM_HC_MMU_OP = 2;
    /// Wake a halted vCPU by APIC id.
    KVM_HC_KICK_CPU = 5;
    /// Matched host real time and guest TSC.
    KVM_HC_CLOCK_PAIRING = 9;
    /// IPI to up to 128 vCPUs.
    KVM_HC_SEND_IPI = 10;
    /// Yield to a preempted target vCPU.
    KVM_HC_SCHED_YIELD = 11;
    /// Declare a range encrypted or plain; the client handles it.
    KVM_HC_MAP_GPA_RANGE = 12;
}

/// What KVM_CAP_EXIT_HYPERCALL may hand to the client: bits by the numbers of hypercalls.
pub const KVM_EXIT_HYPERCALL_VALID_MASK: u64 = 1 << KVM_HC_MAP_GPA_RANGE;
/// In the flags of KVM_EXIT_HYPERCALL: the guest called from 64-bit code.
pub const KVM_EXIT_HYPERCALL_LONG_MODE: u64 = 1 << 0;

// What a hypercall returns in RAX, negated.
pub const KVM_ENOSYS: u64 = 1000;
pub const KVM_EFAULT: u64 = 14;
pub const KVM_EINVAL: u64 = 22;
pub const KVM_E2BIG: u64 = 7;
pub const KVM_EPERM: u64 = 1;
pub const KVM_EOPNOTSUPP: u64 = 95;

/// Bit 0 of the address MSRs.
pub const KVM_MSR_ENABLED: u64 = 1;

// MSR_KVM_ASYNC_PF_EN: low bits.
pub const KVM_ASYNC_PF_ENABLED: u64 = 1 << 0;
pub const KVM_ASYNC_PF_SEND_ALWAYS: u64 = 1 << 1;
pub const KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT: u64 = 1 << 2;
pub const KVM_ASYNC_PF_DELIVERY_AS_INT: u64 = 1 << 3;

/// MSR_KVM_STEAL_TIME: bits that must be zero (the record is 64-byte aligned, bit 0 enables it).
pub const KVM_STEAL_RESERVED_MASK: u64 = 0x3e;

// KvmStealTime: preempted.
pub const KVM_VCPU_PREEMPTED: u8 = 1 << 0;
pub const KVM_VCPU_FLUSH_TLB: u8 = 1 << 1;

// PvclockVcpuTimeInfo: flags.
pub const PVCLOCK_TSC_STABLE_BIT: u8 = 1 << 0;
pub const PVCLOCK_GUEST_STOPPED: u8 = 1 << 1;

/// KvmClockPairing: the only clock there is.
pub const KVM_CLOCK_PAIRING_WALLCLOCK: u64 = 0;

abi! {
    /// kvmclock, one for each vCPU. An odd version says that it is being written.
    struct PvclockVcpuTimeInfo {
        version: u32,
        pad0: u32,
        tsc_timestamp: u64,
        system_time: u64,
        tsc_to_system_mul: u32,
        tsc_shift: i8,
        flags: u8,
        pad: [u8; 2],
    }

    /// The wall clock at boot.
    struct PvclockWallClock {
        version: u32,
        sec: u32,
        nsec: u32,
    }

    /// Steal time, one record for each vCPU.
    struct KvmStealTime {
        steal: u64,
        version: u32,
        flags: u32,
        preempted: u8,
        u8_pad: [u8; 3],
        pad: [u32; 11],
    }

    /// What KVM_HC_CLOCK_PAIRING writes.
    struct KvmClockPairing {
        sec: i64,
        nsec: i64,
        tsc: u64,
        flags: u32,
        pad: [u32; 9],
    }

    /// The async page-fault area, one for each vCPU.
    struct KvmVcpuPvApfData {
        flags: u32,
        token: u32,
        pad: [u8; 56],
    }
}
