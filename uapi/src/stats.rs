//! The file KVM_GET_STATS_FD opens: a header, descriptors, then the numbers.

pub const KVM_STATS_TYPE_SHIFT: u32 = 0;
pub const KVM_STATS_TYPE_MASK: u32 = 0xf << KVM_STATS_TYPE_SHIFT;
pub const KVM_STATS_TYPE_CUMULATIVE: u32 = 0 << KVM_STATS_TYPE_SHIFT;
pub const KVM_STATS_TYPE_INSTANT: u32 = 1 << KVM_STATS_TYPE_SHIFT;
pub const KVM_STATS_TYPE_PEAK: u32 = 2 << KVM_STATS_TYPE_SHIFT;
pub const KVM_STATS_TYPE_LINEAR_HIST: u32 = 3 << KVM_STATS_TYPE_SHIFT;
pub const KVM_STATS_TYPE_LOG_HIST: u32 = 4 << KVM_STATS_TYPE_SHIFT;

pub const KVM_STATS_UNIT_SHIFT: u32 = 4;
pub const KVM_STATS_UNIT_MASK: u32 = 0xf << KVM_STATS_UNIT_SHIFT;
pub const KVM_STATS_UNIT_NONE: u32 = 0 << KVM_STATS_UNIT_SHIFT;
pub const KVM_STATS_UNIT_BYTES: u32 = 1 << KVM_STATS_UNIT_SHIFT;
pub const KVM_STATS_UNIT_SECONDS: u32 = 2 << KVM_STATS_UNIT_SHIFT;
pub const KVM_STATS_UNIT_CYCLES: u32 = 3 << KVM_STATS_UNIT_SHIFT;
pub const KVM_STATS_UNIT_BOOLEAN: u32 = 4 << KVM_STATS_UNIT_SHIFT;

pub const KVM_STATS_BASE_SHIFT: u32 = 8;
pub const KVM_STATS_BASE_MASK: u32 = 0xf << KVM_STATS_BASE_SHIFT;
pub const KVM_STATS_BASE_POW10: u32 = 0 << KVM_STATS_BASE_SHIFT;
pub const KVM_STATS_BASE_POW2: u32 = 1 << KVM_STATS_BASE_SHIFT;

abi! {
    /// The start of the file.
    struct KvmStatsHeader {
        flags: u32,
        /// Bytes of a name, its terminating zero included.
        name_size: u32,
        num_desc: u32,
        id_offset: u32,
        desc_offset: u32,
        data_offset: u32,
    }

    /// A descriptor; a name of `name_size` bytes follows.
    struct KvmStatsDesc {
        flags: u32,
        exponent: i16,
        /// How many 64-bit numbers.
        size: u16,
        /// Relative to the data's start.
        offset: u32,
        bucket_size: u32,
    }
}
