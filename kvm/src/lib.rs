//! The architecture-neutral KVM: everything of the API that is the same whatever the guest's processor is.
//!
//! A client's ioctl comes in through a [`file::File`] found in the process's table ([`files`]): `/dev/kvm` ([`system`]), a VM
//! ([`vm`]), a vCPU ([`vcpu`]). Guest memory is in [`memory`], what answers I/O without the client in [`io`], interrupts on their way
//! in [`irq`], passed-through devices in `vfio`, what was done in [`stats`]. What depends on the processor is asked of an architecture through the traits in [`arch`]; this crate names
//! none. Locks are taken in the order of [`ranks`].
#![forbid(unsafe_code)]

pub mod arch;
pub mod errno;
mod eventfd;
pub mod file;
pub mod files;
pub mod io;
pub mod irq;
pub mod memory;
pub mod ranks;
pub mod stats;
pub mod system;
pub mod tables;
pub mod vcpu;
mod vfio;
pub mod vm;

#[cfg(test)]
mod tests;

pub use errno::Errno;
pub use file::{File, FileKind, Overlay, VcpuFace};
pub use files::Files;
pub use system::{forked, open_system};
pub use tables::Tables;
pub use vcpu::Vcpu;
pub use vm::Vm;
