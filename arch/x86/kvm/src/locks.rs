//! Ranks of this crate's locks, in the range the neutral KVM leaves to architectures.

use ring3_host::lock::Rank;

/// The interrupt controllers of a VM: a PIC, I/O APIC or PIT delivers to local APICs while it is held.
pub const IRQCHIP: Rank = Rank(2000);
/// A local APIC; never two at once.
pub const LAPIC: Rank = Rank(3000);
