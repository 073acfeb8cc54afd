//! KVM/x86.
