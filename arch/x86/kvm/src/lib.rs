//! KVM/x86.
#![forbid(unsafe_code)]

pub mod lapic;
pub mod ports;
