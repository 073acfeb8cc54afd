//! IRR, ISR, TPR, PPR, EOI.

use super::*;

fn request(lapic: &mut Lapic, vector: u8) {
    assert_eq!(
        lapic.accept(&fixed(vector, TriggerMode::Edge)),
        Acceptance::Requested
    );
}

#[test]
fn nesting_by_class() {
    let (mut lapic, mut clock) = enabled(0);
    request(&mut lapic, 0x41);
    request(&mut lapic, 0x31);
    assert_eq!(lapic.acknowledge(), Some(0x41));
    assert_eq!(read(&lapic, &clock, 0xa0), 0x40);
    assert_eq!(lapic.highest_pending(), None, "lower class waits");
    request(&mut lapic, 0x4f);
    assert_eq!(lapic.highest_pending(), None, "same class waits");
    request(&mut lapic, 0x51);
    assert_eq!(lapic.acknowledge(), Some(0x51));
    set(&mut lapic, &mut clock, 0xb0, 0);
    assert_eq!(lapic.highest_in_service(), Some(0x41));
    set(&mut lapic, &mut clock, 0xb0, 0);
    assert_eq!(lapic.acknowledge(), Some(0x4f));
    set(&mut lapic, &mut clock, 0xb0, 0);
    assert_eq!(lapic.acknowledge(), Some(0x31));
    assert_eq!(lapic.highest_request(), None);
    set(&mut lapic, &mut clock, 0xb0, 0);
    set(&mut lapic, &mut clock, 0xb0, 0);
}

#[test]
fn task_priority_holds_back() {
    let (mut lapic, mut clock) = enabled(0);
    request(&mut lapic, 0x35);
    lapic.set_cr8(3);
    assert_eq!(read(&lapic, &clock, 0x80), 0x30);
    assert_eq!((lapic.cr8(), lapic.highest_pending()), (3, None));
    set(&mut lapic, &mut clock, 0x80, 0x2f);
    assert_eq!(read(&lapic, &clock, 0xa0), 0x2f);
    assert_eq!(lapic.highest_pending(), Some(0x35));
    assert_eq!(lapic.cr8(), 2);
}

#[test]
fn eoi_leaves_only_for_vectors_that_were_asked_for() {
    let (mut lapic, mut clock) = enabled(0);
    let mut wanted = VectorSet::default();
    wanted.insert(0x41);
    wanted.insert(0x42);
    lapic.set_eoi_vectors(wanted);
    assert_eq!(
        lapic.accept(&fixed(0x41, TriggerMode::Level)),
        Acceptance::Requested
    );
    assert_eq!(lapic.acknowledge(), Some(0x41));
    assert!(lapic.owes_eoi(0x41));
    let eoi = |trigger, vector| EndOfInterrupt {
        vector,
        trigger,
        broadcast: EoiBroadcast::Sent,
    };
    let effect = write(&mut lapic, &mut clock, 0xb0, 0);
    assert_eq!(effect, Effect::EndOfInterrupt(eoi(TriggerMode::Level, 0x41)));
    request(&mut lapic, 0x42);
    lapic.acknowledge();
    let effect = write(&mut lapic, &mut clock, 0xb0, 0);
    assert_eq!(effect, Effect::EndOfInterrupt(eoi(TriggerMode::Edge, 0x42)));
    request(&mut lapic, 0x43);
    lapic.acknowledge();
    set(&mut lapic, &mut clock, 0xb0, 0);
}

#[test]
fn eoi_broadcast_can_be_suppressed_where_offered() {
    let (mut lapic, mut clock) = enabled(0);
    set(&mut lapic, &mut clock, 0xf0, 0x11ff);
    assert_eq!(read(&lapic, &clock, 0xf0), 0x1ff, "not offered");
    lapic.set_features(features() | Features::SUPPRESS_EOI_BROADCAST);
    assert_eq!(read(&lapic, &clock, 0x30), 0x105_0014);
    set(&mut lapic, &mut clock, 0xf0, 0x11ff);
    assert_eq!(read(&lapic, &clock, 0xf0), 0x11ff);
    let mut wanted = VectorSet::default();
    wanted.insert(0x41);
    lapic.set_eoi_vectors(wanted);
    lapic.accept(&fixed(0x41, TriggerMode::Level));
    lapic.acknowledge();
    let Effect::EndOfInterrupt(eoi) = write(&mut lapic, &mut clock, 0xb0, 0) else {
        panic!("no EOI")
    };
    assert_eq!(eoi.broadcast, EoiBroadcast::Suppressed);
}

#[test]
fn trigger_mode_register_follows_the_latest_message() {
    let (mut lapic, clock) = enabled(0);
    lapic.accept(&fixed(0x61, TriggerMode::Level));
    assert_eq!(read(&lapic, &clock, 0x1b0), 2);
    assert_eq!(read(&lapic, &clock, 0x230), 2);
    lapic.accept(&fixed(0x61, TriggerMode::Edge));
    assert_eq!(read(&lapic, &clock, 0x1b0), 0);
}
