//! EOIs of an I/O APIC that is the client's (KVM_CAP_SPLIT_IRQCHIP).
//!
//! Its pins are the first GSIs, routed as messages. EOIs of level-triggered ones go to the client.

use crate::lapic::{
    ApicMessage, BroadcastRule, Destination, LapicView, TriggerMode, VectorSet, matches_destination,
};

/// The vectors whose EOI on an APIC concerns the client, given the messages of its I/O APIC's pins.
pub fn eoi_vectors(
    view: &LapicView,
    rule: BroadcastRule,
    messages: impl IntoIterator<Item = ApicMessage>,
) -> VectorSet {
    let mut vectors = VectorSet::default();
    for message in messages {
        let Destination::Id(id) = message.destination else {
            continue;
        };
        let here = matches_destination(view, id, message.destination_mode, rule);
        if here && message.trigger == TriggerMode::Level {
            vectors.insert(message.vector);
        }
    }
    vectors
}
