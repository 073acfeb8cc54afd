//! Tests of the interval timer.

use super::*;
use ring3_uapi::x86::{KVM_PIT_FLAGS_SPEAKER_DATA_ON, KvmPitChannelState, KvmPitState2};

#[derive(Default)]
struct FakeClock {
    now: u64,
    armed: Option<u64>,
}

impl TimerPort for FakeClock {
    fn now(&self) -> Monotonic {
        Monotonic(self.now)
    }
    fn arm(&mut self, deadline: Monotonic) {
        self.armed = Some(deadline.0);
    }
    fn disarm(&mut self) {
        self.armed = None;
    }
}

/// 100 Hz, as Linux programs it, and its length.
const HZ100: u32 = 11932;
const PERIOD: u64 = 10_000_159;

fn pit() -> (Pit, FakeClock) {
    let clock = FakeClock {
        now: 1_000_000,
        armed: None,
    };
    (Pit::new(clock.now()), clock)
}

fn out(pit: &mut Pit, clock: &mut FakeClock, port: u16, value: u8) {
    pit.write(Port::decode(port).expect("a port"), value, clock);
}

fn inb(pit: &mut Pit, clock: &FakeClock, port: u16) -> u8 {
    pit.read(Port::decode(port).expect("a port"), clock.now())
}

/// Program a channel's mode and 16-bit count.
fn program(pit: &mut Pit, clock: &mut FakeClock, channel: u16, mode: u8, count: u32) {
    out(pit, clock, 0x43, (channel as u8) << 6 | 0x30 | mode << 1);
    out(pit, clock, 0x40 + channel, count as u8);
    out(pit, clock, 0x40 + channel, (count >> 8) as u8);
}

fn read_word(pit: &mut Pit, clock: &FakeClock, channel: u16) -> u16 {
    let low = inb(pit, clock, 0x40 + channel);
    u16::from_le_bytes([low, inb(pit, clock, 0x40 + channel)])
}

fn fire(pit: &mut Pit, clock: &mut FakeClock) -> Tick {
    clock.now = clock.armed.take().expect("an armed timer");
    pit.timer_fired(clock)
}

#[test]
fn periodic_interrupts() {
    let (mut pit, mut clock) = pit();
    program(&mut pit, &mut clock, 0, 2, HZ100);
    assert_eq!(clock.armed, Some(1_000_000 + PERIOD));
    for n in 1..4 {
        assert_eq!(fire(&mut pit, &mut clock), Tick::Pulse);
        assert_eq!(clock.now, 1_000_000 + n * PERIOD);
        assert_eq!(pit.acknowledged(), Tick::None);
    }
}

#[test]
fn one_shot_interrupts_once_and_counts_on() {
    let (mut pit, mut clock) = pit();
    program(&mut pit, &mut clock, 0, 0, HZ100);
    assert_eq!(fire(&mut pit, &mut clock), Tick::Pulse);
    assert_eq!(clock.armed, None);
    assert_eq!(pit.timer_fired(&mut clock), Tick::None);
    clock.now += 1_000_000;
    assert_eq!(read_word(&mut pit, &clock, 0), 0u16.wrapping_sub(1193));
}

#[test]
fn only_some_modes_of_channel_0_interrupt() {
    for (mode, armed) in [
        (0, true),
        (1, true),
        (2, true),
        (3, true),
        (4, true),
        (5, false),
        (6, true),
        (7, true),
    ] {
        let (mut pit, mut clock) = pit();
        program(&mut pit, &mut clock, 0, mode, HZ100);
        assert_eq!(clock.armed.is_some(), armed, "mode {mode}");
    }
    let (mut pit, mut clock) = pit();
    program(&mut pit, &mut clock, 2, 2, HZ100);
    assert_eq!(clock.armed, None);
}

#[test]
fn lost_ticks_are_reinjected() {
    let (mut pit, mut clock) = pit();
    program(&mut pit, &mut clock, 0, 2, HZ100);
    assert_eq!(fire(&mut pit, &mut clock), Tick::Pulse);
    assert_eq!(fire(&mut pit, &mut clock), Tick::None, "not acknowledged yet");
    assert_eq!(fire(&mut pit, &mut clock), Tick::None);
    assert_eq!(pit.acknowledged(), Tick::Pulse);
    assert_eq!(pit.acknowledged(), Tick::Pulse);
    assert_eq!(pit.acknowledged(), Tick::None, "caught up");
    clock.now += 5 * PERIOD;
    assert_eq!(pit.timer_fired(&mut clock), Tick::Pulse);
    let catch_up = std::iter::repeat_with(|| pit.acknowledged()).take_while(|&tick| tick == Tick::Pulse);
    assert_eq!(catch_up.count(), 4, "missed periods count");
}

#[test]
fn lost_ticks_are_discarded_on_demand_and_when_unmasked() {
    let (mut pit, mut clock) = pit();
    program(&mut pit, &mut clock, 0, 2, HZ100);
    let _ = fire(&mut pit, &mut clock);
    let _ = fire(&mut pit, &mut clock);
    pit.unmasked();
    assert_eq!(pit.acknowledged(), Tick::None);
    pit.set_reinject(ReinjectMode::Discard);
    assert!(!pit.wants_acknowledgements());
    for _ in 0..3 {
        assert_eq!(fire(&mut pit, &mut clock), Tick::Pulse);
    }
    assert_eq!(pit.acknowledged(), Tick::None);
    pit.set_reinject(ReinjectMode::Reinject);
    assert_eq!(fire(&mut pit, &mut clock), Tick::Pulse);
}

#[test]
fn a_fast_periodic_timer_is_slowed_down() {
    let (mut pit, mut clock) = pit();
    program(&mut pit, &mut clock, 0, 2, 10);
    let first = clock.armed.expect("armed");
    assert_eq!(fire(&mut pit, &mut clock), Tick::Pulse);
    assert_eq!(clock.armed, Some(first + MIN_PERIOD_NS));
}

#[test]
fn counting_down() {
    let (mut pit, mut clock) = pit();
    program(&mut pit, &mut clock, 2, 0, 0xffff);
    clock.now += 10_000_000;
    assert_eq!(read_word(&mut pit, &clock, 2), 0xffff - 11931);
    program(&mut pit, &mut clock, 2, 3, 10_000);
    clock.now += 2_000_000;
    assert_eq!(read_word(&mut pit, &clock, 2), 10_000 - 2 * 2386);
    program(&mut pit, &mut clock, 2, 2, 1000);
    clock.now += 1_000_000;
    assert_eq!(read_word(&mut pit, &clock, 2), 1000 - 193);
    program(&mut pit, &mut clock, 2, 2, 0);
    assert_eq!(read_word(&mut pit, &clock, 2), 0, "65536 does not fit");
}

#[test]
fn channel_0_counts_with_its_timer() {
    let (mut pit, mut clock) = pit();
    program(&mut pit, &mut clock, 0, 2, HZ100);
    let _ = fire(&mut pit, &mut clock);
    clock.now += PERIOD / 2 + 1;
    assert_eq!(read_word(&mut pit, &clock, 0), (HZ100 / 2) as u16);
}

#[test]
fn latched_counts_hold_still() {
    let (mut pit, mut clock) = pit();
    program(&mut pit, &mut clock, 2, 0, 5000);
    out(&mut pit, &mut clock, 0x43, 0x80);
    clock.now += 1_000_000;
    out(&mut pit, &mut clock, 0x43, 0x80);
    assert_eq!(read_word(&mut pit, &clock, 2), 5000);
    assert_eq!(read_word(&mut pit, &clock, 2), 5000 - 1193);
    out(&mut pit, &mut clock, 0x43, 0xa0);
    out(&mut pit, &mut clock, 0x42, 0x20);
    assert_eq!(inb(&mut pit, &clock, 0x42), 0x20, "high byte only: 2000h");
}

#[test]
fn read_back() {
    let (mut pit, mut clock) = pit();
    program(&mut pit, &mut clock, 0, 2, HZ100);
    program(&mut pit, &mut clock, 2, 3, 1000);
    out(&mut pit, &mut clock, 0x43, 0xca);
    assert_eq!(inb(&mut pit, &clock, 0x40), 0x34, "status first");
    assert_eq!(read_word(&mut pit, &clock, 0), HZ100 as u16);
    assert_eq!(inb(&mut pit, &clock, 0x42), 0xb6);
    assert_eq!(read_word(&mut pit, &clock, 2), 1000);
    out(&mut pit, &mut clock, 0x43, 0xe8);
    clock.now += 500_000;
    assert_eq!(
        inb(&mut pit, &clock, 0x42),
        0xb6,
        "latched before the output fell"
    );
    assert_eq!(inb(&mut pit, &clock, 0x43), 0);
}

#[test]
fn the_speaker_gate_restarts_channel_2() {
    let (mut pit, mut clock) = pit();
    program(&mut pit, &mut clock, 2, 1, 1193);
    out(&mut pit, &mut clock, 0x61, 0);
    clock.now += 5_000_000;
    assert_eq!(inb(&mut pit, &clock, 0x61) & 0x23, 0);
    out(&mut pit, &mut clock, 0x61, 3);
    assert_eq!(
        inb(&mut pit, &clock, 0x61) & 0x23,
        0x23,
        "one-shot output high, data, gate"
    );
    clock.now += 2_000_000;
    assert_eq!(inb(&mut pit, &clock, 0x61) & 0x23, 0x03);
    assert_eq!(pit.state2().flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON);
}

#[test]
fn the_refresh_bit_toggles() {
    let (mut pit, mut clock) = pit();
    let before = inb(&mut pit, &clock, 0x61) & 0x10;
    clock.now += 1 << 14;
    assert_ne!(inb(&mut pit, &clock, 0x61) & 0x10, before);
}

/// How firmware calibrates against channel 2: mode 0, wait for the output at port 61h.
#[test]
fn polled_delay() {
    let (mut pit, mut clock) = pit();
    out(&mut pit, &mut clock, 0x61, 1);
    program(&mut pit, &mut clock, 2, 0, 1193 * 10);
    let start = clock.now;
    while inb(&mut pit, &clock, 0x61) & 0x20 == 0 {
        clock.now += 1000;
    }
    assert!((9_990_000..10_010_000).contains(&(clock.now - start)));
}

#[test]
fn state_round_trip_starts_the_timer() {
    let (mut first, mut clock) = pit();
    program(&mut first, &mut clock, 0, 2, HZ100);
    program(&mut first, &mut clock, 2, 3, 1000);
    out(&mut first, &mut clock, 0x42, 0x55);
    let state = first.state2();
    assert_eq!((state.channels[0].count, state.channels[0].mode), (HZ100, 2));
    let (mut second, mut clock) = pit();
    second.set_state2(&state, &mut clock);
    assert_eq!(second.state2(), state);
    assert_eq!(clock.armed, Some(clock.now + PERIOD));
    out(&mut second, &mut clock, 0x42, 0x01);
    assert_eq!(
        second.state().channels[2].count,
        0x155,
        "the half-written count went along"
    );
}

#[test]
fn the_hpet_takes_over_and_gives_back() {
    let (mut pit, mut clock) = pit();
    program(&mut pit, &mut clock, 0, 2, HZ100);
    let mut state = pit.state2();
    state.flags = KVM_PIT_FLAGS_HPET_LEGACY;
    pit.set_state2(&state, &mut clock);
    assert_eq!(clock.armed, None);
    program(&mut pit, &mut clock, 0, 2, HZ100);
    assert_eq!(clock.armed, None);
    state.flags = 0;
    pit.set_state2(&state, &mut clock);
    assert!(clock.armed.is_some());
    assert_eq!(pit.state2().channels[0].mode, 2);
}

#[test]
fn any_state_of_the_client_is_survived() {
    let (mut pit, mut clock) = pit();
    let odd = KvmPitChannelState {
        count: u32::MAX,
        count_latched: 9,
        status_latched: 7,
        read_state: 0xee,
        write_state: 0xee,
        rw_mode: 0xff,
        mode: 0xff,
        bcd: 0xff,
        gate: 0xff,
        count_load_time: i64::MIN,
        ..KvmPitChannelState::default()
    };
    let modes = (0..8)
        .chain([0xff])
        .map(|mode| KvmPitChannelState { mode, ..odd });
    for channel in modes {
        let state = KvmPitState2 {
            channels: [channel; 3],
            flags: u32::MAX,
            ..KvmPitState2::default()
        };
        pit.set_state2(&state, &mut clock);
        for port in [0x40, 0x41, 0x42, 0x61] {
            for _ in 0..4 {
                inb(&mut pit, &clock, port);
            }
        }
        for value in [0xc0, 0xce, 0xde, 0x80] {
            out(&mut pit, &mut clock, 0x43, value);
        }
    }
}
