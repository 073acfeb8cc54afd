//! Ioctl requests: how a request code is made, and a row for each one.
//!
//! Linux dispatches on the whole code, so two requests may share a number and differ only in direction or argument size
//! (KVM_IRQ_LINE_STATUS and KVM_REGISTER_COALESCED_MMIO are both 0x67), or share even that on different kinds of fd.

mod rows;
#[cfg(test)]
mod tests;

pub use rows::*;

use crate::arch::{Archs, Level};

/// The type byte of every KVM request.
pub const KVMIO: u32 = 0xae;

const WRITE: u32 = 1;
const READ: u32 = 2;

const fn code(dir: u32, nr: u32, size: usize) -> u32 {
    assert!(nr < 1 << 8 && size < 1 << 14);
    (dir << 30) | ((size as u32) << 16) | (KVMIO << 8) | nr
}

/// `_IO`: a request without a sized argument.
pub const fn io(nr: u32) -> u32 {
    code(0, nr, 0)
}

/// `_IOR`: the client reads `size` bytes (by its name; not always in fact, see [`Arg`]).
pub const fn ior(nr: u32, size: usize) -> u32 {
    code(READ, nr, size)
}

/// `_IOW`: the client writes `size` bytes.
pub const fn iow(nr: u32, size: usize) -> u32 {
    code(WRITE, nr, size)
}

/// `_IOWR`: both.
pub const fn iowr(nr: u32, size: usize) -> u32 {
    code(READ | WRITE, nr, size)
}

/// The size of the argument, as the request code states it.
pub const fn arg_size(request: u32) -> usize {
    ((request >> 16) & 0x3fff) as usize
}

/// Whether the code is KVM's at all.
pub const fn is_kvm(request: u32) -> bool {
    (request >> 8) & 0xff == KVMIO
}

/// What the argument of a request really is. The direction bits of the code do not say it reliably: KVM_SET_IRQCHIP is an
/// `_IOR`, KVM_REINJECT_CONTROL an `_IO` that takes a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// Not looked at.
    None,
    /// Must be zero, EINVAL otherwise.
    Zero,
    /// A number.
    Value,
    /// A pointer to a structure that KVM reads.
    In(&'static str),
    /// A pointer to a structure that KVM writes.
    Out(&'static str),
    /// A pointer to a structure that KVM reads and writes back.
    InOut(&'static str),
    /// As `In`, a header and then as many entries as it says.
    InList(&'static str, &'static str),
    /// As `InOut`, a header and then as many entries as it says.
    InOutList(&'static str, &'static str),
}

/// A kind of fd that takes the request, and the architectures where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct On {
    pub level: Level,
    pub archs: Archs,
}

/// An ioctl.
#[derive(Clone, Copy, Debug)]
pub struct IoctlRow {
    pub name: &'static str,
    /// The whole request code.
    pub request: u32,
    pub on: &'static [On],
    pub arg: Arg,
    /// Section of the kernel's `Documentation/virt/kvm/api.rst`; empty where that has none.
    pub section: &'static str,
    /// The capability that tells of it.
    pub capability: &'static str,
    pub purpose: &'static str,
}

impl IoctlRow {
    /// The number within KVM's type.
    pub const fn nr(&self) -> u8 {
        self.request as u8
    }

    /// The architectures where an fd of this kind takes the request.
    pub fn archs(&self, level: Level) -> Archs {
        self.on
            .iter()
            .filter(|on| on.level == level)
            .fold(Archs::empty(), |set, on| set | on.archs)
    }
}

/// The row of a request made on an fd of a kind.
pub fn lookup(level: Level, request: u32) -> Option<&'static IoctlRow> {
    IOCTLS
        .iter()
        .find(|row| row.request == request && row.on.iter().any(|on| on.level == level))
}

/// The row of a request on any kind of fd, for tracing.
pub fn lookup_any(request: u32) -> Option<&'static IoctlRow> {
    IOCTLS.iter().find(|row| row.request == request)
}

/// The row of a name.
pub fn by_name(name: &str) -> Option<&'static IoctlRow> {
    IOCTLS.iter().find(|row| row.name == name)
}
