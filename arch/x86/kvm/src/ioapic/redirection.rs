//! An entry of the I/O redirection table.

use crate::lapic::{
    ApicMessage, Assertion, DeliveryMode, Destination, DestinationMode, Redirection, TriggerMode,
};

const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL_TRIGGERED: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;

/// A redirection table entry, in the layout of the IOREDTBL registers.
///
/// The polarity bit is kept but means nothing: a pin is driven by its asserted state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry(pub u64);

impl Entry {
    pub const RESET: Entry = Entry(MASKED);

    pub fn vector(self) -> u8 {
        self.0 as u8
    }

    pub fn destination(self) -> u32 {
        (self.0 >> 56) as u32
    }

    pub fn destination_mode(self) -> DestinationMode {
        DestinationMode::from_bit(self.0 & 1 << 11 != 0)
    }

    pub fn trigger(self) -> TriggerMode {
        TriggerMode::from_bit(self.0 & LEVEL_TRIGGERED != 0)
    }

    pub fn is_level(self) -> bool {
        self.trigger() == TriggerMode::Level
    }

    pub fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    /// A level-triggered interrupt was accepted and not yet ended.
    pub fn remote_irr(self) -> bool {
        self.0 & REMOTE_IRR != 0
    }

    pub(super) fn set_remote_irr(&mut self) {
        self.0 |= REMOTE_IRR;
    }

    pub(super) fn clear_remote_irr(&mut self) {
        self.0 &= !REMOTE_IRR;
    }

    /// The entry after a write of `bits`. Turning it to edge-triggered clears the remote IRR: systems
    /// without an EOI register use that to end an interrupt by hand.
    pub(super) fn written(self, bits: u64) -> Entry {
        let mut entry = Entry(bits & !READ_ONLY | self.0 & READ_ONLY);
        if !entry.is_level() {
            entry.clear_remote_irr();
        }
        entry
    }

    /// What the pin sends when it is asserted.
    pub fn message(self) -> ApicMessage {
        ApicMessage {
            destination: Destination::Id(self.destination()),
            destination_mode: self.destination_mode(),
            delivery_mode: DeliveryMode::from_bits((self.0 >> 8) as u32),
            vector: self.vector(),
            assertion: Assertion::Assert,
            trigger: self.trigger(),
            redirection: Redirection::None,
        }
    }
}
