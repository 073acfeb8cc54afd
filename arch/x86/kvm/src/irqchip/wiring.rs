//! What the chips need of the VM around them, and the default connections of GSIs.

use crate::ioapic;
use crate::lapic::{ApicMessage, BroadcastRule, Lapic, LocalSource};
use crate::pic;
use crate::ports::{Delivery, InterruptBus, IrqSource, Level, LineStatus};
use ring3_uapi::x86::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE};
use std::sync::Arc;

/// A pin of one of the chips.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChipPin {
    Pic(pic::Pin),
    Ioapic(ioapic::Pin),
}

impl ChipPin {
    /// The pin that a routing entry names by its KVM_IRQCHIP_* and its number there.
    pub fn from_route(chip: u32, pin: u32) -> Option<ChipPin> {
        match chip {
            KVM_IRQCHIP_PIC_MASTER if pin < 8 => pic::Pin::new(pin).map(ChipPin::Pic),
            KVM_IRQCHIP_PIC_SLAVE if pin < 8 => pic::Pin::new(pin + 8).map(ChipPin::Pic),
            KVM_IRQCHIP_IOAPIC => ioapic::Pin::new(pin).map(ChipPin::Ioapic),
            _ => None,
        }
    }

    /// The same as a routing entry names it: the chip, and the pin.
    pub fn route(self) -> (u32, u32) {
        match self {
            ChipPin::Pic(pin) if pin.index() < 8 => (KVM_IRQCHIP_PIC_MASTER, pin.index() as u32),
            ChipPin::Pic(pin) => (KVM_IRQCHIP_PIC_SLAVE, pin.index() as u32 - 8),
            ChipPin::Ioapic(pin) => (KVM_IRQCHIP_IOAPIC, pin.index() as u32),
        }
    }
}

/// The local APICs of the VM, by vCPU index. Called with locks of chips held, except where it says otherwise.
pub trait LocalApics: Send + Sync {
    /// Deliver a device's message; `accepted` is told every vCPU that took it.
    fn send(&self, message: &ApicMessage, accepted: &mut dyn FnMut(usize)) -> Delivery;
    /// Visit every APIC, with its lock held, in the order of the vCPUs.
    fn each(&self, visit: &mut dyn FnMut(usize, &mut Lapic));
    /// Make a vCPU look for interrupts.
    fn wake(&self, vcpu: usize);
    /// A local interrupt source of a vCPU fires. Called without locks.
    fn fire(&self, vcpu: usize, source: LocalSource);
    /// What a device's message to FFh means.
    fn broadcast_rule(&self) -> BroadcastRule;
}

/// What is called when the guest acknowledged a GSI's interrupt.
pub type OnAcknowledge = Arc<dyn Fn() + Send + Sync>;

/// The VM's routing table and those who listen for acknowledgements.
pub trait Gsis: Send + Sync {
    fn gsi_of(&self, pin: ChipPin) -> Option<u32>;
    /// Move a GSI: everything it is connected to. Called without locks.
    fn drive(&self, gsi: u32, source: IrqSource, level: Level) -> LineStatus;
    /// The guest acknowledged a GSI: tell the listeners. Called without locks.
    fn acknowledged(&self, gsi: u32);
    /// Whether anybody listens.
    fn is_listened_to(&self, gsi: u32) -> bool;
    /// Listen, until [`Gsis::unlisten`] of the returned number.
    fn listen(&self, gsi: u32, call: OnAcknowledge) -> u64;
    fn unlisten(&self, listener: u64);
}

/// The way of the chips' messages.
pub(super) struct Bus<'a>(pub &'a dyn LocalApics);

impl InterruptBus for Bus<'_> {
    fn deliver(&mut self, message: &ApicMessage, accepted: &mut dyn FnMut(usize)) -> Delivery {
        self.0.send(message, accepted)
    }
}

/// What KVM_CREATE_IRQCHIP connects: GSI n to pin n of the I/O APIC, and the first sixteen also to the 8259 pair.
/// (A PC's timer is on pin 2 of the I/O APIC: that is for the client to route.)
pub fn default_routes() -> impl Iterator<Item = (u32, ChipPin)> {
    let ioapic = (0..).map_while(|gsi| Some((gsi, ChipPin::Ioapic(ioapic::Pin::new(gsi)?))));
    let pic = (0..).map_while(|gsi| Some((gsi, ChipPin::Pic(pic::Pin::new(gsi)?))));
    ioapic.chain(pic)
}
