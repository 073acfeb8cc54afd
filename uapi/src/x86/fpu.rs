//! Floating-point and extended state.

pub const KVM_MAX_XCRS: usize = 16;

abi! {
    /// For KVM_GET_FPU and KVM_SET_FPU.
    struct KvmFpu {
        fpr: [[u8; 16]; 8],
        fcw: u16,
        fsw: u16,
        /// Abridged, as FXSAVE writes it.
        ftwx: u8,
        pad1: u8,
        last_opcode: u16,
        last_ip: u64,
        last_dp: u64,
        xmm: [[u8; 16]; 16],
        mxcsr: u32,
        pad2: u32,
    }

    /// For KVM_GET_XSAVE and KVM_SET_XSAVE; KVM_GET_XSAVE2 may have more after it.
    struct KvmXsave {
        region: [u32; 1024],
    }

    struct KvmXcr {
        xcr: u32,
        reserved: u32,
        value: u64,
    }

    /// For KVM_GET_XCRS and KVM_SET_XCRS.
    struct KvmXcrs {
        nr_xcrs: u32,
        flags: u32,
        xcrs: [KvmXcr; KVM_MAX_XCRS],
        padding: [u64; 16],
    }
}
