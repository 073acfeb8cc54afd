//! KVM/x86.
#![forbid(unsafe_code)]

pub mod ioapic;
pub mod lapic;
pub mod pic;
pub mod pit;
pub mod ports;
