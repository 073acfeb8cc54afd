//! The real-time clock's interrupt and its EOIs.
//!
//! Its pin is edge-triggered, yet the client wants to know whether the last tick was seen: some guests keep
//! time by counting them, and the client sends lost ones again. So the EOIs of pin 8 are tracked.

use super::{Ioapic, Pin, RTC_PIN};
use crate::lapic::ApicMessage;
use crate::ports::{Delivery, InterruptBus};

/// Whether a vCPU has the clock's vector requested or in service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PendingEoi {
    No,
    Yes,
}

/// The vCPUs that owe an EOI, with the vector each was sent.
#[derive(Clone, Debug, Default)]
pub(super) struct RtcTracking {
    owing: Vec<(usize, u8)>,
}

impl RtcTracking {
    pub(super) fn is_pending(&self) -> bool {
        !self.owing.is_empty()
    }

    pub(super) fn deliver(&mut self, message: &ApicMessage, bus: &mut dyn InterruptBus) -> Delivery {
        let owing = &mut self.owing;
        bus.deliver(message, &mut |vcpu| owing.push((vcpu, message.vector)))
    }

    pub(super) fn end(&mut self, vcpu: usize, vector: u8) {
        self.owing.retain(|&owed| owed != (vcpu, vector));
    }

    pub(super) fn vector_on(&self, vcpu: usize) -> Option<u8> {
        self.owing.iter().find(|owed| owed.0 == vcpu).map(|owed| owed.1)
    }

    pub(super) fn clear(&mut self) {
        self.owing.clear();
    }
}

impl Ioapic {
    /// Rebuild the tracking for one vCPU, after its APIC's state or this chip's was set. Call it for the
    /// vCPUs that are a destination of pin 8.
    pub fn track_rtc(&mut self, vcpu: usize, pending: PendingEoi) {
        match (self.rtc.vector_on(vcpu), pending) {
            (None, PendingEoi::Yes) => {
                let vector = self.rtc_entry().vector();
                self.rtc.owing.push((vcpu, vector));
            }
            (Some(vector), PendingEoi::No) => self.rtc.end(vcpu, vector),
            _ => {}
        }
    }

    /// The entry of the real-time clock's pin.
    pub fn rtc_entry(&self) -> super::Entry {
        self.entry(Pin(RTC_PIN as u8))
    }
}
