//! The guest's face: the counters at ports 40h to 43h, and the speaker bits of port 61h.

use super::Pit;
use super::channel::access;
use crate::ports::{Monotonic, TimerPort};
use ring3_uapi::x86::KVM_PIT_FLAGS_SPEAKER_DATA_ON;

/// A port of the timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    Counter(usize),
    Control,
    /// Only there when the client asked for it (KVM_PIT_SPEAKER_DUMMY).
    Speaker,
}

impl Port {
    pub fn decode(port: u16) -> Option<Port> {
        Some(match port {
            0x40..=0x42 => Port::Counter(usize::from(port - 0x40)),
            0x43 => Port::Control,
            0x61 => Port::Speaker,
            _ => return None,
        })
    }
}

/// The memory refresh bit toggles about every 15 us; here every 2^14 ns.
const REFRESH_SHIFT: u32 = 14;

impl Pit {
    /// A write; of a wider one, the low byte counts.
    pub fn write(&mut self, at: Port, value: u8, port: &mut dyn TimerPort) {
        match at {
            Port::Counter(n) => {
                if let Some(count) = self.channels[n].write(value) {
                    self.load(n, count, port);
                }
            }
            Port::Control => self.write_control(value, port.now()),
            Port::Speaker => {
                self.flags &= !KVM_PIT_FLAGS_SPEAKER_DATA_ON;
                if value & 2 != 0 {
                    self.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
                }
                self.channels[2].set_gate(value & 1, port.now());
            }
        }
    }

    fn write_control(&mut self, value: u8, now: Monotonic) {
        match usize::from(value >> 6) {
            3 => self.read_back(value, now),
            n if value >> 4 & 3 == access::LATCH => self.latch_count(n, now),
            n => self.channels[n].program(value),
        }
    }

    /// The read-back command: latch the count, the status or both of several channels.
    fn read_back(&mut self, value: u8, now: Monotonic) {
        for n in (0..3).filter(|n| value & 2 << n != 0) {
            if value & 0x20 == 0 {
                self.latch_count(n, now);
            }
            if value & 0x10 == 0 {
                let output = self.output(n, now);
                self.channels[n].latch_status(output);
            }
        }
    }

    fn latch_count(&mut self, n: usize, now: Monotonic) {
        let count = self.count(n, now);
        self.channels[n].latch_count(count);
    }

    /// A read; of a wider one, the upper bytes are zero.
    pub fn read(&mut self, at: Port, now: Monotonic) -> u8 {
        match at {
            Port::Counter(n) => {
                let count = self.count(n, now);
                let channel = &mut self.channels[n];
                channel.read_latched().unwrap_or_else(|| channel.read(count))
            }
            Port::Control => 0,
            Port::Speaker => {
                let data = u8::from(self.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON != 0);
                let refresh = (now.0 >> REFRESH_SHIFT) as u8 & 1;
                self.channels[2].gate() | data << 1 | refresh << 4 | u8::from(self.output(2, now)) << 5
            }
        }
    }
}
