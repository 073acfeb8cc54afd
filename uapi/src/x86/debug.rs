//! Debug registers, host debugging, performance-event filters.

// KvmGuestDebug: control, the bits of this architecture.
pub const KVM_GUESTDBG_USE_SW_BP: u32 = 0x0001_0000;
pub const KVM_GUESTDBG_USE_HW_BP: u32 = 0x0002_0000;
pub const KVM_GUESTDBG_INJECT_DB: u32 = 0x0004_0000;
pub const KVM_GUESTDBG_INJECT_BP: u32 = 0x0008_0000;
pub const KVM_GUESTDBG_BLOCKIRQ: u32 = 0x0010_0000;

// KvmPmuEventFilter: action, flags.
pub const KVM_PMU_EVENT_ALLOW: u32 = 0;
pub const KVM_PMU_EVENT_DENY: u32 = 1;
pub const KVM_PMU_EVENT_FLAG_MASKED_EVENTS: u32 = 1 << 0;

/// KVM_CAP_PMU_CAPABILITY: args[0].
pub const KVM_PMU_CAP_DISABLE: u64 = 1 << 0;

abi! {
    /// For KVM_GET_DEBUGREGS and KVM_SET_DEBUGREGS.
    struct KvmDebugregs {
        db: [u64; 4],
        dr6: u64,
        dr7: u64,
        flags: u64,
        reserved: [u64; 9],
    }

    struct KvmGuestDebugArch {
        debugreg: [u64; 8],
    }

    /// For KVM_SET_GUEST_DEBUG.
    struct KvmGuestDebug {
        control: u32,
        pad: u32,
        arch: KvmGuestDebugArch,
    }

    /// The payload of KVM_EXIT_DEBUG.
    struct KvmDebugExitArch {
        exception: u32,
        pad: u32,
        pc: u64,
        dr6: u64,
        dr7: u64,
    }

    /// For KVM_SET_PMU_EVENT_FILTER; `nevents` 64-bit events follow.
    struct KvmPmuEventFilter {
        action: u32,
        nevents: u32,
        fixed_counter_bitmap: u32,
        flags: u32,
        pad: [u32; 4],
    }
}
