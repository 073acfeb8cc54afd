//! The KVM ABI as data.
