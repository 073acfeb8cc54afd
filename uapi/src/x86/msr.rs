//! Model-specific registers: lists, values, filters.

pub const KVM_MSR_FILTER_MAX_BITMAP_SIZE: usize = 0x600;
pub const KVM_MSR_FILTER_MAX_RANGES: usize = 16;

// KvmMsrFilterRange: flags.
pub const KVM_MSR_FILTER_READ: u32 = 1 << 0;
pub const KVM_MSR_FILTER_WRITE: u32 = 1 << 1;
pub const KVM_MSR_FILTER_RANGE_VALID_MASK: u32 = 3;

// KvmMsrFilter: flags.
pub const KVM_MSR_FILTER_DEFAULT_ALLOW: u32 = 0;
pub const KVM_MSR_FILTER_DEFAULT_DENY: u32 = 1 << 0;
pub const KVM_MSR_FILTER_VALID_MASK: u32 = 1;

abi! {
    struct KvmMsrEntry {
        index: u32,
        reserved: u32,
        data: u64,
    }

    /// For KVM_GET_MSRS and KVM_SET_MSRS; `nmsrs` entries follow.
    struct KvmMsrs {
        nmsrs: u32,
        pad: u32,
    }

    /// For KVM_GET_MSR_INDEX_LIST and KVM_GET_MSR_FEATURE_INDEX_LIST; `nmsrs` 32-bit indices follow.
    struct KvmMsrList {
        nmsrs: u32,
    }

    struct KvmMsrFilterRange {
        flags: u32,
        /// Bits in the bitmap; 0 leaves the range out.
        nmsrs: u32,
        base: u32,
        /// A hole in the C structure.
        pad: u32,
        /// Address of the bitmap: a one lets the access through.
        bitmap: u64,
    }

    /// For KVM_X86_SET_MSR_FILTER.
    struct KvmMsrFilter {
        flags: u32,
        /// A hole in the C structure.
        pad: u32,
        ranges: [KvmMsrFilterRange; KVM_MSR_FILTER_MAX_RANGES],
    }
}
