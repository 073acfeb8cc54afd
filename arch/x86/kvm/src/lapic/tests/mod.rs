//! Tests of the local APIC, by face.

mod modes;
mod priority;
mod routing;
mod state;
mod timer;

use super::*;
use crate::ports::{Monotonic, TimerPort, TscTimerPort};

/// A clock that stands still until moved, with a TSC of one tick per nanosecond.
#[derive(Debug, Default)]
pub(super) struct FakeClock {
    pub now: u64,
    pub tsc_offset: u64,
    pub armed: Option<u64>,
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

impl TscTimerPort for FakeClock {
    fn ns_until_tsc(&self, deadline: u64) -> Option<u64> {
        Some(deadline.saturating_sub(self.now + self.tsc_offset))
    }
}

const BASE: u64 = 0xfee0_0000;
const X2APIC_ON: u64 = BASE | 0xc00;

fn features() -> Features {
    Features::X2APIC | Features::TSC_DEADLINE | Features::LINT0_REENABLED | Features::MMIO_HOLE
}

/// An APIC in xAPIC mode, enabled by software, and its clock.
fn enabled(id: u32) -> (Lapic, FakeClock) {
    let mut lapic = Lapic::new(id, Role::Application, features());
    let mut clock = FakeClock {
        now: 1_000_000,
        ..FakeClock::default()
    };
    let _ = write(&mut lapic, &mut clock, 0xf0, 0x1ff);
    (lapic, clock)
}

fn enabled_x2apic(id: u32) -> (Lapic, FakeClock) {
    let (mut lapic, clock) = enabled(id);
    assert_eq!(lapic.set_base(X2APIC_ON, 0, Writer::Guest), Ok(()));
    (lapic, clock)
}

fn write(lapic: &mut Lapic, clock: &mut FakeClock, offset: u64, value: u32) -> Effect {
    lapic.mmio_write(BASE + offset, &value.to_le_bytes(), clock)
}

fn set(lapic: &mut Lapic, clock: &mut FakeClock, offset: u64, value: u32) {
    assert_eq!(write(lapic, clock, offset, value), Effect::None);
}

fn read(lapic: &Lapic, clock: &FakeClock, offset: u64) -> u32 {
    let mut data = [0; 4];
    lapic.mmio_read(BASE + offset, &mut data, clock);
    u32::from_le_bytes(data)
}

fn fixed(vector: u8, trigger: TriggerMode) -> ApicMessage {
    ApicMessage {
        trigger,
        ..ApicMessage::from_icr(0x4000 | u32::from(vector), 0)
    }
}
