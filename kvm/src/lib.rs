//! The architecture-neutral KVM.
