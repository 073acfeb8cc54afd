//! The handlers: one small function per form of operation.

pub mod alu;
pub mod amx;
pub mod bits;
pub mod branch;
pub mod descriptor;
pub mod far;
pub mod far_return;
pub mod frame;
pub mod iret;
pub mod moves;
pub mod muldiv;
pub mod native;
pub mod segment;
pub mod shift;
pub mod spin;
pub mod stack;
pub mod strings;
pub mod system;
