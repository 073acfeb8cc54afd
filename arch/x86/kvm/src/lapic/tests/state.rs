//! KVM_GET_LAPIC and KVM_SET_LAPIC.

use super::*;

fn word(state: &[u8; STATE_SIZE], offset: usize) -> u32 {
    u32::from_le_bytes([
        state[offset],
        state[offset + 1],
        state[offset + 2],
        state[offset + 3],
    ])
}

#[test]
fn round_trip() {
    let (mut lapic, mut clock) = enabled(1);
    set(&mut lapic, &mut clock, 0x320, 0x2_00ef);
    set(&mut lapic, &mut clock, 0x3e0, 0xb);
    set(&mut lapic, &mut clock, 0x380, 1_000_000);
    lapic.accept(&fixed(0x52, TriggerMode::Edge));
    lapic.acknowledge();
    lapic.accept(&fixed(0x62, TriggerMode::Level));
    clock.now += 400_000;
    let state = lapic.state(&clock);
    assert_eq!(word(&state, 0x390), 600_000);
    assert_eq!(word(&state, 0xa0), 0x50);

    let mut other = Lapic::new(1, Role::Application, features());
    let mut later = FakeClock {
        now: 77_000_000,
        ..FakeClock::default()
    };
    assert_eq!(other.set_state(&state, &mut later), Ok(()));
    assert_eq!(later.armed, Some(77_600_000));
    assert_eq!(other.highest_pending(), Some(0x62));
    assert_eq!(other.highest_in_service(), Some(0x52));
    assert_eq!(other.state(&later), state);
}

#[test]
fn setting_a_state_stops_what_ran_before() {
    let (mut lapic, mut clock) = enabled(1);
    let idle = lapic.state(&clock);
    set(&mut lapic, &mut clock, 0x320, 0xef);
    set(&mut lapic, &mut clock, 0x380, 1000);
    assert!(clock.armed.is_some());
    assert_eq!(lapic.set_state(&idle, &mut clock), Ok(()));
    assert_eq!(clock.armed, None);
    clock.now += 1_000_000;
    assert_eq!(lapic.timer_fired(&mut clock), Acceptance::Discarded);
}

#[test]
fn x2apic_ids() {
    let (mut lapic, mut clock) = enabled_x2apic(0x23);
    let narrow = lapic.state(&clock);
    assert_eq!(word(&narrow, 0x20), 0x2300_0000);
    assert_eq!(lapic.set_state(&narrow, &mut clock), Ok(()));
    assert_eq!(lapic.msr_read(0x802, &clock), Ok(0x23));
    assert_eq!(lapic.msr_read(0x80d, &clock), Ok(0x2_0008));
    lapic.set_features(features() | Features::WIDE_IDS);
    assert_eq!(lapic.set_state(&narrow, &mut clock), Err(InvalidState));
    let wide = lapic.state(&clock);
    assert_eq!(word(&wide, 0x20), 0x23);
    assert_eq!(lapic.set_state(&wide, &mut clock), Ok(()));
}

#[test]
fn the_wide_icr_is_two_registers_in_the_state() {
    let (mut lapic, mut clock) = enabled_x2apic(0);
    assert!(lapic.msr_write(0x830, 0x1234_0000_4030, &mut clock).is_ok());
    let state = lapic.state(&clock);
    assert_eq!((word(&state, 0x300), word(&state, 0x310)), (0x4030, 0x1234));
    assert_eq!(lapic.set_state(&state, &mut clock), Ok(()));
    assert_eq!(lapic.msr_read(0x830, &clock), Ok(0x1234_0000_4030));
}
