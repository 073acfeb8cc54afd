//! A halted vCPU: polls for a while, as long as that has paid lately, then sleeps on its kick word.
//!
//! The window grows and shrinks by Linux's rules and with its defaults. Where Linux stops polling as soon as another task
//! wants the processor, here nobody polls while the VM's running vCPUs leave the host no processor to spare.

use super::Vcpu;
use super::kick::KickBits;
use crate::arch::Arch;
use crate::stats::rows;
use ring3_host::time::{Monotonic, monotonic_now};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::available_parallelism;

/// The longest window where KVM_CAP_HALT_POLL does not set one.
pub const DEFAULT_MOST_NS: u32 = 200_000;
const START_NS: u32 = 10_000;
const GROWTH: u32 = 2;

/// Whether a halted vCPU may poll at all, which a guest that polls itself forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    Allowed,
    Forbidden,
}

/// A vCPU's window.
#[derive(Debug, Default)]
pub(super) struct HaltPoll {
    window_ns: AtomicU32,
}

impl HaltPoll {
    fn window(&self, most: u32) -> u32 {
        let window = self.window_ns.load(Relaxed).min(most);
        self.window_ns.store(window, Relaxed);
        window
    }

    /// Learns from a halt that lasted `halted` ns.
    fn learn(&self, most: u32, halted: u64) {
        let window = self.window_ns.load(Relaxed);
        let next = if most == 0 || (window != 0 && halted > u64::from(most)) {
            0
        } else if halted > u64::from(window) && window < most && halted < u64::from(most) {
            window.saturating_mul(GROWTH).max(START_NS)
        } else {
            window
        };
        self.window_ns.store(next, Relaxed);
    }
}

/// Whether a poller beside so many running vCPUs leaves a processor to the client's other threads, of which one may
/// be about to end the halt.
fn has_room(processors: usize, running: usize) -> bool {
    running + 1 < processors
}

impl<A: Arch> Vcpu<A> {
    /// Returns when something was posted to the vCPU, a signal handler ran, or `deadline` has come. The caller looks at what
    /// it is, and halts again if it was nothing.
    pub fn halt(&self, deadline: Option<Monotonic>, polling: Polling) {
        let kick = self.seat().kick();
        if kick.pending() {
            return;
        }
        let most = self.vm().halt_poll_most();
        let window = match polling {
            Polling::Allowed if self.may_poll() => self.halt_poll.window(most),
            _ => 0,
        };
        let start = monotonic_now();
        let mut polled_until = start;
        let stop = start.after_ns(u64::from(window));
        let stop = deadline.map_or(stop, |deadline| deadline.min(stop));
        while !kick.pending() && polled_until < stop {
            std::hint::spin_loop();
            polled_until = monotonic_now();
        }
        let stats = self.stats().shown();
        let slept = !kick.pending() && deadline.is_none_or(|deadline| polled_until < deadline) && {
            stats.at(rows::BLOCKING).set(1);
            let slept = kick.sleep(deadline);
            stats.at(rows::BLOCKING).set(0);
            slept
        };
        let end = monotonic_now();
        if window != 0 {
            stats.at(rows::HALT_ATTEMPTED_POLL).add(1);
            let polled = polled_until.since(start);
            if slept {
                stats.at(rows::HALT_POLL_FAIL_NS).add(polled);
                stats.add_time(rows::HALT_POLL_FAIL_HIST, polled);
            } else {
                stats.at(rows::HALT_SUCCESSFUL_POLL).add(1);
                stats.at(rows::HALT_POLL_SUCCESS_NS).add(polled);
                stats.add_time(rows::HALT_POLL_SUCCESS_HIST, polled);
            }
        }
        if slept {
            let waited = end.since(polled_until);
            stats.at(rows::HALT_WAIT_NS).add(waited);
            stats.add_time(rows::HALT_WAIT_HIST, waited);
            stats.at(rows::HALT_WAKEUP).add(1);
        }
        if polling == Polling::Allowed {
            self.halt_poll.learn(most, end.since(start));
        }
    }

    fn may_poll(&self) -> bool {
        static PROCESSORS: OnceLock<usize> = OnceLock::new();
        let processors = *PROCESSORS.get_or_init(|| available_parallelism().map_or(1, usize::from));
        let seats = self.vm().seats().all();
        has_room(processors, seats.iter().filter(|seat| seat.in_guest()).count())
    }

    /// Wakes the vCPU if it is halted, from any thread.
    pub fn unhalt(&self) {
        self.seat().kick().post(KickBits::UNHALT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_processor_stays_free() {
        assert!(has_room(2, 0) && has_room(4, 2));
        assert!(!has_room(1, 0) && !has_room(2, 1) && !has_room(4, 3));
    }

    #[test]
    fn the_window_grows_with_short_halts_and_goes_with_long_ones() {
        let poll = HaltPoll::default();
        poll.learn(DEFAULT_MOST_NS, 5_000);
        assert_eq!(poll.window(DEFAULT_MOST_NS), 10_000);
        poll.learn(DEFAULT_MOST_NS, 5_000);
        assert_eq!(poll.window(DEFAULT_MOST_NS), 10_000);
        poll.learn(DEFAULT_MOST_NS, 50_000);
        assert_eq!(poll.window(DEFAULT_MOST_NS), 20_000);
        poll.learn(DEFAULT_MOST_NS, 300_000);
        assert_eq!(poll.window(DEFAULT_MOST_NS), 0);
        poll.learn(DEFAULT_MOST_NS, 50_000);
        assert_eq!(poll.window(5_000), 5_000);
        poll.learn(0, 50_000);
        assert_eq!(poll.window(DEFAULT_MOST_NS), 0);
    }
}
