//! Pending and injected events, and machine checks.

// KvmVcpuEvents: flags.
pub const KVM_VCPUEVENT_VALID_NMI_PENDING: u32 = 1 << 0;
pub const KVM_VCPUEVENT_VALID_SIPI_VECTOR: u32 = 1 << 1;
pub const KVM_VCPUEVENT_VALID_SHADOW: u32 = 1 << 2;
pub const KVM_VCPUEVENT_VALID_SMM: u32 = 1 << 3;
pub const KVM_VCPUEVENT_VALID_PAYLOAD: u32 = 1 << 4;
pub const KVM_VCPUEVENT_VALID_TRIPLE_FAULT: u32 = 1 << 5;

// KvmVcpuEventsInterrupt: shadow.
pub const KVM_X86_SHADOW_INT_MOV_SS: u8 = 1;
pub const KVM_X86_SHADOW_INT_STI: u8 = 2;

abi! {
    struct KvmVcpuEventsException {
        injected: u8,
        nr: u8,
        has_error_code: u8,
        pending: u8,
        error_code: u32,
    }

    struct KvmVcpuEventsInterrupt {
        injected: u8,
        nr: u8,
        soft: u8,
        shadow: u8,
    }

    struct KvmVcpuEventsNmi {
        injected: u8,
        pending: u8,
        masked: u8,
        pad: u8,
    }

    struct KvmVcpuEventsSmi {
        smm: u8,
        pending: u8,
        smm_inside_nmi: u8,
        latched_init: u8,
    }

    struct KvmVcpuEventsTripleFault {
        pending: u8,
    }

    /// For KVM_GET_VCPU_EVENTS and KVM_SET_VCPU_EVENTS.
    struct KvmVcpuEvents {
        exception: KvmVcpuEventsException,
        interrupt: KvmVcpuEventsInterrupt,
        nmi: KvmVcpuEventsNmi,
        sipi_vector: u32,
        flags: u32,
        smi: KvmVcpuEventsSmi,
        triple_fault: KvmVcpuEventsTripleFault,
        reserved: [u8; 26],
        exception_has_payload: u8,
        exception_payload: u64,
    }

    /// For KVM_X86_SET_MCE.
    struct KvmX86Mce {
        status: u64,
        addr: u64,
        misc: u64,
        mcg_status: u64,
        bank: u8,
        pad1: [u8; 7],
        pad2: [u64; 3],
    }
}
