//! What stands behind a file descriptor of the API.

use crate::errno::Errno;
use crate::memory::GuestMemfd;
use ring3_host::shared::SharedPages;
use std::ops::Range;
use std::sync::Arc;

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileKind {
    /// `/dev/kvm`.
    System = 1,
    Vm,
    Vcpu,
    /// From KVM_CREATE_DEVICE.
    Device,
    /// From KVM_GET_STATS_FD.
    Stats,
    /// From KVM_CREATE_GUEST_MEMFD.
    GuestMemfd,
}

impl FileKind {
    pub(crate) const ALL: [FileKind; 6] = [
        FileKind::System,
        FileKind::Vm,
        FileKind::Vcpu,
        FileKind::Device,
        FileKind::Stats,
        FileKind::GuestMemfd,
    ];
}

/// A page of a file that is another's: whoever maps the file gets that one in its place.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Where in the file.
    pub offset: usize,
    pub pages: Arc<SharedPages>,
    /// Where in `pages`.
    pub from: usize,
}

/// What is seen of a vCPU by whoever watches its descriptor.
#[derive(Clone, Copy, Debug)]
pub struct VcpuFace<'a> {
    pub id: u32,
    /// `kvm_run` is the first.
    pub pages: &'a Arc<SharedPages>,
}

/// An open file of the API. Its descriptors are memfds, see [`crate::files`].
pub trait File: Send + Sync {
    fn kind(&self) -> FileKind;

    /// The ioctl system call; `arg` is its raw argument. KVM_RUN runs the guest on the calling thread.
    fn ioctl(&self, request: u32, arg: u64) -> Result<i64, Errno>;

    /// Has KVM_RUN return as for a signal, if it is executing.
    fn interrupt(&self) {}

    /// A request panicked: what it left half done is not to be used any more.
    fn broken(&self) {}

    /// The guest_memfd that it is, if it is one.
    fn guest_memfd(&self) -> Option<&Arc<GuestMemfd>> {
        None
    }

    /// The part that may only be mapped shared, and not to be executed, if there is one.
    fn shared_only(&self) -> Option<Range<usize>> {
        None
    }

    /// The page that is not its memfd's own, if there is one.
    fn overlay(&self) -> Option<Overlay> {
        None
    }

    /// The vCPU that it is, if it is one.
    fn vcpu(&self) -> Option<VcpuFace<'_>> {
        None
    }
}

/// A descriptor inherited by a forked child, where the object is not: every request gets EIO.
pub(crate) struct Inherited(pub FileKind);

impl File for Inherited {
    fn kind(&self) -> FileKind {
        self.0
    }

    fn ioctl(&self, _: u32, _: u64) -> Result<i64, Errno> {
        Err(Errno::EIO)
    }
}
