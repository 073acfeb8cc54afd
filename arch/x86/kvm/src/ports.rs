//! How the interrupt devices act on the world: the few things the models ask of whoever owns them.
//!
//! The models in `lapic/`, `ioapic/`, `pic/` and `pit/` hold no thread, lock or file descriptor. Time
//! comes in through [`TimerPort`], interrupts go out through [`InterruptBus`] or as returned values, and
//! `irqchip/` supplies the real ones.

use crate::lapic::ApicMessage;

pub use ring3_host::time::Monotonic;

/// One timer of the host, and the clock it runs on.
///
/// Arming an armed timer moves it. The owner calls the model's `timer_fired` some time after the
/// deadline; a call that comes too early or after `disarm` is recognised by the model and ignored.
pub trait TimerPort {
    fn now(&self) -> Monotonic;
    fn arm(&mut self, deadline: Monotonic);
    fn disarm(&mut self);
}

/// A timer port of a vCPU, which also knows the guest's time-stamp counter.
pub trait TscTimerPort: TimerPort {
    /// Nanoseconds until the guest's TSC reaches `deadline`; zero when it has passed, `None` when the
    /// guest has no TSC frequency yet.
    fn ns_until_tsc(&self, deadline: u64) -> Option<u64>;
}

/// What became of an interrupt message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// No local APIC matched the destination.
    NoTarget,
    /// This many local APICs took it (zero: matched, but disabled).
    Accepted(u32),
}

/// The way of an interrupt message to the local APICs.
pub trait InterruptBus {
    /// Deliver `message`; `accepted` is told the index of every vCPU whose APIC took it.
    fn deliver(&mut self, message: &ApicMessage, accepted: &mut dyn FnMut(usize)) -> Delivery;
}

/// The level of an interrupt line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Low,
    High,
}

impl Level {
    pub fn is_high(self) -> bool {
        self == Level::High
    }
}

impl From<bool> for Level {
    fn from(high: bool) -> Self {
        if high { Level::High } else { Level::Low }
    }
}

/// Who drives an interrupt line. Several sources share a pin; the line is the OR of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum IrqSource {
    /// KVM_IRQ_LINE and irqfds without resampling.
    Client = 0,
    /// Resampling irqfds.
    Resample = 1,
    /// A timer in KVM: the PIT.
    Timer = 2,
}

/// The sources that hold one pin high.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LineState(u8);

impl LineState {
    /// Record one source's level and return the level of the line.
    pub fn drive(&mut self, source: IrqSource, level: Level) -> Level {
        let bit = 1 << source as u8;
        match level {
            Level::High => self.0 |= bit,
            Level::Low => self.0 &= !bit,
        }
        Level::from(self.0 != 0)
    }
}

/// What KVM_IRQ_LINE_STATUS reports about one pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineStatus {
    /// Masked, or not deliverable for another reason.
    Ignored,
    /// The previous interrupt of this pin is still pending.
    Coalesced,
    /// Delivered to this many processors; a lowered line counts as one.
    Delivered(u32),
}

impl LineStatus {
    /// The `status` number of the API: negative, zero or the count.
    pub fn code(self) -> i32 {
        match self {
            LineStatus::Ignored => -1,
            LineStatus::Coalesced => 0,
            LineStatus::Delivered(n) => n.min(i32::MAX as u32) as i32,
        }
    }

    /// The status of one GSI whose pins on several chips answered separately: ignored ones do not
    /// count, the others add up.
    pub fn merge(self, other: LineStatus) -> LineStatus {
        match (self, other) {
            (LineStatus::Ignored, x) | (x, LineStatus::Ignored) => x,
            (a, b) => match (a.code() + b.code()) as u32 {
                0 => LineStatus::Coalesced,
                n => LineStatus::Delivered(n),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_or_of_its_sources() {
        let mut line = LineState::default();
        assert_eq!(line.drive(IrqSource::Client, Level::High), Level::High);
        assert_eq!(line.drive(IrqSource::Timer, Level::High), Level::High);
        assert_eq!(line.drive(IrqSource::Client, Level::Low), Level::High);
        assert_eq!(line.drive(IrqSource::Timer, Level::Low), Level::Low);
    }

    #[test]
    fn statuses_of_several_chips_merge() {
        let sum = LineStatus::Delivered(1).merge(LineStatus::Delivered(2));
        assert_eq!(sum, LineStatus::Delivered(3));
        assert_eq!(LineStatus::Ignored.merge(LineStatus::Coalesced).code(), 0);
        assert_eq!(LineStatus::Ignored.merge(LineStatus::Ignored).code(), -1);
    }
}
