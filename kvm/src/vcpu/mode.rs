//! Whether a vCPU is in guest mode, and waiting until it has been out of it.
//!
//! A requester posts (request, then kick) and then waits here. The vCPU enters by setting IN_GUEST and only then looking at the
//! kick word: so either the requester sees it in guest mode and waits for it to leave, or the vCPU sees the kick and does
//! not enter. Every leave changes the epoch, and only outside of guest mode is the kick taken back: so a vCPU that came back
//! through its requests is not waited for, neither since the waiting began nor since the kick.

use ring3_host::futex;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const IN_GUEST: u32 = 1;
/// Somebody sleeps on the word.
const WAITED: u32 = 2;
const EPOCH: u32 = 4;
const FLAGS: u32 = EPOCH - 1;

/// Looks before sleeping: a vCPU leaves within a block or two.
const SPINS: u32 = 200;

#[derive(Debug, Default)]
pub(super) struct Mode(AtomicU32);

impl Mode {
    pub fn in_guest(&self) -> bool {
        self.0.load(SeqCst) & IN_GUEST != 0
    }

    /// By the vCPU's thread; it must look at its kick word after this.
    pub fn enter(&self) {
        self.0.fetch_or(IN_GUEST, SeqCst);
    }

    /// By the vCPU's thread.
    pub fn leave(&self) {
        let next = (self.0.load(SeqCst) & !FLAGS).wrapping_add(EPOCH);
        if self.0.swap(next, SeqCst) & WAITED != 0 {
            futex::wake_all(&self.0);
        }
    }

    /// Returns when the vCPU is out of guest mode, or has been since it was kicked, which it still is if `kicked` says so.
    pub fn wait_left(&self, kicked: impl Fn() -> bool) {
        let first = self.0.load(SeqCst);
        let inside = |now: u32| now & IN_GUEST != 0 && now & !FLAGS == first & !FLAGS && kicked();
        for _ in 0..SPINS {
            if !inside(self.0.load(SeqCst)) {
                return;
            }
            std::hint::spin_loop();
        }
        loop {
            let now = self.0.load(SeqCst);
            if !inside(now) {
                return;
            }
            if now & WAITED != 0 || self.0.compare_exchange(now, now | WAITED, SeqCst, SeqCst).is_ok() {
                futex::wait(&self.0, now | WAITED, None);
            }
        }
    }
}
