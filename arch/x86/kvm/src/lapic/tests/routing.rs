//! Who receives a message.

use super::*;

fn xapic(id: u8, logical: u8, format: u32) -> LapicView {
    LapicView {
        mode: ApicMode::Xapic,
        software_enabled: true,
        x2apic_id: u32::from(id),
        xapic_id: id,
        logical: u32::from(logical) << 24,
        format,
    }
}

fn flat(n: u8) -> Vec<LapicView> {
    (0..n).map(|id| xapic(id, 1 << id, u32::MAX)).collect()
}

fn x2apic(ids: &[u32]) -> Vec<LapicView> {
    ids.iter().map(|&id| enabled_x2apic(id).0.view()).collect()
}

fn to(id: u32, mode: DestinationMode) -> ApicMessage {
    ApicMessage {
        destination_mode: mode,
        ..ApicMessage::from_icr(0x4030, id)
    }
}

fn targets(message: &ApicMessage, source: Option<usize>, views: &[LapicView]) -> Vec<usize> {
    let mut found = Vec::new();
    let any = for_each_target(
        message,
        source,
        views.len(),
        |i| views[i],
        BroadcastRule::Quirk,
        |i| found.push(i),
    );
    assert_eq!(any, !found.is_empty());
    found
}

#[test]
fn physical() {
    let views = flat(4);
    let physical = |id| to(id, DestinationMode::Physical);
    assert_eq!(targets(&physical(2), None, &views), [2]);
    assert_eq!(targets(&physical(9), None, &views), []);
    assert_eq!(targets(&physical(0xff), Some(1), &views), [0, 1, 2, 3]);
    let views = x2apic(&[0, 1, 0x100]);
    assert_eq!(targets(&physical(0x100), Some(0), &views), [2]);
    assert_eq!(targets(&physical(0xff), Some(0), &views), []);
    assert_eq!(
        targets(&physical(0xff), None, &views),
        [0, 1, 2],
        "device broadcast"
    );
    assert_eq!(targets(&physical(u32::MAX), Some(0), &views), [0, 1, 2]);
}

#[test]
fn the_broadcast_quirk_can_be_turned_off() {
    let views = x2apic(&[0, 1]);
    let message = to(0xff, DestinationMode::Physical);
    assert!(!for_each_target(
        &message,
        None,
        views.len(),
        |i| views[i],
        BroadcastRule::Strict,
        |_| panic!("no target")
    ));
}

#[test]
fn logical() {
    let logical = |id| to(id, DestinationMode::Logical);
    assert_eq!(targets(&logical(0b0101), None, &flat(4)), [0, 2]);
    let cluster: Vec<_> = [0x11, 0x12, 0x21].map(|l| xapic(0, l, 0x0fff_ffff)).into();
    assert_eq!(targets(&logical(0x13), None, &cluster), [0, 1]);
    assert_eq!(targets(&logical(0x21), None, &cluster), [2]);
    let views = x2apic(&[0, 1, 0x11, 0x12]);
    assert_eq!(targets(&logical(0x0000_0003), None, &views), [0, 1]);
    assert_eq!(targets(&logical(0x0001_0006), None, &views), [2, 3]);
}

#[test]
fn shorthands() {
    let views = flat(3);
    let shorthand = |n: u32| ApicMessage::from_icr(0x4030 | n << 18, 0);
    assert_eq!(targets(&shorthand(1), Some(1), &views), [1]);
    assert_eq!(targets(&shorthand(2), Some(1), &views), [0, 1, 2]);
    assert_eq!(targets(&shorthand(3), Some(1), &views), [0, 2]);
}

#[test]
fn lowest_priority_goes_by_the_vector() {
    let mut views = flat(4);
    let lowest = |vector: u32| ApicMessage {
        destination_mode: DestinationMode::Logical,
        ..ApicMessage::from_icr(0x4100 | vector, 0b1111)
    };
    assert_eq!(targets(&lowest(0x30), None, &views), [0]);
    assert_eq!(targets(&lowest(0x33), None, &views), [3]);
    views[0].software_enabled = false;
    assert_eq!(targets(&lowest(0x30), None, &views), [1]);
    views[1].mode = ApicMode::Disabled;
    assert_eq!(targets(&lowest(0x31), None, &views), [3]);
    let hinted = ApicMessage {
        redirection: Redirection::Hinted,
        ..to(0b0110, DestinationMode::Logical)
    };
    assert_eq!(targets(&hinted, None, &flat(4)), [1]);
    let everyone = ApicMessage::from_icr(0x4130, 0xff);
    assert_eq!(targets(&everyone, None, &flat(3)), [0, 1, 2]);
}

#[test]
fn disabled_apics_receive_nothing() {
    let mut views = flat(2);
    views[1].mode = ApicMode::Disabled;
    assert_eq!(targets(&to(0xff, DestinationMode::Physical), None, &views), [0]);
}

#[test]
fn views_are_reported_when_they_change() {
    let (mut lapic, mut clock) = enabled(1);
    assert!(lapic.take_changed_view().is_some());
    assert_eq!(lapic.take_changed_view(), None);
    set(&mut lapic, &mut clock, 0xd0, 0x0200_0000);
    assert_eq!(lapic.take_changed_view().map(|v| v.logical), Some(0x0200_0000));
    set(&mut lapic, &mut clock, 0x80, 0x20);
    set(&mut lapic, &mut clock, 0xf0, 0x1f0);
    assert_eq!(lapic.take_changed_view(), None);
    assert_eq!(lapic.set_base(BASE, 0, Writer::Guest), Ok(()));
    assert_eq!(
        lapic.take_changed_view().map(|v| v.mode),
        Some(ApicMode::Disabled)
    );
}
