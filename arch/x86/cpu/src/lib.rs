//! An x86 processor that does not know it is inside KVM.
