//! The I/O APIC of a VM: 24 pins, as in the 82093AA (version 11h: no EOI register), as a state machine.
//!
//! * `redirection`: a table entry; `guest`: the MMIO window; `client`: KVM_GET_IRQCHIP, KVM_SET_IRQCHIP.
//! * `rtc`: whether the last interrupt of the real-time clock was seen by the guest.
//!
//! Interrupts go out through an [`InterruptBus`]. An EOI is handled in two steps, [`Ioapic::eoi_pins`] and
//! [`Ioapic::end_of_interrupt`], because those who wait for it may move the line in between.

mod client;
mod guest;
mod redirection;
mod rtc;

#[cfg(test)]
mod tests;

pub use guest::{MaskChange, Written};
pub use redirection::Entry;
pub use rtc::PendingEoi;

use crate::lapic::{
    BroadcastRule, EndOfInterrupt, EoiBroadcast, LapicView, TriggerMode, VectorSet, matches_destination,
};
use crate::ports::{Delivery, InterruptBus, IrqSource, Level, LineState, LineStatus};
use rtc::RtcTracking;

pub const PINS: usize = 24;
/// The pin of the real-time clock.
pub const RTC_PIN: usize = 8;
pub const DEFAULT_ADDRESS: u64 = 0xfec0_0000;
/// The length of the MMIO window.
pub const WINDOW: u64 = 0x100;

/// This many level interrupts in a row that are asserted again right at their EOI are a storm.
const STORM: u32 = 10_000;

/// A pin number below [`PINS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pin(u8);

impl Pin {
    pub fn new(pin: u32) -> Option<Pin> {
        (pin < PINS as u32).then_some(Pin(pin as u8))
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn bit(self) -> u32 {
        1 << self.0
    }

    fn all() -> impl Iterator<Item = Pin> {
        (0..PINS as u8).map(Pin)
    }
}

/// Whether the caller reports the outcome to the client (KVM_IRQ_LINE_STATUS); only then is the
/// real-time clock's interrupt held to be coalesced until its EOI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    Nobody,
    Client,
}

/// What the end of an interrupt leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Done,
    /// An interrupt storm: call [`Ioapic::inject_delayed`] in some ten milliseconds.
    Delay,
}

#[derive(Clone, Debug)]
pub struct Ioapic {
    address: u64,
    select: u32,
    id: u32,
    /// Asserted pins: for edge-triggered ones, since the last falling edge.
    irr: u32,
    /// Edge-triggered pins of `irr` that were sent.
    irr_delivered: u32,
    entries: [Entry; PINS],
    lines: [LineState; PINS],
    rtc: RtcTracking,
    /// EOIs in a row after which the pin was still asserted.
    repeats: [u32; PINS],
}

impl Default for Ioapic {
    fn default() -> Self {
        Ioapic {
            address: DEFAULT_ADDRESS,
            select: 0,
            id: 0,
            irr: 0,
            irr_delivered: 0,
            entries: [Entry::RESET; PINS],
            lines: [LineState::default(); PINS],
            rtc: RtcTracking::default(),
            repeats: [0; PINS],
        }
    }
}

impl Ioapic {
    pub fn entry(&self, pin: Pin) -> Entry {
        self.entries[pin.index()]
    }

    /// One source moves a pin.
    pub fn set_line(
        &mut self,
        pin: Pin,
        source: IrqSource,
        level: Level,
        report: Report,
        bus: &mut dyn InterruptBus,
    ) -> LineStatus {
        let level = self.lines[pin.index()].drive(source, level);
        self.assert_pin(pin, level, report, bus)
    }

    fn assert_pin(
        &mut self,
        pin: Pin,
        level: Level,
        report: Report,
        bus: &mut dyn InterruptBus,
    ) -> LineStatus {
        if level == Level::Low {
            self.irr &= !pin.bit();
            return LineStatus::Delivered(1);
        }
        if pin.index() == RTC_PIN && report == Report::Client && self.rtc.is_pending() {
            return LineStatus::Coalesced;
        }
        let was_asserted = self.irr & pin.bit() != 0;
        self.irr |= pin.bit();
        if !self.entry(pin).is_level() {
            self.irr_delivered &= !pin.bit();
            if was_asserted {
                return LineStatus::Coalesced;
            }
        }
        self.service(pin, report, bus)
    }

    /// Send a pin's interrupt, if its entry lets it through.
    fn service(&mut self, pin: Pin, report: Report, bus: &mut dyn InterruptBus) -> LineStatus {
        let entry = self.entry(pin);
        if entry.is_masked() || entry.is_level() && entry.remote_irr() {
            return LineStatus::Ignored;
        }
        if !entry.is_level() {
            self.irr_delivered |= pin.bit();
        }
        let message = entry.message();
        let delivery = if pin.index() == RTC_PIN && report == Report::Client {
            self.rtc.deliver(&message, bus)
        } else {
            bus.deliver(&message, &mut |_| {})
        };
        // A message without any target also waits for an EOI, as in KVM.
        if entry.is_level() && delivery != Delivery::Accepted(0) {
            self.entries[pin.index()].set_remote_irr();
        }
        match delivery {
            Delivery::NoTarget => LineStatus::Ignored,
            Delivery::Accepted(0) => LineStatus::Coalesced,
            Delivery::Accepted(n) => LineStatus::Delivered(n),
        }
    }

    /// A vCPU ended a vector: the pins it belongs to. Their acknowledgement is to be told to whoever waits
    /// for it, then [`Ioapic::end_of_interrupt`] called for each.
    pub fn eoi_pins(&mut self, vcpu: usize, vector: u8) -> Vec<Pin> {
        self.rtc.end(vcpu, vector);
        Pin::all()
            .filter(|&pin| self.entry(pin).vector() == vector)
            .collect()
    }

    /// The second step of an EOI: a level-triggered pin may interrupt again, and does if still asserted.
    pub fn end_of_interrupt(&mut self, pin: Pin, eoi: &EndOfInterrupt, bus: &mut dyn InterruptBus) -> Ended {
        if eoi.trigger == TriggerMode::Edge || eoi.broadcast == EoiBroadcast::Suppressed {
            return Ended::Done;
        }
        self.entries[pin.index()].clear_remote_irr();
        let repeats = &mut self.repeats[pin.index()];
        if self.entries[pin.index()].is_masked() || self.irr & pin.bit() == 0 {
            *repeats = 0;
            return Ended::Done;
        }
        *repeats += 1;
        if *repeats == STORM {
            // Hardware is slower than this; a guest that never quiets its device still makes progress.
            *repeats = 0;
            return Ended::Delay;
        }
        self.service(pin, Report::Nobody, bus);
        Ended::Done
    }

    /// After a storm: send what is asserted and not waiting for an EOI.
    pub fn inject_delayed(&mut self, bus: &mut dyn InterruptBus) {
        for pin in Pin::all() {
            let entry = self.entry(pin);
            if entry.is_level() && !entry.remote_irr() && self.irr & pin.bit() != 0 {
                self.service(pin, Report::Nobody, bus);
            }
        }
    }

    /// The vectors whose EOI on `vcpu` matters here: level-triggered ones, the real-time clock's, and those
    /// of `watched` pins (a bit each). `owes_eoi` tells whether the vCPU has a vector requested or in service,
    /// which outlives a change of the entry's destination.
    pub fn eoi_vectors(
        &self,
        vcpu: usize,
        view: &LapicView,
        rule: BroadcastRule,
        watched: u32,
        owes_eoi: impl Fn(u8) -> bool,
    ) -> VectorSet {
        let mut vectors = VectorSet::default();
        if let Some(vector) = self.rtc.vector_on(vcpu) {
            vectors.insert(vector);
        }
        for pin in Pin::all() {
            let entry = self.entry(pin);
            if !entry.is_level() && watched & pin.bit() == 0 && pin.index() != RTC_PIN {
                continue;
            }
            let here = matches_destination(view, entry.destination(), entry.destination_mode(), rule);
            if here || owes_eoi(entry.vector()) {
                vectors.insert(entry.vector());
            }
        }
        vectors
    }
}
