//! Confidential guests: the commands inside KVM_MEMORY_ENCRYPT_OP. The structures of the single commands are not here yet.

macro_rules! commands {
    ($table:ident: $($name:ident = $number:literal),* $(,)?) => {
        $(pub const $name: u32 = $number;)*

        /// Every command of the family, by name.
        pub const $table: &[(&str, u32)] = &[$((stringify!($name), $name)),*];
    };
}

commands! { SEV_COMMANDS:
    KVM_SEV_INIT = 0,
    KVM_SEV_ES_INIT = 1,
    KVM_SEV_LAUNCH_START = 2,
    KVM_SEV_LAUNCH_UPDATE_DATA = 3,
    KVM_SEV_LAUNCH_UPDATE_VMSA = 4,
    KVM_SEV_LAUNCH_SECRET = 5,
    KVM_SEV_LAUNCH_MEASURE = 6,
    KVM_SEV_LAUNCH_FINISH = 7,
    KVM_SEV_SEND_START = 8,
    KVM_SEV_SEND_UPDATE_DATA = 9,
    KVM_SEV_SEND_UPDATE_VMSA = 10,
    KVM_SEV_SEND_FINISH = 11,
    KVM_SEV_RECEIVE_START = 12,
    KVM_SEV_RECEIVE_UPDATE_DATA = 13,
    KVM_SEV_RECEIVE_UPDATE_VMSA = 14,
    KVM_SEV_RECEIVE_FINISH = 15,
    KVM_SEV_GUEST_STATUS = 16,
    KVM_SEV_DBG_DECRYPT = 17,
    KVM_SEV_DBG_ENCRYPT = 18,
    KVM_SEV_CERT_EXPORT = 19,
    KVM_SEV_GET_ATTESTATION_REPORT = 20,
    KVM_SEV_SEND_CANCEL = 21,
    KVM_SEV_INIT2 = 22,
    KVM_SEV_SNP_LAUNCH_START = 100,
    KVM_SEV_SNP_LAUNCH_UPDATE = 101,
    KVM_SEV_SNP_LAUNCH_FINISH = 102,
    KVM_SEV_SNP_ENABLE_REQ_CERTS = 103,
}

commands! { TDX_COMMANDS:
    KVM_TDX_CAPABILITIES = 0,
    KVM_TDX_INIT_VM = 1,
    KVM_TDX_INIT_VCPU = 2,
    KVM_TDX_INIT_MEM_REGION = 3,
    KVM_TDX_FINALIZE_VM = 4,
    KVM_TDX_GET_CPUID = 5,
}

abi! {
    /// The argument of KVM_MEMORY_ENCRYPT_OP on AMD.
    struct KvmSevCmd {
        id: u32,
        /// A hole in the C structure.
        pad: u32,
        data: u64,
        error: u32,
        sev_fd: u32,
    }
}
