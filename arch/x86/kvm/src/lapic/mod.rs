//! The local APIC of one vCPU, as a state machine.
//!
//! * `regs`: the register page; `message`: what APICs send each other; `route`: who receives it.
//! * `base`: the APIC base MSR and the two modes; `reset`: power-up and INIT.
//! * `priority`: IRR, ISR, TPR, PPR, acknowledge and EOI; `accept`: taking messages and local interrupts.
//! * `timer`: one-shot, periodic and TSC-deadline.
//! * `guest`: the MMIO window and the x2APIC MSRs; `client`: KVM_GET_LAPIC and KVM_SET_LAPIC.
//!
//! Linux's KVM is the specification, including where it is simpler than hardware: the ESR never reports
//! an error, an IPI is never busy, and lowest-priority arbitration goes by the vector. Not supported:
//! AMD's extended registers.

mod accept;
mod base;
mod client;
mod guest;
mod message;
mod priority;
mod regs;
mod reset;
mod route;
mod timer;

#[cfg(test)]
mod tests;

pub use accept::{Acceptance, LocalSource};
pub use base::{ApicBase, ApicMode, InvalidBase, Writer};
pub use client::InvalidState;
pub use guest::{Effect, GeneralProtection};
pub use message::{
    ApicMessage, Assertion, DeliveryMode, Destination, DestinationFormat, DestinationMode, InvalidMsi,
    Redirection, TriggerMode,
};
pub use priority::{EndOfInterrupt, EoiBroadcast};
pub use regs::{STATE_SIZE, VectorSet};
pub use reset::ResetKind;
pub use route::{BroadcastRule, LapicView, for_each_target, matches_destination};
pub use timer::DEFAULT_CYCLE_NS;

use regs::{Bank, Reg, RegisterPage, lvt, svr};
use timer::Timer;

bitflags::bitflags! {
    /// What the VM and the guest's CPUID make of the APIC.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Features: u32 {
        /// CPUID offers x2APIC mode.
        const X2APIC = 1 << 0;
        /// CPUID offers the TSC-deadline timer.
        const TSC_DEADLINE = 1 << 1;
        /// The machine-check banks have a CMCI, hence a seventh LVT entry.
        const CMCI = 1 << 2;
        /// The APIC may be told not to broadcast EOIs: only without an in-kernel I/O APIC, whose
        /// version has no EOI register.
        const SUPPRESS_EOI_BROADCAST = 1 << 3;
        /// A counter overflow masks the performance entry (Intel; AMD does not).
        const PERFORMANCE_MASKS_ITSELF = 1 << 4;
        /// KVM_X86_QUIRK_LINT0_REENABLED: the boot processor's LINT0 comes up as ExtINT, unmasked.
        const LINT0_REENABLED = 1 << 5;
        /// KVM_X86_QUIRK_LAPIC_MMIO_HOLE: a window without xAPIC reads as ones and ignores writes.
        const MMIO_HOLE = 1 << 6;
        /// The client speaks 32-bit APIC IDs in the saved state (KVM_X2APIC_API_USE_32BIT_IDS).
        const WIDE_IDS = 1 << 7;
    }
}

/// Whether a vCPU is the boot processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Boot,
    Application,
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct Lapic {
    regs: RegisterPage,
    base: ApicBase,
    /// The vCPU id, which is also the x2APIC ID.
    id: u32,
    role: Role,
    features: Features,
    timer: Timer,
    /// No bit of the IRR is set when this is false.
    requests: bool,
    /// Vectors whose EOI the I/O APIC (or the client's) wants to hear of.
    eoi_vectors: VectorSet,
    /// Whether interrupts may end unseen, see [`Lapic::may_end_unseen`].
    unseen_ends: bool,
    /// What [`Lapic::view`] shows has changed since it was last taken.
    view_changed: bool,
}

impl Lapic {
    /// An APIC in its power-up state.
    pub fn new(id: u32, role: Role, features: Features) -> Self {
        let mut lapic = Lapic {
            regs: RegisterPage::default(),
            base: ApicBase::power_up(role),
            id,
            role,
            features,
            timer: Timer::default(),
            requests: false,
            eoi_vectors: VectorSet::default(),
            unseen_ends: false,
            view_changed: true,
        };
        lapic.power_up_registers();
        lapic
    }

    pub fn features(&self) -> Features {
        self.features
    }

    /// Follow a change of CPUID, capabilities or quirks.
    pub fn set_features(&mut self, features: Features) {
        if features.contains(Features::CMCI) && !self.features.contains(Features::CMCI) {
            self.regs.set(Reg::LVT_CMCI, lvt::MASKED);
        }
        self.features = features;
        self.update_version();
    }

    /// From here on its state has IDs of 32 bits.
    pub fn widen_ids(&mut self) {
        self.features.insert(Features::WIDE_IDS);
    }

    /// The vectors whose EOI must leave this APIC.
    pub fn set_eoi_vectors(&mut self, vectors: VectorSet) {
        self.eoi_vectors = vectors;
    }

    /// What routing needs to know of this APIC.
    pub fn view(&self) -> LapicView {
        LapicView {
            mode: self.base.mode(),
            software_enabled: self.software_enabled(),
            x2apic_id: self.id,
            xapic_id: (self.regs.get(Reg::ID) >> 24) as u8,
            logical: self.regs.get(Reg::LDR),
            format: self.regs.get(Reg::DFR),
        }
    }

    /// The view, if it changed since the last call.
    pub fn take_changed_view(&mut self) -> Option<LapicView> {
        std::mem::take(&mut self.view_changed).then(|| self.view())
    }

    pub(super) fn hardware_enabled(&self) -> bool {
        self.base.mode() != ApicMode::Disabled
    }

    pub(super) fn x2apic(&self) -> bool {
        self.base.mode() == ApicMode::X2apic
    }

    pub(super) fn software_enabled(&self) -> bool {
        self.regs.get(Reg::SVR) & svr::ENABLED != 0
    }

    /// Enabled by both the APIC base and the spurious vector register.
    pub(super) fn enabled(&self) -> bool {
        self.hardware_enabled() && self.software_enabled()
    }

    /// A vector is requested or in service here.
    pub fn owes_eoi(&self, vector: u8) -> bool {
        self.regs.test(Bank::InService, vector) || self.regs.test(Bank::Request, vector)
    }
}
