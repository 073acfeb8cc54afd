//! Guest time: the time-stamp counter (`tsc`), the paravirtual clock (`pvclock`), their registers (`msrs`), and
//! the client's view of both (`ioctls`).
//!
//! Everything is derived from the host's time-stamp counter, which no one slews: kvmclock is that counter scaled
//! to nanoseconds from one reference point per VM, so the pages of all vCPUs agree to the nanosecond.

pub mod ioctls;
pub mod msrs;
pub mod pvclock;
pub mod scale;
pub mod tsc;
