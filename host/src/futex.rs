//! Sleeping on a word until somebody changes it.

use crate::time::Monotonic;
use rustix::io::Errno;
use rustix::thread::{Timespec, futex};
use std::num::NonZeroU32;
use std::sync::atomic::AtomicU32;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The word had, or may now have, another value.
    Value,
    /// The deadline passed.
    Timeout,
    /// A signal handler ran on this thread.
    Signal,
}

/// Sleeps while `word` holds `expected`, until woken, or `deadline`, or a signal. May wake for nothing.
pub fn wait(word: &AtomicU32, expected: u32, deadline: Option<Monotonic>) -> Woken {
    const ANY: NonZeroU32 = NonZeroU32::MAX;
    let until = deadline.map(|Monotonic(ns)| Timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    });
    match futex::wait_bitset(word, futex::Flags::PRIVATE, expected, until.as_ref(), ANY) {
        Err(Errno::TIMEDOUT) => Woken::Timeout,
        Err(Errno::INTR) => Woken::Signal,
        _ => Woken::Value,
    }
}

/// Wakes every waiter.
pub fn wake_all(word: &AtomicU32) {
    // The only failures are of bad addresses, and a reference is none.
    let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX as u32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::monotonic_now;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn a_changed_value_does_not_sleep() {
        assert_eq!(wait(&AtomicU32::new(1), 0, None), Woken::Value);
    }

    #[test]
    fn a_deadline_is_kept() {
        let start = monotonic_now();
        let until = start.after_ns(20_000_000);
        while wait(&AtomicU32::new(0), 0, Some(until)) != Woken::Timeout {}
        assert!(monotonic_now() >= until);
        assert_eq!(wait(&AtomicU32::new(0), 0, Some(Monotonic(0))), Woken::Timeout);
    }

    #[test]
    fn a_wake_is_heard() {
        let word = AtomicU32::new(0);
        std::thread::scope(|s| {
            s.spawn(|| {
                word.store(1, SeqCst);
                wake_all(&word);
            });
            while word.load(SeqCst) == 0 {
                wait(&word, 0, None);
            }
        });
    }
}
