//! A small typed KVM client: [`Kvm`], [`Vm`] and [`Vcpu`], one method for each ioctl a VMM needs, and [`VcpuExit`].
//!
//! What it speaks to is a [`Handle`]. [`device`] makes real ioctls on a real `/dev/kvm`, and, since it makes them through
//! the C library, on an interposed one; [`in_process`] is ring3 itself. Everything above is the same for any back end,
//! which is what tests compare.
//!
//! Only x86 so far. A request without a method is made with `raw`.
#![forbid(unsafe_code)]

pub mod board;
pub mod device;
mod errno;
mod exit;
mod handle;
pub mod in_process;
mod list;
mod memory;
mod stats;
mod system;
mod vcpu;
mod vm;

pub use errno::Errno;
pub use exit::VcpuExit;
pub use handle::Handle;
pub use memory::Memory;
pub use ring3_kvm::Tables;
pub use stats::{Stats, StatsTable};
pub use system::Kvm;
pub use vcpu::Vcpu;
pub use vm::{Device, GuestMemfd, Vm};
