//! Taking interrupts: messages from the bus, and the local sources of the vector table.

use super::regs::{Bank, Reg, lvt};
use super::{ApicMessage, Assertion, DeliveryMode, Features, Lapic, TriggerMode};

/// What an accepted message asks of the vCPU. Everything but `Discarded` wants it woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acceptance {
    /// The APIC is disabled, or the message means nothing to it.
    Discarded,
    /// A vector was requested; [`Lapic::highest_pending`] tells when it is due.
    Requested,
    Nmi,
    Smi,
    /// Forget an earlier STARTUP, then perform INIT.
    Init,
    /// Start at this page of real-mode memory, if waiting for it.
    Startup(u8),
    /// Leave a paravirtual halt.
    Unhalt,
}

/// The local sources that a vector table entry turns into interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalSource {
    Thermal,
    Performance,
    Lint0,
    Lint1,
    Error,
    Cmci,
}

impl LocalSource {
    fn entry(self) -> Reg {
        match self {
            LocalSource::Thermal => Reg::LVT_THERMAL,
            LocalSource::Performance => Reg::LVT_PERFORMANCE,
            LocalSource::Lint0 => Reg::LVT_LINT0,
            LocalSource::Lint1 => Reg::LVT_LINT1,
            LocalSource::Error => Reg::LVT_ERROR,
            LocalSource::Cmci => Reg::LVT_CMCI,
        }
    }
}

impl Lapic {
    /// Take a message that is addressed to this APIC.
    pub fn accept(&mut self, message: &ApicMessage) -> Acceptance {
        let deasserted = message.trigger == TriggerMode::Level && message.assertion == Assertion::Deassert;
        match message.delivery_mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if deasserted => Acceptance::Discarded,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.request(message.vector, message.trigger)
            }
            DeliveryMode::Smi => Acceptance::Smi,
            DeliveryMode::RemoteRead => Acceptance::Unhalt,
            DeliveryMode::Nmi => Acceptance::Nmi,
            DeliveryMode::Init if deasserted => Acceptance::Discarded,
            DeliveryMode::Init => Acceptance::Init,
            DeliveryMode::Startup => Acceptance::Startup(message.vector),
            // The 8259's line is looked at directly, see `accepts_extint`.
            DeliveryMode::ExtInt => Acceptance::Discarded,
        }
    }

    /// A local source fires.
    pub fn deliver_local(&mut self, source: LocalSource) -> Acceptance {
        let reg = source.entry();
        let entry = self.regs.get(reg);
        if !self.hardware_enabled() || entry & lvt::MASKED != 0 || !self.lvt_entries().contains(&reg) {
            return Acceptance::Discarded;
        }
        let trigger = TriggerMode::from_bit(entry & lvt::LEVEL_TRIGGERED != 0);
        // The level bit of an ICR value is what an asserted local line looks like.
        let message = ApicMessage {
            trigger,
            ..ApicMessage::from_icr(entry & 0x7ff | 1 << 14, 0)
        };
        let acceptance = self.accept(&message);
        if acceptance != Acceptance::Discarded
            && source == LocalSource::Performance
            && self.features.contains(Features::PERFORMANCE_MASKS_ITSELF)
        {
            self.regs.set(reg, entry | lvt::MASKED);
        }
        acceptance
    }

    pub(super) fn request(&mut self, vector: u8, trigger: TriggerMode) -> Acceptance {
        if !self.enabled() {
            return Acceptance::Discarded;
        }
        self.regs
            .assign(Bank::TriggerMode, vector, trigger == TriggerMode::Level);
        self.regs.assign(Bank::Request, vector, true);
        self.requests = true;
        Acceptance::Requested
    }
}
