//! The 8254 interval timer of a VM and the port 61h bits around it, as a state machine.
//!
//! * `channel`: one counter; `reinject`: ticks that the guest has not taken yet; `guest`: the ports;
//!   `client`: KVM_GET_PIT2, KVM_SET_PIT2 and their older forms.
//!
//! Channel 0 drives a host timer; when it fires, [`Pit::timer_fired`] says whether to pulse the interrupt line.
//! The counts of all channels are computed when read. As in KVM, binary-coded counting is not supported, mode 4 of
//! channel 0 interrupts as mode 0 does, and mode 5 not at all.

mod channel;
mod client;
mod guest;
mod reinject;

#[cfg(test)]
mod tests;

pub use guest::Port;
pub use reinject::ReinjectMode;

use crate::ports::{Monotonic, TimerPort};
use channel::{Channel, Elapsed, counts_to_ns};
use reinject::Reinject;
use ring3_uapi::x86::KVM_PIT_FLAGS_HPET_LEGACY;

/// The interrupt line of channel 0.
pub const GSI: u32 = 0;
/// A periodic timer may not be faster than this: a guest could otherwise keep a host CPU busy.
const MIN_PERIOD_NS: u64 = 200_000;

/// Whether the interrupt line is to be pulsed now: raised, and lowered again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Tick {
    None,
    Pulse,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Repeat {
    OneShot,
    Periodic,
}

/// The host timer behind channel 0.
#[derive(Clone, Debug)]
struct Clock {
    repeat: Repeat,
    period_ns: u64,
    /// The next expiry, or the last one of a timer that does not run.
    expiry: Monotonic,
    armed: bool,
}

#[derive(Clone, Debug)]
pub struct Pit {
    channels: [Channel; 3],
    flags: u32,
    clock: Clock,
    reinject: Reinject,
}

impl Pit {
    /// A PIT as KVM_CREATE_PIT2 makes it: nothing counts an interrupt yet, and lost ticks are reinjected.
    pub fn new(now: Monotonic) -> Self {
        Pit {
            channels: [0, 1, 2].map(|n| Channel::new(n, now)),
            flags: 0,
            clock: Clock {
                repeat: Repeat::OneShot,
                period_ns: 0,
                expiry: Monotonic(0),
                armed: false,
            },
            reinject: Reinject::default(),
        }
    }

    /// How long a channel has been counting: channel 0 goes by the host timer, so that it agrees with the interrupts.
    fn elapsed(&self, channel: usize, now: Monotonic) -> Elapsed {
        match channel {
            0 if self.clock.period_ns == 0 => Elapsed::default(),
            0 => Elapsed::between(self.clock.expiry, now).plus(self.clock.period_ns),
            n => self.channels[n].since_load(now),
        }
    }

    fn count(&self, channel: usize, now: Monotonic) -> u16 {
        self.channels[channel].count(self.elapsed(channel, now))
    }

    fn output(&self, channel: usize, now: Monotonic) -> bool {
        self.channels[channel].output(self.elapsed(channel, now))
    }

    /// A count was written: the channel starts over.
    fn load(&mut self, channel: usize, count: u32, port: &mut dyn TimerPort) {
        self.channels[channel].load(count, port.now());
        if channel != 0 {
            return;
        }
        match self.channels[0].mode() {
            0 | 1 | 4 => self.start(Repeat::OneShot, port),
            2 | 3 => self.start(Repeat::Periodic, port),
            _ => self.stop(port),
        }
    }

    fn start(&mut self, repeat: Repeat, port: &mut dyn TimerPort) {
        if self.flags & KVM_PIT_FLAGS_HPET_LEGACY != 0 {
            // The client's HPET has taken the interrupt over.
            return;
        }
        let interval = counts_to_ns(self.channels[0].initial_count());
        self.reinject.reset();
        self.clock = Clock {
            repeat,
            period_ns: if repeat == Repeat::Periodic {
                interval.max(MIN_PERIOD_NS)
            } else {
                interval
            },
            expiry: port.now().after_ns(interval),
            armed: true,
        };
        port.arm(self.clock.expiry);
    }

    fn stop(&mut self, port: &mut dyn TimerPort) {
        self.clock.armed = false;
        port.disarm();
    }

    /// The host timer went off. Periods that were missed count as ticks to be reinjected.
    pub fn timer_fired(&mut self, port: &mut dyn TimerPort) -> Tick {
        if !self.clock.armed {
            return Tick::None;
        }
        let now = port.now();
        if now < self.clock.expiry {
            port.arm(self.clock.expiry);
            return Tick::None;
        }
        let ticks = match self.clock.repeat {
            Repeat::OneShot => {
                self.clock.armed = false;
                1
            }
            Repeat::Periodic => {
                let ticks = 1 + now.since(self.clock.expiry) / self.clock.period_ns;
                self.clock.expiry = self
                    .clock
                    .expiry
                    .after_ns(ticks.saturating_mul(self.clock.period_ns));
                port.arm(self.clock.expiry);
                ticks
            }
        };
        self.reinject.ticks(ticks)
    }

    /// The guest acknowledged the timer's interrupt, at either interrupt controller.
    pub fn acknowledged(&mut self) -> Tick {
        self.reinject.acknowledged()
    }

    /// The timer's interrupt was unmasked: what the guest missed before is not made up for.
    pub fn unmasked(&mut self) {
        self.reinject.unmasked();
    }

    /// Whether acknowledgements of the interrupt are to be reported here.
    pub fn wants_acknowledgements(&self) -> bool {
        self.reinject.mode() == ReinjectMode::Reinject
    }

    /// KVM_REINJECT_CONTROL.
    pub fn set_reinject(&mut self, mode: ReinjectMode) {
        self.reinject.set_mode(mode);
    }
}
