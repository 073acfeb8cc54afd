//! A small typed KVM client.
