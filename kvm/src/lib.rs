//! The architecture-neutral KVM.
#![forbid(unsafe_code)]
