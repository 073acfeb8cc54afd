//! KVM/x86: the structures and flags of that architecture's ioctls, and what a guest sees of KVM ([`pv`]).

mod cpuid;
mod debug;
mod events;
mod fpu;
mod irqchip;
mod msr;
mod nested;
pub mod pv;
mod regs;
mod sev;
mod vm;
mod xen;

pub use cpuid::*;
pub use debug::*;
pub use events::*;
pub use fpu::*;
pub use irqchip::*;
pub use msr::*;
pub use nested::*;
pub use regs::*;
pub use sev::*;
pub use vm::*;
pub use xen::*;
