//! The page a client maps from a vCPU fd (`struct kvm_run`): offsets of its fields, and the payload of each exit.
//!
//! The client may write this page at any time from another thread, so it is never a Rust structure in place: fields are loaded
//! and stored singly at these offsets, and payloads are copied.

/// Offsets of the fields before the payload.
pub const REQUEST_INTERRUPT_WINDOW: usize = 0;
pub const IMMEDIATE_EXIT: usize = 1;
pub const EXIT_REASON: usize = 8;
pub const READY_FOR_INTERRUPT_INJECTION: usize = 12;
pub const IF_FLAG: usize = 13;
pub const FLAGS: usize = 14;
pub const CR8: usize = 16;
pub const APIC_BASE: usize = 24;

/// Where the exit's payload starts (s390 has its program status word before it, at this offset).
pub const PAYLOAD: usize = 32;
pub const PAYLOAD_SIZE: usize = 256;

// After the payload.
pub const KVM_VALID_REGS: usize = 288;
pub const KVM_DIRTY_REGS: usize = 296;
pub const SYNC_REGS: usize = 304;
pub const SYNC_REGS_SIZE_BYTES: usize = 2048;

/// `sizeof(struct kvm_run)`.
pub const RUN_SIZE: usize = SYNC_REGS + SYNC_REGS_SIZE_BYTES;

/// What KVM_GET_VCPU_MMAP_SIZE answers on x86: the run page, a page of port data, and the coalesced ring.
pub const X86_VCPU_MMAP_SIZE: usize = 3 * 4096;
/// Where port data is, in the mapping: the `data_offset` of KVM_EXIT_IO on x86.
pub const X86_PIO_DATA: usize = crate::x86::KVM_PIO_PAGE_OFFSET * 4096;
/// Where the coalesced ring is, in the mapping.
pub const X86_COALESCED_RING: usize = crate::x86::KVM_COALESCED_MMIO_PAGE_OFFSET * 4096;

/// Offset of `error` in the payload of the MSR exits, which the client writes.
pub const MSR_ERROR: usize = PAYLOAD;
/// Offset of `data` in the payload of the MSR exits.
pub const MSR_DATA: usize = PAYLOAD + 16;
/// Offset of `data` in the payload of KVM_EXIT_MMIO.
pub const MMIO_DATA: usize = PAYLOAD + 8;
/// Offset of `ret` in the payload of KVM_EXIT_HYPERCALL.
pub const HYPERCALL_RET: usize = PAYLOAD + 56;

abi! {
    /// KVM_EXIT_UNKNOWN.
    struct RunHw {
        hardware_exit_reason: u64,
    }

    /// KVM_EXIT_FAIL_ENTRY.
    struct RunFailEntry {
        hardware_entry_failure_reason: u64,
        cpu: u32,
        pad: u32,
    }

    /// KVM_EXIT_EXCEPTION.
    struct RunEx {
        exception: u32,
        error_code: u32,
    }

    /// KVM_EXIT_IO.
    struct RunIo {
        direction: u8,
        /// Bytes of one access.
        size: u8,
        port: u16,
        /// Accesses, for string instructions.
        count: u32,
        /// Where the data is, from the start of the mapping.
        data_offset: u64,
    }

    /// KVM_EXIT_MMIO.
    struct RunMmio {
        phys_addr: u64,
        data: [u8; 8],
        len: u32,
        is_write: u8,
        pad: [u8; 3],
    }

    /// KVM_EXIT_HYPERCALL.
    struct RunHypercall {
        nr: u64,
        args: [u64; 6],
        ret: u64,
        /// On x86 bit 0 says long mode.
        flags: u64,
    }

    /// KVM_EXIT_TPR_ACCESS.
    struct RunTprAccess {
        rip: u64,
        is_write: u32,
        pad: u32,
    }

    /// KVM_EXIT_INTERNAL_ERROR.
    struct RunInternal {
        suberror: u32,
        ndata: u32,
        data: [u64; 16],
    }

    /// KVM_EXIT_INTERNAL_ERROR with KVM_INTERNAL_ERROR_EMULATION.
    struct RunEmulationFailure {
        suberror: u32,
        ndata: u32,
        flags: u64,
        insn_size: u8,
        insn_bytes: [u8; 15],
    }

    /// KVM_EXIT_SYSTEM_EVENT.
    struct RunSystemEvent {
        type_: u32,
        ndata: u32,
        /// The first word is also called `flags`.
        data: [u64; 16],
    }

    /// KVM_EXIT_IOAPIC_EOI.
    struct RunEoi {
        vector: u8,
    }

    /// KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR.
    struct RunMsr {
        /// Written by the client: not zero makes the access fault.
        error: u8,
        pad: [u8; 7],
        reason: u32,
        index: u32,
        data: u64,
    }

    /// KVM_EXIT_NOTIFY.
    struct RunNotify {
        flags: u32,
    }

    /// KVM_EXIT_MEMORY_FAULT.
    struct RunMemoryFault {
        flags: u64,
        gpa: u64,
        size: u64,
    }

    /// KVM_EXIT_HYPERV; what `u` holds depends on the type.
    struct RunHyperv {
        type_: u32,
        pad1: u32,
        u: [u64; 6],
    }

    /// KVM_EXIT_HYPERV with KVM_EXIT_HYPERV_SYNIC.
    struct RunHypervSynic {
        msr: u32,
        pad2: u32,
        control: u64,
        evt_page: u64,
        msg_page: u64,
    }

    /// KVM_EXIT_HYPERV with KVM_EXIT_HYPERV_HCALL.
    struct RunHypervHcall {
        input: u64,
        result: u64,
        params: [u64; 2],
    }

    /// KVM_EXIT_HYPERV with KVM_EXIT_HYPERV_SYNDBG.
    struct RunHypervSyndbg {
        msr: u32,
        pad2: u32,
        control: u64,
        status: u64,
        send_page: u64,
        recv_page: u64,
        pending_page: u64,
    }

    /// KVM_EXIT_XEN; its only type is a hypercall.
    struct RunXen {
        type_: u32,
        pad: u32,
        longmode: u32,
        cpl: u32,
        input: u64,
        result: u64,
        params: [u64; 6],
    }
}

union_member!(RunHyperv.u {
    synic / set_synic: RunHypervSynic,
    hcall / set_hcall: RunHypervHcall,
    syndbg / set_syndbg: RunHypervSyndbg,
});
