//! VM-wide switches of x86: types, quirks, exits that can be turned off, the clock, Hyper-V connections, and where things are in
//! the vCPU mapping.

// KVM_CREATE_VM: type.
pub const KVM_X86_DEFAULT_VM: u64 = 0;
pub const KVM_X86_SW_PROTECTED_VM: u64 = 1;
pub const KVM_X86_SEV_VM: u64 = 2;
pub const KVM_X86_SEV_ES_VM: u64 = 3;
pub const KVM_X86_SNP_VM: u64 = 4;
pub const KVM_X86_TDX_VM: u64 = 5;

// KVM_CAP_DISABLE_QUIRKS2: args[0].
pub const KVM_X86_QUIRK_LINT0_REENABLED: u64 = 1 << 0;
pub const KVM_X86_QUIRK_CD_NW_CLEARED: u64 = 1 << 1;
pub const KVM_X86_QUIRK_LAPIC_MMIO_HOLE: u64 = 1 << 2;
pub const KVM_X86_QUIRK_OUT_7E_INC_RIP: u64 = 1 << 3;
pub const KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT: u64 = 1 << 4;
pub const KVM_X86_QUIRK_FIX_HYPERCALL_INSN: u64 = 1 << 5;
pub const KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS: u64 = 1 << 6;
pub const KVM_X86_QUIRK_SLOT_ZAP_ALL: u64 = 1 << 7;
pub const KVM_X86_QUIRK_STUFF_FEATURE_MSRS: u64 = 1 << 8;
pub const KVM_X86_QUIRK_IGNORE_GUEST_PAT: u64 = 1 << 9;

// KVM_CAP_X86_DISABLE_EXITS: args[0].
pub const KVM_X86_DISABLE_EXITS_MWAIT: u64 = 1 << 0;
pub const KVM_X86_DISABLE_EXITS_HLT: u64 = 1 << 1;
pub const KVM_X86_DISABLE_EXITS_PAUSE: u64 = 1 << 2;
pub const KVM_X86_DISABLE_EXITS_CSTATE: u64 = 1 << 3;
pub const KVM_X86_DISABLE_EXITS_APERFMPERF: u64 = 1 << 4;

// KVM_CAP_X2APIC_API: args[0].
pub const KVM_X2APIC_API_USE_32BIT_IDS: u64 = 1 << 0;
pub const KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: u64 = 1 << 1;

// KVM_CAP_X86_BUS_LOCK_EXIT: args[0].
pub const KVM_BUS_LOCK_DETECTION_OFF: u64 = 1 << 0;
pub const KVM_BUS_LOCK_DETECTION_EXIT: u64 = 1 << 1;

// KVM_CAP_X86_NOTIFY_VMEXIT: args[0].
pub const KVM_X86_NOTIFY_VMEXIT_ENABLED: u64 = 1 << 0;
pub const KVM_X86_NOTIFY_VMEXIT_USER: u64 = 1 << 1;

// KvmClockData: flags, and what KVM_CAP_ADJUST_CLOCK answers.
pub const KVM_CLOCK_TSC_STABLE: u32 = 1 << 1;
pub const KVM_CLOCK_REALTIME: u32 = 1 << 2;
pub const KVM_CLOCK_HOST_TSC: u32 = 1 << 3;

// The run page: flags.
pub const KVM_RUN_X86_SMM: u16 = 1 << 0;
pub const KVM_RUN_X86_BUS_LOCK: u16 = 1 << 1;
pub const KVM_RUN_X86_GUEST_MODE: u16 = 1 << 2;

// Attribute groups and attributes of the vCPU and system fds.
pub const KVM_VCPU_TSC_CTRL: u32 = 0;
pub const KVM_VCPU_TSC_OFFSET: u64 = 0;
pub const KVM_X86_GRP_SYSTEM: u32 = 0;
pub const KVM_X86_XCOMP_GUEST_SUPP: u64 = 0;
pub const KVM_X86_GRP_SEV: u32 = 1;
pub const KVM_X86_SEV_VMSA_FEATURES: u64 = 0;

// KvmHypervEventfd: conn_id, flags.
pub const KVM_HYPERV_CONN_ID_MASK: u32 = 0x00ff_ffff;
pub const KVM_HYPERV_EVENTFD_DEASSIGN: u32 = 1 << 0;

// Pages of the vCPU mapping.
pub const KVM_PIO_PAGE_OFFSET: usize = 1;
pub const KVM_COALESCED_MMIO_PAGE_OFFSET: usize = 2;
pub const KVM_DIRTY_LOG_PAGE_OFFSET: usize = 64;

abi! {
    /// For KVM_GET_CLOCK and KVM_SET_CLOCK.
    struct KvmClockData {
        clock: u64,
        flags: u32,
        pad0: u32,
        realtime: u64,
        host_tsc: u64,
        pad: [u32; 4],
    }

    /// For KVM_HYPERV_EVENTFD.
    struct KvmHypervEventfd {
        conn_id: u32,
        fd: i32,
        flags: u32,
        padding: [u32; 3],
    }
}
