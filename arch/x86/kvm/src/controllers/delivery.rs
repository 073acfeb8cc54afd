//! What the routing table's entries do: pins of the chips, and messages to the local APICs.

use std::sync::atomic::Ordering::Relaxed;

use ring3_kvm::Errno;
use ring3_kvm::irq::{self, Msi, Route};
use ring3_uapi::x86::KVM_X2APIC_API_USE_32BIT_IDS;

use super::wiring::{source_from_neutral, to_neutral};
use crate::irqchip::{ChipPin, eoi_vectors};
use crate::lapic::{ApicMessage, DestinationFormat};
use crate::ports::{Delivery, Level};
use crate::vm::X86Vm;

fn format(vm: &X86Vm) -> DestinationFormat {
    let wide = vm.arch().settings.x2apic_api.load(Relaxed) & KVM_X2APIC_API_USE_32BIT_IDS != 0;
    if wide {
        DestinationFormat::X2apic
    } else {
        DestinationFormat::Xapic
    }
}

fn message(vm: &X86Vm, msi: &Msi) -> Option<ApicMessage> {
    ApicMessage::from_msi(msi.address, msi.data, format(vm)).ok()
}

/// Whether a route leads somewhere.
pub fn check_route(vm: &X86Vm, route: &Route) -> Result<(), Errno> {
    let fine = match route {
        Route::Pin(pin) => super::has_chips(vm) && ChipPin::from_route(pin.chip, pin.pin).is_some(),
        Route::Msi(msi) => message(vm, msi).is_some(),
        _ => false,
    };
    if fine { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Drives a pin or sends a message.
pub fn set_irq(vm: &X86Vm, route: &Route, source: irq::IrqSource, level: irq::Level) -> irq::LineStatus {
    match route {
        Route::Pin(pin) => {
            let Some(chips) = vm.arch().controllers.chips() else {
                return irq::LineStatus::Ignored;
            };
            let Some(pin) = ChipPin::from_route(pin.chip, pin.pin) else {
                return irq::LineStatus::Ignored;
            };
            to_neutral(chips.set_pin(pin, source_from_neutral(source), Level::from(level.is_high())))
        }
        Route::Msi(msi) if level.is_high() => send_msi(vm, msi),
        _ => irq::LineStatus::Ignored,
    }
}

fn send_msi(vm: &X86Vm, msi: &Msi) -> irq::LineStatus {
    let Some(message) = message(vm, msi) else {
        return irq::LineStatus::Ignored;
    };
    let arch = vm.arch();
    // As Linux has it, who is not there blocks it, unless nobody is.
    let nobody = arch.apics.all().is_empty();
    match arch
        .apics
        .route(&message, None, arch.settings.broadcast_rule(), &mut |_| {})
    {
        Delivery::NoTarget if nobody => irq::LineStatus::Ignored,
        Delivery::NoTarget | Delivery::Accepted(0) => irq::LineStatus::Coalesced,
        Delivery::Accepted(n) => irq::LineStatus::Delivered(n),
    }
}

/// Tells every local APIC which EOIs the client's I/O APIC wants.
pub fn refresh_split(vm: &X86Vm, reserved_gsis: u32) {
    let table = vm.irqs().routing().table();
    let messages: Vec<ApicMessage> = (0..reserved_gsis)
        .flat_map(|gsi| table.routes(gsi))
        .filter_map(|route| match route {
            Route::Msi(msi) => message(vm, msi),
            _ => None,
        })
        .collect();
    let rule = vm.arch().settings.broadcast_rule();
    for target in vm.arch().apics.all().iter() {
        let mut guard = target.lock();
        let vectors = eoi_vectors(&guard.lapic.view(), rule, messages.iter().copied());
        guard.lapic.set_eoi_vectors(vectors);
    }
}
