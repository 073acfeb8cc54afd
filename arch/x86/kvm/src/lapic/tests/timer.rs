//! The three timer modes.

use super::*;

fn fire(lapic: &mut Lapic, clock: &mut FakeClock) -> Acceptance {
    clock.now = clock.armed.take().expect("an armed timer");
    lapic.timer_fired(clock)
}

#[test]
fn one_shot() {
    let (mut lapic, mut clock) = enabled(0);
    set(&mut lapic, &mut clock, 0x320, 0xef);
    set(&mut lapic, &mut clock, 0x3e0, 0x3);
    set(&mut lapic, &mut clock, 0x380, 1000);
    assert_eq!(clock.armed, Some(1_016_000));
    assert_eq!(read(&lapic, &clock, 0x390), 1000);
    clock.now += 4000;
    assert_eq!(read(&lapic, &clock, 0x390), 750);
    assert_eq!(fire(&mut lapic, &mut clock), Acceptance::Requested);
    assert_eq!(lapic.acknowledge(), Some(0xef));
    assert_eq!(read(&lapic, &clock, 0x390), 0);
    assert_eq!(clock.armed, None);
    set(&mut lapic, &mut clock, 0x380, 500);
    set(&mut lapic, &mut clock, 0x380, 0);
    assert_eq!(clock.armed, None, "zero stops the timer");
}

#[test]
fn divide_configurations() {
    for (config, divisor) in [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (8, 32),
        (9, 64),
        (0xa, 128),
        (0xb, 1),
    ] {
        let (mut lapic, mut clock) = enabled(0);
        set(&mut lapic, &mut clock, 0x3e0, config);
        set(&mut lapic, &mut clock, 0x380, 10_000);
        assert_eq!(
            clock.armed,
            Some(1_000_000 + 10_000 * divisor),
            "configuration {config:#x}"
        );
    }
}

#[test]
fn a_changed_divisor_stretches_the_running_count() {
    let (mut lapic, mut clock) = enabled(0);
    set(&mut lapic, &mut clock, 0x3e0, 0xb);
    set(&mut lapic, &mut clock, 0x380, 10_000);
    clock.now += 4_000;
    set(&mut lapic, &mut clock, 0x3e0, 0x0);
    assert_eq!(read(&lapic, &clock, 0x390), 6_000);
    assert_eq!(clock.armed, Some(clock.now + 12_000));
    fire(&mut lapic, &mut clock);
    set(&mut lapic, &mut clock, 0x3e0, 0xb);
    assert_eq!(clock.armed, None, "an expired one-shot stays expired");
}

#[test]
fn periodic() {
    let (mut lapic, mut clock) = enabled(0);
    set(&mut lapic, &mut clock, 0x320, 0x2_00ee);
    set(&mut lapic, &mut clock, 0x3e0, 0xb);
    set(&mut lapic, &mut clock, 0x380, 1_000_000);
    for n in 1..4 {
        assert_eq!(fire(&mut lapic, &mut clock), Acceptance::Requested);
        assert_eq!(clock.now, 1_000_000 + n * 1_000_000);
        assert_eq!(read(&lapic, &clock, 0x390), 1_000_000);
        assert_eq!(lapic.acknowledge(), Some(0xee));
        set(&mut lapic, &mut clock, 0xb0, 0);
    }
    clock.now = 50_000_000;
    assert_eq!(lapic.timer_fired(&mut clock), Acceptance::Requested);
    assert_eq!(clock.armed, Some(50_000_000), "missed periods are skipped");
}

#[test]
fn a_periodic_timer_has_a_shortest_period() {
    let (mut lapic, mut clock) = enabled(0);
    set(&mut lapic, &mut clock, 0x320, 0x2_00ee);
    set(&mut lapic, &mut clock, 0x380, 1);
    assert_eq!(clock.armed, Some(1_200_000));
}

#[test]
fn masked_timers_count_in_silence() {
    let (mut lapic, mut clock) = enabled(0);
    set(&mut lapic, &mut clock, 0x320, 0x3_00ee);
    set(&mut lapic, &mut clock, 0x380, 1_000_000);
    assert_eq!(fire(&mut lapic, &mut clock), Acceptance::Discarded);
    assert_eq!(lapic.highest_request(), None);
    assert!(clock.armed.is_some());
}

#[test]
fn tsc_deadline() {
    let (mut lapic, mut clock) = enabled(0);
    clock.tsc_offset = 5_000_000;
    lapic.set_tsc_deadline(9_000_000, &mut clock);
    assert_eq!(lapic.tsc_deadline(), 0, "ignored in another mode");
    set(&mut lapic, &mut clock, 0x320, 0x4_00ec);
    lapic.set_tsc_deadline(9_000_000, &mut clock);
    assert_eq!((lapic.tsc_deadline(), clock.armed), (9_000_000, Some(4_000_000)));
    assert_eq!(read(&lapic, &clock, 0x390), 0);
    set(&mut lapic, &mut clock, 0x380, 1000);
    assert_eq!(
        read(&lapic, &clock, 0x380),
        0,
        "the initial count is not writable"
    );
    assert_eq!(fire(&mut lapic, &mut clock), Acceptance::Requested);
    assert_eq!((lapic.acknowledge(), lapic.tsc_deadline()), (Some(0xec), 0));
    set(&mut lapic, &mut clock, 0xb0, 0);
    lapic.set_tsc_deadline(1, &mut clock);
    assert_eq!(
        lapic.highest_pending(),
        Some(0xec),
        "a past deadline fires at once"
    );
    assert_eq!((lapic.tsc_deadline(), clock.armed), (0, None));
    lapic.set_tsc_deadline(20_000_000, &mut clock);
    lapic.set_tsc_deadline(0, &mut clock);
    assert_eq!(clock.armed, None);
}

#[test]
fn a_tsc_that_moves_takes_its_deadline_along() {
    let (mut lapic, mut clock) = enabled(0);
    set(&mut lapic, &mut clock, 0x320, 0x4_00ec);
    lapic.set_tsc_deadline(9_000_000, &mut clock);
    clock.tsc_offset = 1_000_000;
    lapic.tsc_changed(&mut clock);
    assert_eq!(clock.armed, Some(8_000_000));
    clock.tsc_offset = 0;
    assert_eq!(
        fire(&mut lapic, &mut clock),
        Acceptance::Discarded,
        "not there yet"
    );
    assert_eq!(clock.armed, Some(9_000_000));
    assert_eq!(fire(&mut lapic, &mut clock), Acceptance::Requested);
}

#[test]
fn leaving_deadline_mode_disarms() {
    let (mut lapic, mut clock) = enabled(0);
    set(&mut lapic, &mut clock, 0x320, 0x4_00ec);
    lapic.set_tsc_deadline(9_000_000, &mut clock);
    set(&mut lapic, &mut clock, 0x320, 0xec);
    assert_eq!((lapic.tsc_deadline(), clock.armed), (0, None));
    lapic.set_features(Features::empty());
    set(&mut lapic, &mut clock, 0x320, 0x4_00ec);
    assert_eq!(read(&lapic, &clock, 0x320), 0xec, "no such mode in CPUID");
}

#[test]
fn early_and_stale_expiries_are_ignored() {
    let (mut lapic, mut clock) = enabled(0);
    set(&mut lapic, &mut clock, 0x320, 0xef);
    set(&mut lapic, &mut clock, 0x380, 1_000_000);
    clock.armed = None;
    assert_eq!(lapic.timer_fired(&mut clock), Acceptance::Discarded);
    assert_eq!(clock.armed, Some(3_000_000), "armed again");
    set(&mut lapic, &mut clock, 0x380, 0);
    clock.now = 9_000_000;
    assert_eq!(lapic.timer_fired(&mut clock), Acceptance::Discarded);
}
