//! KVM/x86.
#![forbid(unsafe_code)]

pub mod ioapic;
pub mod irqchip;
pub mod lapic;
pub mod locks;
pub mod pic;
pub mod pit;
pub mod ports;
