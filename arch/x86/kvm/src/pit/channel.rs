//! One counter of the 8254.

use crate::ports::Monotonic;
use ring3_uapi::x86::KvmPitChannelState;

/// The input clock in Hz.
const FREQUENCY: u64 = 1_193_181;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// The mode of a channel that was never programmed.
const MODE_NONE: u8 = 0xff;

/// How a channel's count is accessed, and where a two-byte access stands.
pub(super) mod access {
    pub const LATCH: u8 = 0;
    pub const HIGH: u8 = 2;
    /// Low byte first; also: the low byte is next.
    pub const WORD_LOW: u8 = 3;
    /// The high byte is next.
    pub const WORD_HIGH: u8 = 4;
}

/// Nanoseconds that a channel has counted; negative when the client moved the clock it counts by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Elapsed(i128);

impl Elapsed {
    pub fn between(start: Monotonic, now: Monotonic) -> Self {
        Elapsed(i128::from(now.0) - i128::from(start.0))
    }

    pub fn plus(self, ns: u64) -> Self {
        Elapsed(self.0 + i128::from(ns))
    }

    /// The same in periods of the input clock.
    fn counts(self) -> u64 {
        let counts = self.0.max(0) * i128::from(FREQUENCY) / i128::from(NS_PER_SECOND);
        u64::try_from(counts).unwrap_or(u64::MAX)
    }
}

pub(super) fn counts_to_ns(counts: u32) -> u64 {
    u64::from(counts) * NS_PER_SECOND / FREQUENCY
}

/// The state is kept in the ABI's structure: the client may set any of it to anything.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    regs: KvmPitChannelState,
}

impl Channel {
    pub fn new(number: usize, now: Monotonic) -> Self {
        // The speaker's gate is a bit of port 61h, the other two are tied high.
        let gate = u8::from(number != 2);
        let mut channel = Channel {
            regs: KvmPitChannelState {
                mode: MODE_NONE,
                gate,
                ..KvmPitChannelState::default()
            },
        };
        channel.load(0, now);
        if number == 0 {
            channel.regs.count_load_time = 0;
        }
        channel
    }

    pub fn state(&self) -> KvmPitChannelState {
        self.regs
    }

    pub fn set_state(&mut self, state: &KvmPitChannelState) {
        self.regs = *state;
    }

    pub fn mode(&self) -> u8 {
        self.regs.mode
    }

    pub fn initial_count(&self) -> u32 {
        self.regs.count
    }

    /// Start over from `count`; zero stands for the largest.
    pub fn load(&mut self, count: u32, now: Monotonic) {
        self.regs.count = if count == 0 { 0x1_0000 } else { count };
        self.regs.count_load_time = now.0 as i64;
    }

    /// As `load`, for the channel that does not go by its load time.
    pub fn since_load(&self, now: Monotonic) -> Elapsed {
        Elapsed(i128::from(now.0) - i128::from(self.regs.count_load_time))
    }

    /// The current count.
    pub fn count(&self, elapsed: Elapsed) -> u16 {
        let initial = u64::from(self.regs.count.max(1));
        let counted = elapsed.counts();
        let value = match self.regs.mode {
            // These wrap around and go on.
            0 | 1 | 4 | 5 => initial.wrapping_sub(counted),
            // The square wave counts by two.
            3 => initial - counted.wrapping_mul(2) % initial,
            _ => initial - counted % initial,
        };
        value as u16
    }

    /// The level of the OUT pin.
    pub fn output(&self, elapsed: Elapsed) -> bool {
        let initial = u64::from(self.regs.count.max(1));
        let counted = elapsed.counts();
        match self.regs.mode {
            1 => counted < initial,
            2 => counted != 0 && counted.is_multiple_of(initial),
            3 => counted % initial < initial.div_ceil(2),
            4 | 5 => counted == initial,
            _ => counted >= initial,
        }
    }

    pub fn gate(&self) -> u8 {
        self.regs.gate
    }

    /// Move the gate. A rising edge restarts the modes that trigger on it.
    pub fn set_gate(&mut self, gate: u8, now: Monotonic) {
        if matches!(self.regs.mode, 1 | 2 | 3 | 5) && self.regs.gate < gate {
            self.regs.count_load_time = now.0 as i64;
        }
        self.regs.gate = gate;
    }

    /// A control word selects this channel's access, mode and number format.
    pub fn program(&mut self, control: u8) {
        let access = control >> 4 & 3;
        let mode = control >> 1 & 7;
        self.regs.rw_mode = access;
        self.regs.read_state = access;
        self.regs.write_state = access;
        // Modes 2 and 3 leave their top bit open.
        self.regs.mode = if mode > 5 { mode - 4 } else { mode };
        self.regs.bcd = control & 1;
    }

    pub fn latch_count(&mut self, count: u16) {
        if self.regs.count_latched == 0 {
            self.regs.latched_count = count;
            self.regs.count_latched = self.regs.rw_mode;
        }
    }

    pub fn latch_status(&mut self, output: bool) {
        let regs = &mut self.regs;
        if regs.status_latched == 0 {
            regs.status = u8::from(output) << 7 | regs.rw_mode << 4 | regs.mode << 1 | regs.bcd;
            regs.status_latched = 1;
        }
    }

    /// A byte written to the channel; the count it completes, if any.
    pub fn write(&mut self, value: u8) -> Option<u32> {
        let value = u32::from(value);
        match self.regs.write_state {
            access::WORD_LOW => {
                self.regs.write_latch = value as u8;
                self.regs.write_state = access::WORD_HIGH;
                None
            }
            access::WORD_HIGH => {
                self.regs.write_state = access::WORD_LOW;
                Some(u32::from(self.regs.write_latch) | value << 8)
            }
            access::HIGH => Some(value << 8),
            _ => Some(value),
        }
    }

    /// The next byte of a latched status or count.
    pub fn read_latched(&mut self) -> Option<u8> {
        let regs = &mut self.regs;
        if std::mem::take(&mut regs.status_latched) != 0 {
            return Some(regs.status);
        }
        let [low, high] = regs.latched_count.to_le_bytes();
        match std::mem::take(&mut regs.count_latched) {
            0 => None,
            access::HIGH => Some(high),
            access::WORD_LOW => {
                regs.count_latched = access::HIGH;
                Some(low)
            }
            _ => Some(low),
        }
    }

    /// The byte of the running count that a read returns.
    pub fn read(&mut self, count: u16) -> u8 {
        let regs = &mut self.regs;
        let [low, high] = count.to_le_bytes();
        match regs.read_state {
            access::HIGH => high,
            access::WORD_LOW => {
                regs.read_state = access::WORD_HIGH;
                low
            }
            access::WORD_HIGH => {
                regs.read_state = access::WORD_LOW;
                high
            }
            _ => low,
        }
    }
}
