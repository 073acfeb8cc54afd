//! The interrupt controllers of a VM as KVM/x86 offers them: none, the local APICs alone (split), or all.
//!
//! * `wiring`: what the assembled chips of `crate::irqchip` need of the VM; `ports`: their places on the I/O buses;
//!   `delivery`: pins and messages from the routing table; `client`: the ioctls.

pub mod client;
pub mod delivery;
mod ports;
mod wiring;

use std::sync::{Arc, OnceLock};

use crate::irqchip::{Chips, PitTimer};
use crate::lapic::EndOfInterrupt;
use crate::vm::X86Vm;

/// What of the interrupt controllers is ours.
pub enum Mode {
    /// Local APICs; the first GSIs are the pins of the client's I/O APIC.
    Split { reserved_gsis: u32 },
    Full {
        chips: Arc<Chips>,
        pit: OnceLock<Arc<PitTimer>>,
    },
}

/// A VM's interrupt controllers; the choice is made once.
#[derive(Default)]
pub struct Controllers {
    mode: OnceLock<Mode>,
}

impl Controllers {
    pub fn mode(&self) -> Option<&Mode> {
        self.mode.get()
    }

    pub fn chips(&self) -> Option<&Arc<Chips>> {
        match self.mode() {
            Some(Mode::Full { chips, .. }) => Some(chips),
            _ => None,
        }
    }

    pub fn pit(&self) -> Option<&Arc<PitTimer>> {
        match self.mode() {
            Some(Mode::Full { pit, .. }) => pit.get(),
            _ => None,
        }
    }
}

/// Whether the 8259 pair and the I/O APIC are ours.
pub fn has_chips(vm: &X86Vm) -> bool {
    vm.arch().controllers.chips().is_some()
}

/// Whether local APICs are ours.
pub fn has_apics(vm: &X86Vm) -> bool {
    vm.arch().controllers.mode().is_some()
}

pub fn is_split(vm: &X86Vm) -> bool {
    matches!(vm.arch().controllers.mode(), Some(Mode::Split { .. }))
}

/// The 8259 pair wants a processor's attention.
pub fn extint_pending(vm: &X86Vm) -> bool {
    vm.arch().controllers.chips().is_some_and(|chips| chips.output())
}

/// The acknowledge cycle towards the 8259 pair, if it wants one.
pub fn acknowledge_extint(vm: &X86Vm) -> Option<u8> {
    let chips = vm.arch().controllers.chips()?;
    chips.output().then(|| chips.acknowledge())
}

/// A vCPU's EOI left its local APIC.
pub fn end_of_interrupt(vm: &X86Vm, vcpu: usize, eoi: &EndOfInterrupt) {
    if let Some(chips) = vm.arch().controllers.chips() {
        chips.end_of_interrupt(vcpu, eoi);
    }
}

/// The set of EOIs that leave the local APICs may have changed: with an APIC's ids or mode, the routing table, or the
/// number of vCPUs. Call it without locks of APICs.
pub fn refresh_eoi_vectors(vm: &X86Vm) {
    match vm.arch().controllers.mode() {
        Some(Mode::Full { chips, .. }) => chips.refresh_eoi_vectors(),
        Some(Mode::Split { reserved_gsis }) => delivery::refresh_split(vm, *reserved_gsis),
        None => {}
    }
}

/// The state of a local APIC was set.
pub fn restored(vm: &X86Vm) {
    match vm.arch().controllers.chips() {
        Some(chips) => chips.restored(),
        None => refresh_eoi_vectors(vm),
    }
}

/// The VM goes: stop what runs by itself.
pub fn close(vm: &X86Vm) {
    if let Some(pit) = vm.arch().controllers.pit() {
        pit.close();
    }
}
