//! CPUID tables.

// KvmCpuidEntry2: flags. The first one's spelling is the header's.
pub const KVM_CPUID_FLAG_SIGNIFCANT_INDEX: u32 = 1 << 0;
pub const KVM_CPUID_FLAG_STATEFUL_FUNC: u32 = 1 << 1;
pub const KVM_CPUID_FLAG_STATE_READ_NEXT: u32 = 1 << 2;

abi! {
    /// An entry of the old table.
    struct KvmCpuidEntry {
        function: u32,
        eax: u32,
        ebx: u32,
        ecx: u32,
        edx: u32,
        padding: u32,
    }

    /// For KVM_SET_CPUID; `nent` [`KvmCpuidEntry`] follow.
    struct KvmCpuid {
        nent: u32,
        padding: u32,
    }

    struct KvmCpuidEntry2 {
        function: u32,
        index: u32,
        flags: u32,
        eax: u32,
        ebx: u32,
        ecx: u32,
        edx: u32,
        padding: [u32; 3],
    }

    /// For KVM_SET_CPUID2 and the ioctls that return tables; `nent` [`KvmCpuidEntry2`] follow.
    struct KvmCpuid2 {
        nent: u32,
        padding: u32,
    }
}
