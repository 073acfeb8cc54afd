//! The VM as the assembled chips see it.

use std::sync::{Arc, Weak};

use ring3_kvm::irq::Pin;

use crate::apic::Apics;
use crate::irqchip::{ChipPin, Gsis, LocalApics, OnAcknowledge};
use crate::lapic::{ApicMessage, BroadcastRule, Lapic, LocalSource};
use crate::ports::{Delivery, IrqSource, Level, LineStatus};
use crate::settings::Settings;
use crate::vm::X86Vm;

/// The local APICs of a VM.
pub struct ApicsOf {
    pub apics: Arc<Apics>,
    pub settings: Arc<Settings>,
}

impl LocalApics for ApicsOf {
    fn send(&self, message: &ApicMessage, accepted: &mut dyn FnMut(usize)) -> Delivery {
        self.apics
            .route(message, None, self.settings.broadcast_rule(), accepted)
    }

    fn each(&self, visit: &mut dyn FnMut(usize, &mut Lapic)) {
        for (index, target) in self.apics.all().iter().enumerate() {
            visit(index, &mut target.lock().lapic);
        }
    }

    fn wake(&self, vcpu: usize) {
        if let Some(target) = self.apics.all().get(vcpu) {
            target.seat.event();
        }
    }

    fn fire(&self, vcpu: usize, source: LocalSource) {
        if let Some(target) = self.apics.all().get(vcpu) {
            target.deliver_local(source);
        }
    }

    fn broadcast_rule(&self) -> BroadcastRule {
        self.settings.broadcast_rule()
    }
}

/// The routing table and the listeners of a VM. The VM owns the chips, so they do not own it.
pub struct GsisOf(pub Weak<X86Vm>);

pub fn pin_of(pin: ChipPin) -> Pin {
    let (chip, pin) = pin.route();
    Pin { chip, pin }
}

impl Gsis for GsisOf {
    fn gsi_of(&self, pin: ChipPin) -> Option<u32> {
        self.0.upgrade()?.irqs().routing().table().gsi_of(pin_of(pin))
    }

    fn drive(&self, gsi: u32, source: IrqSource, level: Level) -> LineStatus {
        let Some(vm) = self.0.upgrade() else {
            return LineStatus::Ignored;
        };
        from_neutral(vm.set_irq(
            gsi,
            source_to_neutral(source),
            ring3_kvm::irq::Level::from(level.is_high()),
        ))
    }

    fn acknowledged(&self, gsi: u32) {
        if let Some(vm) = self.0.upgrade() {
            vm.irqs().acks().notify(gsi);
        }
    }

    fn is_listened_to(&self, gsi: u32) -> bool {
        self.0.upgrade().is_some_and(|vm| vm.irqs().acks().wanted(gsi))
    }

    fn listen(&self, gsi: u32, call: OnAcknowledge) -> u64 {
        self.0.upgrade().map_or(0, |vm| vm.irqs().acks().add(gsi, call))
    }

    fn unlisten(&self, listener: u64) {
        if let Some(vm) = self.0.upgrade() {
            vm.irqs().acks().remove(listener);
        }
    }
}

/// The neutral KVM has the same types.
pub fn source_from_neutral(source: ring3_kvm::irq::IrqSource) -> IrqSource {
    match source {
        ring3_kvm::irq::IrqSource::Client => IrqSource::Client,
        ring3_kvm::irq::IrqSource::Resample => IrqSource::Resample,
        ring3_kvm::irq::IrqSource::Timer => IrqSource::Timer,
    }
}

fn source_to_neutral(source: IrqSource) -> ring3_kvm::irq::IrqSource {
    match source {
        IrqSource::Client => ring3_kvm::irq::IrqSource::Client,
        IrqSource::Resample => ring3_kvm::irq::IrqSource::Resample,
        IrqSource::Timer => ring3_kvm::irq::IrqSource::Timer,
    }
}

pub fn to_neutral(status: LineStatus) -> ring3_kvm::irq::LineStatus {
    match status {
        LineStatus::Ignored => ring3_kvm::irq::LineStatus::Ignored,
        LineStatus::Coalesced => ring3_kvm::irq::LineStatus::Coalesced,
        LineStatus::Delivered(n) => ring3_kvm::irq::LineStatus::Delivered(n),
    }
}

fn from_neutral(status: ring3_kvm::irq::LineStatus) -> LineStatus {
    match status {
        ring3_kvm::irq::LineStatus::Ignored => LineStatus::Ignored,
        ring3_kvm::irq::LineStatus::Coalesced => LineStatus::Coalesced,
        ring3_kvm::irq::LineStatus::Delivered(n) => LineStatus::Delivered(n),
    }
}
