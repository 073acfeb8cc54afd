//! The kick word: the one thing an engine looks at while it runs guest code.
//!
//! Nonzero means "leave guest mode at the next boundary". Posting order is always: first what is to be seen (a request
//! bit, a pending interrupt), then the kick; taking order the reverse, so nothing posted is ever missed. A vCPU that
//! sleeps does so on the same word.

use bitflags::bitflags;
use ring3_host::futex::{self, Woken};
use ring3_host::time::Monotonic;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

bitflags! {
    /// Why a vCPU should leave guest mode.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct KickBits: u32 {
        /// A signal handler ran on the thread: KVM_RUN returns EINTR. Stays until KVM_RUN returns.
        const SIGNAL = 1 << 0;
        /// There are requests or page notices.
        const REQUEST = 1 << 1;
        /// An event may be pending (an interrupt, a timer).
        const EVENT = 1 << 2;
        /// A halted vCPU should look around.
        const UNHALT = 1 << 3;
    }
}

/// A kick word.
#[derive(Debug, Default)]
pub struct Kick {
    word: AtomicU32,
    /// Not zero while the vCPU sleeps on the word, or is about to.
    asleep: AtomicU32,
}

impl Kick {
    /// The word, for the engine to poll and for signal handlers to set.
    #[inline(always)]
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// Whether the vCPU should leave guest mode.
    #[inline(always)]
    pub fn pending(&self) -> bool {
        self.word.load(SeqCst) != 0
    }

    pub fn contains(&self, bits: KickBits) -> bool {
        self.word.load(SeqCst) & bits.bits() == bits.bits()
    }

    /// Kicks the vCPU, from any thread.
    pub fn post(&self, bits: KickBits) {
        self.word.fetch_or(bits.bits(), SeqCst);
        // A sleeper sets `asleep` before it looks at the word for the last time: one of the two sees the other.
        if self.asleep.load(SeqCst) != 0 {
            futex::wake_all(&self.word);
        }
    }

    /// What was posted, clearing all but SIGNAL. By the vCPU's own thread.
    pub fn take(&self) -> KickBits {
        KickBits::from_bits_retain(self.word.fetch_and(KickBits::SIGNAL.bits(), SeqCst))
    }

    /// Forgets a signal of an earlier KVM_RUN.
    pub fn clear_signal(&self) {
        self.word.fetch_and(!KickBits::SIGNAL.bits(), SeqCst);
    }

    /// Sleeps until something is posted, or `deadline`. Returns whether it slept at all.
    pub fn sleep(&self, deadline: Option<Monotonic>) -> bool {
        self.asleep.store(1, SeqCst);
        let mut slept = false;
        // A signal handler that ran has set its bit, so a wait that was interrupted ends here too.
        while !self.pending() {
            slept = true;
            if futex::wait(&self.word, 0, deadline) == Woken::Timeout {
                break;
            }
        }
        self.asleep.store(0, SeqCst);
        slept
    }
}
