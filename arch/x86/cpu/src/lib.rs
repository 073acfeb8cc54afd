//! An x86 processor that does not know it is inside KVM.
//!
//! [`Cpu`] holds the architectural [`State`] and executes guest code against a [`World`]: the memory, ports,
//! MSRs and identification that the machine around it provides. The interpreter here is the reference for every
//! other tier. Blocks of guest code are decoded once (`decode`), kept in a cache (`block`), and executed by one
//! handler per operation (`exec`); guest memory is reached through a software TLB (`mmu`); exceptions,
//! interrupts and task switches are delivered by `event`.
#![forbid(unsafe_code)]

pub mod block;
pub mod core;
pub mod decode;
pub mod event;
pub mod exec;
pub mod fault;
pub mod features;
pub mod mmu;
pub mod op;
pub mod run;
mod smm;
pub mod state;
#[doc(hidden)]
pub mod testing;
pub mod world;

pub use crate::core::Core;
pub use crate::features::Features;
pub use event::Undeliverable;
pub use fault::{Fault, Step, Stop, Vector};
pub use run::{Cpu, Ended, Leave, Tier};
pub use smm::NoSaveArea;
pub use state::State;
pub use world::{
    Access, Backing, Foreign, Hypercall, Memory, Pause, Platform, Ports, Posted, Refusal, World,
};
