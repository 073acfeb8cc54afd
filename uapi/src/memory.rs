//! Guest memory: slots, dirty logs and rings, coalesced writes, attributes and guest_memfd.

// KvmUserspaceMemoryRegion: flags.
pub const KVM_MEM_LOG_DIRTY_PAGES: u32 = 1 << 0;
pub const KVM_MEM_READONLY: u32 = 1 << 1;
pub const KVM_MEM_GUEST_MEMFD: u32 = 1 << 2;

// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: args[0].
pub const KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: u64 = 1 << 0;
pub const KVM_DIRTY_LOG_INITIALLY_SET: u64 = 1 << 1;

// KvmDirtyGfn: flags.
pub const KVM_DIRTY_GFN_F_DIRTY: u32 = 1 << 0;
pub const KVM_DIRTY_GFN_F_RESET: u32 = 1 << 1;
pub const KVM_DIRTY_GFN_F_MASK: u32 = 3;

// KvmMemoryAttributes: attributes.
pub const KVM_MEMORY_ATTRIBUTE_PRIVATE: u64 = 1 << 3;

// KvmCreateGuestMemfd: flags.
pub const GUEST_MEMFD_FLAG_MMAP: u64 = 1 << 0;
pub const GUEST_MEMFD_FLAG_INIT_SHARED: u64 = 1 << 1;

abi! {
    /// For KVM_SET_USER_MEMORY_REGION.
    struct KvmUserspaceMemoryRegion {
        /// The address space in the upper half.
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        /// In bytes.
        memory_size: u64,
        userspace_addr: u64,
    }

    /// For KVM_SET_USER_MEMORY_REGION2.
    struct KvmUserspaceMemoryRegion2 {
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        memory_size: u64,
        userspace_addr: u64,
        guest_memfd_offset: u64,
        guest_memfd: u32,
        pad1: u32,
        pad2: [u64; 14],
    }

    /// For KVM_GET_DIRTY_LOG.
    struct KvmDirtyLog {
        slot: u32,
        padding1: u32,
        /// Address of a bitmap with a bit for each page, in whole 64-bit words.
        dirty_bitmap: u64,
    }

    /// For KVM_CLEAR_DIRTY_LOG.
    struct KvmClearDirtyLog {
        slot: u32,
        num_pages: u32,
        first_page: u64,
        dirty_bitmap: u64,
    }

    /// An entry of a vCPU's dirty ring.
    struct KvmDirtyGfn {
        flags: u32,
        slot: u32,
        offset: u64,
    }

    /// For KVM_REGISTER_COALESCED_MMIO and KVM_UNREGISTER_COALESCED_MMIO.
    struct KvmCoalescedMmioZone {
        addr: u64,
        size: u32,
        /// 1 for a range of ports.
        pio: u32,
    }

    /// An entry of the coalesced ring.
    struct KvmCoalescedMmio {
        phys_addr: u64,
        len: u32,
        pio: u32,
        data: [u8; 8],
    }

    /// The head of the coalesced ring: one page, the rest of it entries.
    struct KvmCoalescedMmioRing {
        /// Next to be read, moved by the client.
        first: u32,
        /// Next to be written, moved by KVM.
        last: u32,
    }

    /// For KVM_SET_MEMORY_ATTRIBUTES.
    struct KvmMemoryAttributes {
        address: u64,
        size: u64,
        attributes: u64,
        flags: u64,
    }

    /// For KVM_CREATE_GUEST_MEMFD.
    struct KvmCreateGuestMemfd {
        size: u64,
        flags: u64,
        reserved: [u64; 6],
    }

    /// For KVM_PRE_FAULT_MEMORY.
    struct KvmPreFaultMemory {
        gpa: u64,
        size: u64,
        flags: u64,
        padding: [u64; 5],
    }

    /// For KVM_MEMORY_ENCRYPT_REG_REGION and KVM_MEMORY_ENCRYPT_UNREG_REGION.
    struct KvmEncRegion {
        addr: u64,
        size: u64,
    }
}

/// How many entries the coalesced ring's page holds.
pub const KVM_COALESCED_MMIO_MAX: usize =
    (4096 - size_of::<KvmCoalescedMmioRing>()) / size_of::<KvmCoalescedMmio>();
