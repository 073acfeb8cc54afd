//! What stands behind a file descriptor of the API.

use crate::errno::Errno;

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// `/dev/kvm`.
    System,
    Vm,
    Vcpu,
    /// From KVM_CREATE_DEVICE.
    Device,
    /// From KVM_GET_STATS_FD.
    Stats,
}

/// An open file of the API. Its descriptors are memfds, see [`crate::files`].
pub trait File: Send + Sync {
    fn kind(&self) -> FileKind;

    /// The ioctl system call; `arg` is its raw argument. KVM_RUN runs the guest on the calling thread.
    fn ioctl(&self, request: u32, arg: u64) -> Result<i64, Errno>;

    /// Called before the client reads the descriptor, so that the memfd behind it holds what is to be read.
    fn refresh(&self) {}
}
