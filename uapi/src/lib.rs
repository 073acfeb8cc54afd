//! The KVM ABI as data: what is on the wire between a client and KVM, and nothing of what it does.
//!
//! * [`ioctl`], [`cap`], [`exit`], [`device`], [`x86::pv`]: tables. Each row is also the constant of its name, so dispatch,
//!   coverage, tracing and fuzzing all read the same facts.
//! * The structures every architecture shares stand at the top of the crate; [`x86`] holds those of that architecture;
//!   [`run`] the page a client maps from a vCPU fd. All of them can be moved as plain bytes (zerocopy); C unions are arrays of words with typed
//!   accessors. Types are named as in C, in camel case (`kvm_regs` is [`x86::KvmRegs`]); fields and constants keep their names
//!   (`type` is `type_`).
//!
//! [`layout`] describes those structures field by field, with what the numbers in them mean.
//!
//! Not here yet: structures of the architectures other than x86. Their rows are complete, but a request code whose
//! argument has another size on another architecture (KVM_GET_REGS and its like) is x86's.
//!
//! Uses nothing else of this project; everything else uses it.
#![forbid(unsafe_code)]

#[macro_use]
mod abi;
pub mod arch;
pub mod cap;
pub mod device;
pub mod exit;
pub mod ioctl;
mod irq;
pub mod layout;
mod memory;
pub mod run;
mod stats;
mod vcpu;
pub mod x86;

pub use device::{KvmCreateDevice, KvmDeviceAttr};
pub use irq::*;
pub use memory::*;
pub use stats::*;
pub use vcpu::*;

/// What KVM_GET_API_VERSION answers, for good.
pub const KVM_API_VERSION: u32 = 12;
