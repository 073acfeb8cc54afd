//! Nested virtualization state: a header of 128 bytes, then the processor vendor's blocks.

// KvmNestedState: format.
pub const KVM_STATE_NESTED_FORMAT_VMX: u16 = 0;
pub const KVM_STATE_NESTED_FORMAT_SVM: u16 = 1;

// KvmNestedState: flags.
pub const KVM_STATE_NESTED_GUEST_MODE: u16 = 0x0001;
pub const KVM_STATE_NESTED_RUN_PENDING: u16 = 0x0002;
pub const KVM_STATE_NESTED_EVMCS: u16 = 0x0004;
pub const KVM_STATE_NESTED_MTF_PENDING: u16 = 0x0008;
pub const KVM_STATE_NESTED_GIF_SET: u16 = 0x0100;

// KvmVmxNestedStateHdr: smm_flags.
pub const KVM_STATE_NESTED_SMM_GUEST_MODE: u16 = 0x0001;
pub const KVM_STATE_NESTED_SMM_VMXON: u16 = 0x0002;

/// KvmVmxNestedStateHdr: flags.
pub const KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE: u32 = 0x0001;

/// Bytes of the VMCS blocks that follow a VMX header: vmcs12, then its shadow.
pub const KVM_STATE_NESTED_VMX_VMCS_SIZE: usize = 0x1000;
/// Bytes of the VMCB block that follows an SVM header.
pub const KVM_STATE_NESTED_SVM_VMCB_SIZE: usize = 0x1000;

abi! {
    struct KvmVmxNestedStateHdr {
        vmxon_pa: u64,
        vmcs12_pa: u64,
        smm_flags: u16,
        pad: u16,
        flags: u32,
        preemption_timer_deadline: u64,
    }

    struct KvmSvmNestedStateHdr {
        vmcb_pa: u64,
    }

    /// For KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE; `size` counts this header too.
    struct KvmNestedState {
        flags: u16,
        format: u16,
        size: u32,
        hdr: [u64; 15],
    }
}

union_member!(KvmNestedState.hdr {
    vmx / set_vmx: KvmVmxNestedStateHdr,
    svm / set_svm: KvmSvmNestedStateHdr,
});
