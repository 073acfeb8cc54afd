//! Ticks that the guest has not taken yet.
//!
//! A guest that counts ticks to keep time must not lose any. In reinject mode a tick that comes before the last one was
//! acknowledged waits, and every acknowledgement lets the next one through.

use super::Tick;

/// What becomes of ticks the guest is too slow for (KVM_REINJECT_CONTROL).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReinjectMode {
    Discard,
    #[default]
    Reinject,
}

#[derive(Clone, Debug)]
pub(super) struct Reinject {
    mode: ReinjectMode,
    /// Ticks not yet acknowledged, the one in flight included.
    pending: u64,
    acknowledged: bool,
}

impl Default for Reinject {
    fn default() -> Self {
        Reinject {
            mode: ReinjectMode::default(),
            pending: 0,
            acknowledged: true,
        }
    }
}

impl Reinject {
    pub(super) fn mode(&self) -> ReinjectMode {
        self.mode
    }

    pub(super) fn set_mode(&mut self, mode: ReinjectMode) {
        if mode == ReinjectMode::Reinject && self.mode != mode {
            self.reset();
        }
        self.mode = mode;
    }

    pub(super) fn reset(&mut self) {
        self.pending = 0;
        self.acknowledged = true;
    }

    pub(super) fn unmasked(&mut self) {
        if self.mode == ReinjectMode::Reinject {
            self.reset();
        }
    }

    pub(super) fn ticks(&mut self, count: u64) -> Tick {
        if self.mode == ReinjectMode::Discard {
            return Tick::Pulse;
        }
        self.pending = self.pending.saturating_add(count);
        self.inject()
    }

    pub(super) fn acknowledged(&mut self) -> Tick {
        if self.mode == ReinjectMode::Discard {
            return Tick::None;
        }
        self.acknowledged = true;
        self.pending = self.pending.saturating_sub(1);
        if self.pending == 0 {
            Tick::None
        } else {
            self.inject()
        }
    }

    fn inject(&mut self) -> Tick {
        if std::mem::take(&mut self.acknowledged) {
            Tick::Pulse
        } else {
            Tick::None
        }
    }
}
