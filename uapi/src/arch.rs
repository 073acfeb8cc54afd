//! Guest architectures and the kinds of file descriptor, as the rows name them.

use bitflags::bitflags;

bitflags! {
    /// A set of guest architectures.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Archs: u8 {
        const X86 = 1 << 0;
        const ARM64 = 1 << 1;
        const S390 = 1 << 2;
        const PPC = 1 << 3;
        const RISCV = 1 << 4;
        const LOONGARCH = 1 << 5;
        const MIPS = 1 << 6;
        const ALL = 0x7f;
    }
}

/// The kind of file descriptor a request is made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// `/dev/kvm` itself.
    System,
    Vm,
    Vcpu,
    /// What KVM_CREATE_DEVICE returns.
    Device,
}
