//! What is asked of a vCPU on every architecture, and the capability switch.

// KvmMpState: mp_state. No architecture takes all of them.
pub const KVM_MP_STATE_RUNNABLE: u32 = 0;
pub const KVM_MP_STATE_UNINITIALIZED: u32 = 1;
pub const KVM_MP_STATE_INIT_RECEIVED: u32 = 2;
pub const KVM_MP_STATE_HALTED: u32 = 3;
pub const KVM_MP_STATE_SIPI_RECEIVED: u32 = 4;
pub const KVM_MP_STATE_STOPPED: u32 = 5;
pub const KVM_MP_STATE_CHECK_STOP: u32 = 6;
pub const KVM_MP_STATE_OPERATING: u32 = 7;
pub const KVM_MP_STATE_LOAD: u32 = 8;
pub const KVM_MP_STATE_AP_RESET_HOLD: u32 = 9;
pub const KVM_MP_STATE_SUSPENDED: u32 = 10;

// kvm_guest_debug: control, the bits every architecture has.
pub const KVM_GUESTDBG_ENABLE: u32 = 1 << 0;
pub const KVM_GUESTDBG_SINGLESTEP: u32 = 1 << 1;

/// KvmInterrupt: irq, where it can be withdrawn (not x86).
pub const KVM_INTERRUPT_SET: u32 = u32::MAX;
pub const KVM_INTERRUPT_UNSET: u32 = u32::MAX - 1;

// KvmOneReg: the parts of an id that mean the same everywhere.
pub const KVM_REG_ARCH_MASK: u64 = 0xff00_0000_0000_0000;
pub const KVM_REG_PPC: u64 = 0x1000_0000_0000_0000;
pub const KVM_REG_X86: u64 = 0x2000_0000_0000_0000;
pub const KVM_REG_ARM64: u64 = 0x6000_0000_0000_0000;
pub const KVM_REG_S390: u64 = 0x5000_0000_0000_0000;
pub const KVM_REG_MIPS: u64 = 0x7000_0000_0000_0000;
pub const KVM_REG_RISCV: u64 = 0x8000_0000_0000_0000;
pub const KVM_REG_LOONGARCH: u64 = 0x9000_0000_0000_0000;
pub const KVM_REG_SIZE_SHIFT: u32 = 52;
pub const KVM_REG_SIZE_MASK: u64 = 0x00f0_0000_0000_0000;
pub const KVM_REG_SIZE_U32: u64 = 0x0020_0000_0000_0000;
pub const KVM_REG_SIZE_U64: u64 = 0x0030_0000_0000_0000;

abi! {
    /// For KVM_ENABLE_CAP.
    struct KvmEnableCap {
        cap: u32,
        flags: u32,
        args: [u64; 4],
        pad: [u8; 64],
    }

    /// For KVM_GET_MP_STATE and KVM_SET_MP_STATE.
    struct KvmMpState {
        mp_state: u32,
    }

    /// For KVM_INTERRUPT.
    struct KvmInterrupt {
        irq: u32,
    }

    /// For KVM_TRANSLATE.
    struct KvmTranslation {
        linear_address: u64,
        physical_address: u64,
        valid: u8,
        writeable: u8,
        usermode: u8,
        pad: [u8; 5],
    }

    /// For KVM_SET_SIGNAL_MASK; `len` bytes of signal set follow.
    struct KvmSignalMask {
        len: u32,
    }

    /// For KVM_GET_ONE_REG and KVM_SET_ONE_REG.
    struct KvmOneReg {
        id: u64,
        addr: u64,
    }

    /// For KVM_GET_REG_LIST; `n` ids follow.
    struct KvmRegList {
        n: u64,
    }
}
