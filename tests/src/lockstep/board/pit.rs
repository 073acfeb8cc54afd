//! The 8254: channel 0 makes interrupts, channel 2 is looked at. Time comes in ticks of the board's own clock.

/// Ticks of the board for one of the timer's.
pub const TICKS: u64 = 838;

#[derive(Clone, Default, PartialEq, Eq)]
struct Channel {
    mode: u8,
    reload: u32,
    /// When counting began.
    since: u64,
    /// Half a value was written or read.
    half: Option<u8>,
    high_next: bool,
    latched: Option<u16>,
}

impl Channel {
    fn period(&self) -> u64 {
        u64::from(if self.reload == 0 { 0x1_0000 } else { self.reload })
    }

    fn count(&self, now: u64) -> u16 {
        let gone = now.saturating_sub(self.since) / TICKS;
        if matches!(self.mode, 2 | 3) {
            (self.period() - gone % self.period()) as u16
        } else {
            self.period().wrapping_sub(gone) as u16
        }
    }

    fn write(&mut self, value: u8, now: u64) {
        match self.half.take() {
            None => self.half = Some(value),
            Some(low) => {
                self.reload = u32::from(low) | u32::from(value) << 8;
                self.since = now;
            }
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        let count = self.latched.unwrap_or_else(|| self.count(now));
        self.high_next = !self.high_next;
        if self.high_next {
            count as u8
        } else {
            self.latched = None;
            (count >> 8) as u8
        }
    }
}

#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pit {
    channels: [Channel; 3],
    /// Periods of channel 0 that made an interrupt already.
    made: u64,
}

impl Pit {
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        if port < 0x43 {
            self.channels[usize::from(port & 3)].write(value, now);
            if port == 0x40 {
                self.made = 0;
            }
            return;
        }
        let Some(channel) = self.channels.get_mut(usize::from(value >> 6)) else {
            return;
        };
        if value & 0x30 == 0 {
            channel.latched = Some(channel.count(now));
        } else {
            *channel = Channel {
                mode: value >> 1 & 7,
                since: now,
                ..Channel::default()
            };
        }
    }

    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            0x40..0x43 => self.channels[usize::from(port & 3)].read(now),
            _ => 0xff,
        }
    }

    /// Whether channel 2 has counted down.
    pub fn output_2(&self, now: u64) -> bool {
        let channel = &self.channels[2];
        now.saturating_sub(channel.since) / TICKS >= channel.period()
    }

    /// When channel 0 makes its next interrupt, if it will.
    pub fn due(&self) -> Option<u64> {
        let channel = &self.channels[0];
        let periodic = matches!(channel.mode, 2 | 3);
        (channel.reload != 0 && (periodic || self.made == 0))
            .then(|| channel.since + (self.made + 1) * channel.period() * TICKS)
    }

    /// Whether an interrupt is due; each is told once.
    pub fn take(&mut self, now: u64) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            let gone = now.saturating_sub(self.channels[0].since) / TICKS;
            self.made = gone / self.channels[0].period();
        }
        due
    }
}
