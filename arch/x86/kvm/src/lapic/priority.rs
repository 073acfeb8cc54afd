//! Interrupt priority: which request is delivered next, acknowledge, and end of interrupt.

use super::regs::{Bank, Reg, lvt, svr};
use super::{DeliveryMode, Lapic, TriggerMode};

/// Whether the I/O APIC is to treat an EOI as its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EoiBroadcast {
    Sent,
    /// The guest set the suppress bit and will write the I/O APIC's EOI register itself.
    Suppressed,
}

/// An EOI that leaves the local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndOfInterrupt {
    pub vector: u8,
    pub trigger: TriggerMode,
    pub broadcast: EoiBroadcast,
}

impl Lapic {
    /// The processor priority: the higher class of the task priority and the highest vector in service.
    pub(super) fn processor_priority(&self) -> u32 {
        let task = self.regs.get(Reg::TPR) & 0xff;
        let service = u32::from(self.regs.highest(Bank::InService).unwrap_or(0)) & 0xf0;
        if task & 0xf0 >= service { task } else { service }
    }

    /// The vector that would be delivered now, were the processor to accept interrupts.
    pub fn highest_pending(&self) -> Option<u8> {
        if !self.requests || !self.hardware_enabled() {
            return None;
        }
        let vector = self.regs.highest(Bank::Request)?;
        (u32::from(vector) & 0xf0 > self.processor_priority()).then_some(vector)
    }

    /// The highest requested vector, whatever the priorities.
    pub fn highest_request(&self) -> Option<u8> {
        if self.requests {
            self.regs.highest(Bank::Request)
        } else {
            None
        }
    }

    /// The highest vector in service.
    pub fn highest_in_service(&self) -> Option<u8> {
        self.regs.highest(Bank::InService)
    }

    /// The processor takes the highest pending vector: it moves from request to service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.highest_pending()?;
        self.regs.assign(Bank::Request, vector, false);
        self.requests = self.regs.highest(Bank::Request).is_some();
        self.regs.assign(Bank::InService, vector, true);
        Some(vector)
    }

    /// Whether the interrupt in service may end unseen, if that is allowed: nothing else waits, and nobody wants to know.
    pub fn may_end_unseen(&self) -> bool {
        self.unseen_ends
            && !self.requests
            && self
                .highest_in_service()
                .is_some_and(|vector| !self.eoi_vectors.contains(vector))
    }

    pub fn allow_unseen_ends(&mut self, allowed: bool) {
        self.unseen_ends = allowed;
    }

    /// A write to the EOI register. Without a vector in service it does nothing; guests do that.
    pub fn end_of_interrupt(&mut self) -> Option<EndOfInterrupt> {
        let vector = self.regs.highest(Bank::InService)?;
        self.regs.assign(Bank::InService, vector, false);
        if !self.eoi_vectors.contains(vector) {
            return None;
        }
        let suppressed = self.regs.get(Reg::SVR) & svr::SUPPRESS_EOI_BROADCAST != 0;
        Some(EndOfInterrupt {
            vector,
            trigger: TriggerMode::from_bit(self.regs.test(Bank::TriggerMode, vector)),
            broadcast: if suppressed {
                EoiBroadcast::Suppressed
            } else {
                EoiBroadcast::Sent
            },
        })
    }

    /// CR8: the class of the task priority.
    pub fn cr8(&self) -> u64 {
        u64::from(self.regs.get(Reg::TPR) & 0xf0) >> 4
    }

    pub fn set_cr8(&mut self, value: u64) {
        self.regs.set(Reg::TPR, ((value & 0xf) << 4) as u32);
    }

    pub fn set_task_priority(&mut self, priority: u8) {
        self.regs.set(Reg::TPR, priority.into());
    }

    /// What KVM_SET_VAPIC_ADDR's word says of this APIC.
    pub fn vapic_word(&self) -> u32 {
        let priority = self.regs.get(Reg::TPR) & 0xff;
        let class = u32::from(self.highest_in_service().unwrap_or(0)) & 0xf0;
        priority | class << 8 | u32::from(self.highest_request().unwrap_or(0)) << 24
    }

    /// The interrupt line of the 8259 pair reaches this processor: through LINT0 as ExtINT, or directly
    /// when the APIC is disabled.
    pub fn accepts_extint(&self) -> bool {
        let entry = self.regs.get(Reg::LVT_LINT0);
        !self.hardware_enabled()
            || entry & lvt::MASKED == 0 && DeliveryMode::from_bits(entry >> 8) == DeliveryMode::ExtInt
    }

    /// LINT0 is set up as NMI: the guest uses the PIT as its watchdog.
    pub fn lint0_is_nmi(&self) -> bool {
        let entry = self.regs.get(Reg::LVT_LINT0);
        entry & lvt::MASKED == 0 && DeliveryMode::from_bits(entry >> 8) == DeliveryMode::Nmi
    }
}
