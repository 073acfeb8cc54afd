//! Interrupts on their way to the guest: lines, messages, and who drives them.
//!
//! [`routing`] holds the table from GSIs to pins and messages, [`irqfd`] eventfds that drive GSIs, [`ack`]
//! what wants to know of end-of-interrupts. Pins and messages are delivered by the architecture
//! ([`crate::arch::Irqs`]); this module knows no interrupt controller.

pub mod ack;
mod ioctls;
pub mod irqfd;
pub mod routing;

pub use ioctls::{irq_line, set_gsi_routing, signal_msi};
pub use routing::{Msi, Pin, Route, Routing};

use crate::ranks;
use ring3_host::lock::RankedMutex;

/// A VM's interrupts: what is connected to what, and who wants to know.
pub struct Irqs {
    routing: Routing,
    acks: ack::Acks,
    irqfds: irqfd::Irqfds,
    changes: RankedMutex<()>,
}

impl Default for Irqs {
    fn default() -> Irqs {
        Irqs {
            routing: Routing::default(),
            acks: ack::Acks::default(),
            irqfds: irqfd::Irqfds::default(),
            changes: RankedMutex::new(ranks::ROUTING, ()),
        }
    }
}

impl Irqs {
    /// The current connections.
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Notifiers of ends of interrupts.
    pub fn acks(&self) -> &ack::Acks {
        &self.acks
    }

    #[cfg(test)]
    pub(crate) fn irqfds(&self) -> &irqfd::Irqfds {
        &self.irqfds
    }

    pub(crate) fn clear(&self) {
        self.irqfds.clear();
        self.acks.clear();
    }
}

/// The level of an interrupt line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Low,
    High,
}

impl Level {
    pub fn is_high(self) -> bool {
        self == Level::High
    }
}

impl From<bool> for Level {
    fn from(high: bool) -> Self {
        if high { Level::High } else { Level::Low }
    }
}

/// Who drives a line. Several sources share a pin; the line is the OR of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum IrqSource {
    /// KVM_IRQ_LINE, KVM_SIGNAL_MSI and irqfds without resampling.
    Client = 0,
    /// Resampling irqfds.
    Resample = 1,
    /// A timer in KVM (the x86 PIT).
    Timer = 2,
}

/// What became of driving a line or sending a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineStatus {
    /// Masked, or not deliverable for another reason.
    Ignored,
    /// The previous interrupt is still pending.
    Coalesced,
    /// Delivered to this many vCPUs; a lowered line counts as one.
    Delivered(u32),
}

impl LineStatus {
    /// The number of the API: negative, zero or the count.
    pub fn code(self) -> i32 {
        match self {
            LineStatus::Ignored => -1,
            LineStatus::Coalesced => 0,
            LineStatus::Delivered(n) => i32::try_from(n).unwrap_or(i32::MAX),
        }
    }

    /// The status of one GSI whose pins answered separately: ignored ones do not count, the others add up.
    pub fn merge(self, other: LineStatus) -> LineStatus {
        match (self, other) {
            (LineStatus::Ignored, x) | (x, LineStatus::Ignored) => x,
            (LineStatus::Coalesced, x) | (x, LineStatus::Coalesced) => x,
            (LineStatus::Delivered(a), LineStatus::Delivered(b)) => {
                LineStatus::Delivered(a.saturating_add(b))
            }
        }
    }
}
