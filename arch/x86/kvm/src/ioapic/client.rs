//! The client's face: the state of KVM_GET_IRQCHIP and KVM_SET_IRQCHIP.

use super::{Entry, Ioapic, Pin, Report};
use crate::ports::{InterruptBus, Level};
use ring3_uapi::x86::KvmIoapicState;

impl Ioapic {
    /// The state; edge-triggered interrupts that were sent are not part of its IRR, or they would be sent
    /// again when it is set.
    pub fn state(&self) -> KvmIoapicState {
        KvmIoapicState {
            base_address: self.address,
            ioregsel: self.select,
            id: self.id,
            irr: self.irr & !self.irr_delivered,
            pad: 0,
            redirtbl: self.entries.map(|entry| entry.0),
        }
    }

    /// Replace the state and send what its IRR holds. The sources' levels stay. Afterwards every APIC's EOI
    /// vectors, and the tracking of the real-time clock ([`Ioapic::track_rtc`]), are to be rebuilt.
    pub fn set_state(&mut self, state: &KvmIoapicState, bus: &mut dyn InterruptBus) {
        self.address = state.base_address;
        self.select = state.ioregsel & 0xff;
        self.id = state.id;
        self.entries = state.redirtbl.map(Entry);
        self.irr = 0;
        self.irr_delivered = 0;
        self.rtc.clear();
        for pin in Pin::all().filter(|pin| state.irr & pin.bit() != 0) {
            self.assert_pin(pin, Level::High, Report::Client, bus);
        }
        self.rtc.clear();
    }
}
