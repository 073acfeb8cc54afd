//! The handlers: one small function per form of operation.

pub mod alu;
pub mod bits;
pub mod branch;
pub mod moves;
pub mod muldiv;
pub mod native;
pub mod shift;
pub mod stack;
pub mod strings;
