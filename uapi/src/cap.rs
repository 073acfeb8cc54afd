//! Capabilities: what KVM_CHECK_EXTENSION is asked about and what KVM_ENABLE_CAP turns on.

mod rows;

pub use rows::*;

use crate::arch::Archs;

/// What can be done with a capability besides asking for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Query,
    EnableVm,
    EnableVcpu,
}

/// A capability.
#[derive(Clone, Copy, Debug)]
pub struct CapRow {
    pub name: &'static str,
    pub number: u32,
    pub archs: Archs,
    pub kind: Kind,
    pub purpose: &'static str,
}

/// The row of a number.
pub fn lookup(number: u32) -> Option<&'static CapRow> {
    CAPABILITIES.iter().find(|row| row.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_ascend() {
        assert!(CAPABILITIES.is_sorted_by(|a, b| a.number < b.number));
        assert_eq!(lookup(KVM_CAP_IRQFD).map(|row| row.name), Some("KVM_CAP_IRQFD"));
        assert!(lookup(5).is_none());
    }
}
