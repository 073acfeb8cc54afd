//! A signal's action, where handlers can read it.

use crate::sys::{KernelAction, SigSet};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};

/// One action: written by one at a time, read by anybody, handlers of signals included.
#[derive(Debug)]
pub struct ActionCell {
    /// Odd while it is being written.
    version: AtomicU32,
    words: [AtomicU64; 4],
}

impl ActionCell {
    /// The default action.
    pub const fn new() -> ActionCell {
        ActionCell {
            version: AtomicU32::new(0),
            words: [const { AtomicU64::new(0) }; 4],
        }
    }

    /// Replaces it. The caller sees to it that nobody else does meanwhile.
    pub fn write(&self, action: &KernelAction) {
        let version = self.version.load(Relaxed) & !1;
        self.version.store(version + 1, Relaxed);
        fence(Release);
        let words = [action.handler, action.flags, action.restorer, action.mask.0];
        self.words
            .iter()
            .zip(words)
            .for_each(|(to, word)| to.store(word, Relaxed));
        self.version.store(version.wrapping_add(2), Release);
    }

    /// What it is, whole.
    pub fn read(&self) -> KernelAction {
        // In the child of a fork the writer may be a thread that is not there: whatever is found has to do.
        for _ in 0..1_000_000 {
            let before = self.version.load(Acquire);
            let action = self.words();
            fence(Acquire);
            if before & 1 == 0 && self.version.load(Relaxed) == before {
                return action;
            }
            std::hint::spin_loop();
        }
        self.words()
    }

    /// What it is, for who keeps it from being written.
    pub fn words(&self) -> KernelAction {
        let word = |i: usize| self.words[i].load(Relaxed);
        KernelAction {
            handler: word(0),
            flags: word(1),
            restorer: word(2),
            mask: SigSet(word(3)),
        }
    }
}

impl Default for ActionCell {
    fn default() -> ActionCell {
        ActionCell::new()
    }
}
