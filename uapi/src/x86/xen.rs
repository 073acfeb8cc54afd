//! Xen guests: configuration and the VM-wide and per-vCPU attributes.

// KvmXenHvmConfig: flags, and what KVM_CAP_XEN_HVM answers.
pub const KVM_XEN_HVM_CONFIG_HYPERCALL_MSR: u32 = 1 << 0;
pub const KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL: u32 = 1 << 1;
pub const KVM_XEN_HVM_CONFIG_SHARED_INFO: u32 = 1 << 2;
pub const KVM_XEN_HVM_CONFIG_RUNSTATE: u32 = 1 << 3;
pub const KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL: u32 = 1 << 4;
pub const KVM_XEN_HVM_CONFIG_EVTCHN_SEND: u32 = 1 << 5;
pub const KVM_XEN_HVM_CONFIG_RUNSTATE_UPDATE_FLAG: u32 = 1 << 6;
pub const KVM_XEN_HVM_CONFIG_PVCLOCK_TSC_UNSTABLE: u32 = 1 << 7;
pub const KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA: u32 = 1 << 8;

// KvmXenHvmAttr: type.
pub const KVM_XEN_ATTR_TYPE_LONG_MODE: u16 = 0;
pub const KVM_XEN_ATTR_TYPE_SHARED_INFO: u16 = 1;
pub const KVM_XEN_ATTR_TYPE_UPCALL_VECTOR: u16 = 2;
pub const KVM_XEN_ATTR_TYPE_EVTCHN: u16 = 3;
pub const KVM_XEN_ATTR_TYPE_XEN_VERSION: u16 = 4;
pub const KVM_XEN_ATTR_TYPE_RUNSTATE_UPDATE_FLAG: u16 = 5;
pub const KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA: u16 = 6;

// KvmXenVcpuAttr: type.
pub const KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO: u16 = 0;
pub const KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO: u16 = 1;
pub const KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR: u16 = 2;
pub const KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT: u16 = 3;
pub const KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_DATA: u16 = 4;
pub const KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADJUST: u16 = 5;
pub const KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID: u16 = 6;
pub const KVM_XEN_VCPU_ATTR_TYPE_TIMER: u16 = 7;
pub const KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR: u16 = 8;
pub const KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA: u16 = 9;

abi! {
    /// For KVM_XEN_HVM_CONFIG.
    struct KvmXenHvmConfig {
        flags: u32,
        msr: u32,
        blob_addr_32: u64,
        blob_addr_64: u64,
        blob_size_32: u8,
        blob_size_64: u8,
        pad2: [u8; 30],
    }

    /// For KVM_XEN_HVM_GET_ATTR and KVM_XEN_HVM_SET_ATTR; what `u` holds depends on the type.
    struct KvmXenHvmAttr {
        type_: u16,
        pad: [u16; 3],
        u: [u64; 8],
    }

    /// For KVM_XEN_VCPU_GET_ATTR and KVM_XEN_VCPU_SET_ATTR; what `u` holds depends on the type.
    struct KvmXenVcpuAttr {
        type_: u16,
        pad: [u16; 3],
        u: [u64; 8],
    }
}
