//! Routing: which of a VM's local APICs a message is for.
//!
//! A pure function of the message and a small view of every APIC, so that a message can be routed
//! without touching the APICs themselves. KVM's departures from hardware are kept: see
//! [`BroadcastRule`], and that IDs above 255 are also matched in xAPIC mode.

use super::{ApicMessage, ApicMode, DeliveryMode, Destination, DestinationMode};

/// What routing needs to know of one local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LapicView {
    pub mode: ApicMode,
    pub software_enabled: bool,
    pub x2apic_id: u32,
    pub xapic_id: u8,
    /// The logical destination register.
    pub logical: u32,
    /// The destination format register.
    pub format: u32,
}

/// What destination FFh means to an x2APIC when the message is no IPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BroadcastRule {
    /// Everyone: there is no interrupt remapping to widen an I/O APIC's eight bits.
    #[default]
    Quirk,
    /// The logical or physical ID FFh (KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK).
    Strict,
}

const XAPIC_BROADCAST: u32 = 0xff;
const X2APIC_BROADCAST: u32 = u32::MAX;
const FORMAT_FLAT: u32 = 0xffff_ffff;
const FORMAT_CLUSTER: u32 = 0x0fff_ffff;

/// Call `target` with the index of every APIC that `message` is for. `view(i)` is vCPU i's of `count`, `source` the
/// sending vCPU of an IPI. Returns whether the message had a destination at all.
pub fn for_each_target(
    message: &ApicMessage,
    source: Option<usize>,
    count: usize,
    view: impl Fn(usize) -> LapicView,
    rule: BroadcastRule,
    mut target: impl FnMut(usize),
) -> bool {
    let matching = || {
        let is_match = |index: &usize| {
            let view = view(*index);
            view.mode != ApicMode::Disabled && matches(message, source, *index, &view, rule)
        };
        (0..count).filter(is_match)
    };
    if !message.wants_one_target() || is_physical_broadcast(message) {
        let mut any = false;
        for index in matching() {
            any = true;
            target(index);
        }
        return any;
    }
    // Vector hashing: spreads devices over processors, and keeps one vector on one processor.
    let eligible = || matching().filter(|&index| view(index).software_enabled);
    let count = eligible().count();
    if count == 0 {
        return false;
    }
    if let Some(index) = eligible().nth(usize::from(message.vector) % count) {
        target(index);
    }
    true
}

/// Lowest priority to physical FFh is delivered to all, as if fixed.
fn is_physical_broadcast(message: &ApicMessage) -> bool {
    message.destination == Destination::Id(XAPIC_BROADCAST)
        && message.destination_mode == DestinationMode::Physical
        && message.delivery_mode == DeliveryMode::LowestPriority
        && message.redirection == super::Redirection::None
}

fn matches(
    message: &ApicMessage,
    source: Option<usize>,
    index: usize,
    view: &LapicView,
    rule: BroadcastRule,
) -> bool {
    match message.destination {
        Destination::Itself => source == Some(index),
        Destination::AllIncludingSelf => true,
        Destination::AllExcludingSelf => source != Some(index),
        Destination::Id(id) if source.is_some() => matches_id(view, id, message.destination_mode),
        Destination::Id(id) => matches_destination(view, id, message.destination_mode, rule),
    }
}

/// Whether an APIC is a destination of a device's interrupt.
pub fn matches_destination(view: &LapicView, id: u32, mode: DestinationMode, rule: BroadcastRule) -> bool {
    let widened = rule == BroadcastRule::Quirk && id == XAPIC_BROADCAST && view.mode == ApicMode::X2apic;
    matches_id(view, if widened { X2APIC_BROADCAST } else { id }, mode)
}

fn matches_id(view: &LapicView, id: u32, mode: DestinationMode) -> bool {
    let x2apic = view.mode == ApicMode::X2apic;
    if id == if x2apic { X2APIC_BROADCAST } else { XAPIC_BROADCAST } {
        return true;
    }
    match mode {
        DestinationMode::Physical if x2apic || id > 0xff => id == view.x2apic_id,
        DestinationMode::Physical => id == u32::from(view.xapic_id),
        DestinationMode::Logical if x2apic => {
            id >> 16 == view.logical >> 16 && id & view.logical & 0xffff != 0
        }
        DestinationMode::Logical => matches_xapic_logical(view, id),
    }
}

fn matches_xapic_logical(view: &LapicView, id: u32) -> bool {
    let logical = view.logical >> 24;
    match view.format {
        FORMAT_FLAT => logical & id != 0,
        FORMAT_CLUSTER => logical >> 4 == id >> 4 && logical & id & 0xf != 0,
        _ => false,
    }
}
