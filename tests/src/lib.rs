//! Tests that need more than one crate.

#![forbid(unsafe_code)]

pub mod bare;
pub mod e2e;
pub mod lockstep;
pub mod oracle;
pub mod soak;
