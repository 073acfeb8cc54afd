//! Power-up and INIT.

use super::regs::{Bank, Reg, lvt};
use super::{ApicBase, Features, Lapic, Role};
use crate::ports::TimerPort;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetKind {
    /// RESET: everything, the APIC base and the ID included.
    PowerUp,
    /// INIT: the mode and the IDs survive.
    Init,
}

/// "14h": an integrated APIC; the EOI broadcast bit and the LVT count are added.
const VERSION: u32 = 0x14;
const SUPPRESS_EOI_BROADCAST: u32 = 1 << 24;
/// LINT0 as the firmware's virtual wire: ExtINT, unmasked.
const LINT0_EXTINT: u32 = 0x700;

pub(super) const LVT_ENTRIES: [Reg; 7] = [
    Reg::LVT_TIMER,
    Reg::LVT_THERMAL,
    Reg::LVT_PERFORMANCE,
    Reg::LVT_LINT0,
    Reg::LVT_LINT1,
    Reg::LVT_ERROR,
    Reg::LVT_CMCI,
];

/// What both resets leave at zero, in either mode.
const CLEARED: [Reg; 7] = [
    Reg::TPR,
    Reg::PPR,
    Reg::ESR,
    Reg::ICR,
    Reg::ICR_HIGH,
    Reg::DIVIDE_CONFIG,
    Reg::INITIAL_COUNT,
];

impl Lapic {
    pub fn reset(&mut self, kind: ResetKind, port: &mut dyn TimerPort) {
        port.disarm();
        if kind == ResetKind::PowerUp {
            self.apply_base(ApicBase::power_up(self.role));
            self.power_up_registers();
        } else {
            self.init_registers();
        }
    }

    pub(super) fn power_up_registers(&mut self) {
        self.set_xapic_id(self.id as u8);
        self.init_registers();
    }

    fn init_registers(&mut self) {
        self.update_version();
        for &entry in self.lvt_entries() {
            self.regs.set(entry, lvt::MASKED);
        }
        if self.role == Role::Boot && self.features.contains(Features::LINT0_REENABLED) {
            self.regs.set(Reg::LVT_LINT0, LINT0_EXTINT);
        }
        self.regs.set(Reg::DFR, u32::MAX);
        self.regs.set(Reg::SVR, 0xff);
        if !self.x2apic() {
            self.regs.set(Reg::LDR, 0);
        }
        for reg in CLEARED {
            self.regs.set(reg, 0);
        }
        for bank in [Bank::InService, Bank::TriggerMode, Bank::Request] {
            self.regs.clear(bank);
        }
        self.requests = false;
        self.timer.reset();
        self.view_changed = true;
    }

    /// The LVT entries this APIC has.
    pub(super) fn lvt_entries(&self) -> &'static [Reg] {
        if self.features.contains(Features::CMCI) {
            &LVT_ENTRIES
        } else {
            &LVT_ENTRIES[..6]
        }
    }

    pub(super) fn update_version(&mut self) {
        let mut version = VERSION | (self.lvt_entries().len() as u32 - 1) << 16;
        if self.features.contains(Features::SUPPRESS_EOI_BROADCAST) {
            version |= SUPPRESS_EOI_BROADCAST;
        }
        self.regs.set(Reg::VERSION, version);
    }

    pub(super) fn may_suppress_eoi_broadcast(&self) -> bool {
        self.regs.get(Reg::VERSION) & SUPPRESS_EOI_BROADCAST != 0
    }
}
