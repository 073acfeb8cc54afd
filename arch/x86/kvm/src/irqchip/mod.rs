//! The interrupt controllers of one VM, assembled: the 8259 pair, the I/O APIC, the PIT, and their wiring.
//!
//! * `wiring`: what the chips need of the VM around them, and what a GSI is connected to by default; `chips`: the
//!   8259 pair and the I/O APIC behind their locks; `timer`: the PIT with its host timer and its acknowledgements;
//!   `client`: KVM_GET/SET_IRQCHIP; `split`: EOIs of an I/O APIC that is the client's.
//!
//! The models know no locks; the order of those here is in `docs/locking.md`. No lock of a chip is held while
//! somebody is told of an acknowledgement, as that may drive a line again.

mod chips;
mod client;
mod split;
mod timer;
mod wiring;

#[cfg(test)]
mod tests;

pub use chips::Chips;
pub use client::UnknownChip;
pub use split::eoi_vectors;
pub use timer::{PitTimer, Speaker};
pub use wiring::{ChipPin, Gsis, LocalApics, OnAcknowledge, default_routes};
