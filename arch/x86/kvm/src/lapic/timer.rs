//! The APIC timer: one-shot, periodic and TSC-deadline.
//!
//! The timer counts cycles of the APIC bus, which runs at 1 GHz unless the client chose otherwise, as KVM's does. The
//! current count is computed when read. The TSC deadline is in the guest's TSC, the port converts it.

use super::regs::{Reg, lvt};
use super::{Acceptance, ApicMode, Features, Lapic, TriggerMode};
use crate::ports::{Monotonic, TimerPort, TscTimerPort};

/// A periodic timer may not be faster than this: a guest could otherwise keep a host CPU busy.
const MIN_PERIOD_NS: u64 = 200_000;
/// A cycle of the bus, if the client does not choose another.
pub const DEFAULT_CYCLE_NS: u64 = 1;
const MODE_SHIFT: u32 = 17;
/// The mode field; bit 18 exists only with the TSC-deadline mode.
const MODE_PERIODIC: u32 = 1 << MODE_SHIFT;
const MODE_TSC_DEADLINE: u32 = 2 << MODE_SHIFT;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum TimerMode {
    #[default]
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

/// Which register a started timer counts down from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StartFrom {
    InitialCount,
    /// The current count of a restored state.
    CurrentCount,
}

#[derive(Clone, Debug)]
pub(super) struct Timer {
    mode: TimerMode,
    /// 1, 2, 4 .. 128.
    divisor: u64,
    /// A cycle of the bus.
    cycle_ns: u64,
    period_ns: u64,
    /// When the count reaches zero.
    expiry: Monotonic,
    tsc_deadline: u64,
    /// What the port is armed for.
    armed: Option<Monotonic>,
}

impl Default for Timer {
    fn default() -> Self {
        Timer {
            mode: TimerMode::OneShot,
            divisor: divisor(0),
            cycle_ns: DEFAULT_CYCLE_NS,
            period_ns: 0,
            expiry: Monotonic(0),
            tsc_deadline: 0,
            armed: None,
        }
    }
}

/// The divisor of a divide configuration register: bits 3, 1 and 0 count from 2, and 111 is 1.
fn divisor(config: u32) -> u64 {
    let exponent = (config & 3 | (config & 8) >> 1) + 1;
    1 << (exponent & 7)
}

impl Timer {
    /// As it was at power-up; the bus goes on as it is.
    pub(super) fn reset(&mut self) {
        *self = Timer {
            cycle_ns: self.cycle_ns,
            ..Timer::default()
        };
    }

    fn arm(&mut self, deadline: Monotonic, port: &mut dyn TimerPort) {
        self.armed = Some(deadline);
        port.arm(deadline);
    }

    pub(super) fn cancel(&mut self, port: &mut dyn TimerPort) {
        if self.armed.take().is_some() {
            port.disarm();
        }
    }

    fn limit_period(&mut self) {
        if self.mode == TimerMode::Periodic && self.period_ns != 0 {
            self.period_ns = self.period_ns.max(MIN_PERIOD_NS);
        }
    }

    /// The next expiry of a periodic timer; missed ones are not made up for.
    fn advance(&mut self, now: Monotonic) {
        self.expiry = self.expiry.after_ns(self.period_ns).max(now);
    }

    fn counts(&self) -> bool {
        matches!(self.mode, TimerMode::OneShot | TimerMode::Periodic)
    }
}

impl Lapic {
    /// The bits of the timer's LVT entry that select its mode.
    pub(super) fn timer_mode_bits(&self) -> u32 {
        if self.features.contains(Features::TSC_DEADLINE) {
            MODE_PERIODIC | MODE_TSC_DEADLINE
        } else {
            MODE_PERIODIC
        }
    }

    /// Follow the mode in the timer's LVT entry. Entering or leaving TSC-deadline mode disarms the timer.
    pub(super) fn update_timer_mode(&mut self, port: &mut dyn TscTimerPort) {
        let mode = match (self.regs.get(Reg::LVT_TIMER) & self.timer_mode_bits()) >> MODE_SHIFT {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        };
        let old = std::mem::replace(&mut self.timer.mode, mode);
        if old == mode {
            return;
        }
        if old == TimerMode::TscDeadline || mode == TimerMode::TscDeadline {
            self.timer.cancel(port);
            self.regs.set(Reg::INITIAL_COUNT, 0);
            self.timer.period_ns = 0;
            self.timer.tsc_deadline = 0;
        }
        self.timer.limit_period();
    }

    /// KVM_CAP_X86_APIC_BUS_CYCLES_NS, before anything runs.
    pub fn set_bus_cycle(&mut self, ns: u64) {
        self.timer.cycle_ns = ns;
    }

    pub(super) fn update_divisor(&mut self) {
        self.timer.divisor = divisor(self.regs.get(Reg::DIVIDE_CONFIG));
    }

    /// A write to the divide configuration: a running count goes on from where it is, at the new rate.
    pub(super) fn write_divide_config(&mut self, value: u32, port: &mut dyn TscTimerPort) {
        let old = self.timer.divisor;
        self.regs.set(Reg::DIVIDE_CONFIG, value & 0xb);
        self.update_divisor();
        if self.timer.divisor == old || self.timer.period_ns == 0 {
            return;
        }
        self.timer.period_ns = self.count_to_ns(Reg::INITIAL_COUNT);
        self.timer.limit_period();
        if self.timer.armed.is_some() && self.timer.counts() {
            let now = port.now();
            let remaining = self.timer.expiry.since(now);
            let scaled = u128::from(remaining) * u128::from(self.timer.divisor) / u128::from(old);
            self.timer.expiry = now.after_ns(u64::try_from(scaled).unwrap_or(u64::MAX));
            self.timer.cancel(port);
            self.restart_count(port);
        }
    }

    /// A write to the initial count.
    pub(super) fn write_initial_count(&mut self, value: u32, port: &mut dyn TscTimerPort) {
        if self.timer.mode == TimerMode::TscDeadline {
            return;
        }
        self.timer.cancel(port);
        self.regs.set(Reg::INITIAL_COUNT, value);
        self.start_timer(StartFrom::InitialCount, port);
    }

    fn count_to_ns(&self, count: Reg) -> u64 {
        u64::from(self.regs.get(count)) * self.timer.divisor * self.timer.cycle_ns
    }

    pub(super) fn start_timer(&mut self, from: StartFrom, port: &mut dyn TscTimerPort) {
        match self.timer.mode {
            TimerMode::OneShot | TimerMode::Periodic => {
                self.timer.period_ns = self.count_to_ns(Reg::INITIAL_COUNT);
                self.timer.limit_period();
                if self.timer.period_ns == 0 {
                    return;
                }
                let left = match from {
                    StartFrom::InitialCount => self.timer.period_ns,
                    StartFrom::CurrentCount => self.restored_count_ns(),
                };
                self.timer.expiry = port.now().after_ns(left);
                self.restart_count(port);
            }
            TimerMode::TscDeadline => self.start_tsc_deadline(port),
            TimerMode::Reserved => {}
        }
    }

    /// What is left of a restored count: nothing means that a one-shot has just expired, and that a
    /// periodic timer was at its end.
    fn restored_count_ns(&self) -> u64 {
        match self.count_to_ns(Reg::CURRENT_COUNT) {
            0 if self.timer.mode == TimerMode::Periodic => self.timer.period_ns,
            left => left.min(self.timer.period_ns),
        }
    }

    fn restart_count(&mut self, port: &mut dyn TscTimerPort) {
        let now = port.now();
        if now > self.timer.expiry {
            self.timer_interrupt();
            if self.timer.mode == TimerMode::OneShot {
                return;
            }
            self.timer.advance(now);
        }
        self.timer.arm(self.timer.expiry, port);
    }

    fn start_tsc_deadline(&mut self, port: &mut dyn TscTimerPort) {
        if self.timer.tsc_deadline == 0 {
            return;
        }
        match port.ns_until_tsc(self.timer.tsc_deadline) {
            None => {}
            Some(0) => {
                self.timer_interrupt();
            }
            Some(ns) => self.timer.arm(port.now().after_ns(ns), port),
        }
    }

    fn timer_interrupt(&mut self) -> Acceptance {
        match self.timer.mode {
            TimerMode::TscDeadline => self.timer.tsc_deadline = 0,
            TimerMode::OneShot => self.timer.expiry = Monotonic(0),
            _ => {}
        }
        let entry = self.regs.get(Reg::LVT_TIMER);
        if entry & lvt::MASKED != 0 {
            return Acceptance::Discarded;
        }
        self.request((entry & lvt::VECTOR) as u8, TriggerMode::Edge)
    }

    /// The host timer went off. `Requested` means that the vCPU must be woken.
    pub fn timer_fired(&mut self, port: &mut dyn TscTimerPort) -> Acceptance {
        let Some(deadline) = self.timer.armed.take() else {
            return Acceptance::Discarded;
        };
        let now = port.now();
        if now < deadline {
            self.timer.arm(deadline, port);
            return Acceptance::Discarded;
        }
        if self.timer.mode == TimerMode::TscDeadline {
            // The host's clock and the guest's TSC need not agree to the last tick, and the TSC may have
            // been set back since.
            if let Some(ns @ 1..) = port.ns_until_tsc(self.timer.tsc_deadline) {
                self.timer.arm(now.after_ns(ns), port);
                return Acceptance::Discarded;
            }
        }
        let acceptance = self.timer_interrupt();
        if self.timer.mode == TimerMode::Periodic && self.timer.period_ns != 0 {
            self.timer.advance(now);
            self.timer.arm(self.timer.expiry, port);
        }
        acceptance
    }

    /// The guest's TSC was changed: a deadline in it is now at another time.
    pub fn tsc_changed(&mut self, port: &mut dyn TscTimerPort) {
        if self.timer.mode == TimerMode::TscDeadline {
            self.timer.cancel(port);
            self.start_tsc_deadline(port);
        }
    }

    /// The current count register.
    pub(super) fn current_count(&self, port: &dyn TscTimerPort) -> u32 {
        let timer = &self.timer;
        let stopped = self.regs.get(Reg::INITIAL_COUNT) == 0 || timer.period_ns == 0;
        if stopped || timer.mode == TimerMode::TscDeadline {
            return 0;
        }
        let left = timer.expiry.since(port.now()).min(timer.period_ns);
        u32::try_from(left / (timer.divisor * timer.cycle_ns)).unwrap_or(u32::MAX)
    }

    /// IA32_TSC_DEADLINE: zero outside TSC-deadline mode.
    pub fn tsc_deadline(&self) -> u64 {
        match (self.base.mode(), self.timer.mode) {
            (ApicMode::Disabled, _) => 0,
            (_, TimerMode::TscDeadline) => self.timer.tsc_deadline,
            _ => 0,
        }
    }

    /// A write to IA32_TSC_DEADLINE: ignored outside TSC-deadline mode. A deadline already reached
    /// requests the interrupt at once, zero disarms.
    pub fn set_tsc_deadline(&mut self, deadline: u64, port: &mut dyn TscTimerPort) {
        if !self.hardware_enabled() || self.timer.mode != TimerMode::TscDeadline {
            return;
        }
        self.timer.cancel(port);
        self.timer.tsc_deadline = deadline;
        self.start_tsc_deadline(port);
    }
}
