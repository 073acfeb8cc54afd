//! PAUSE: a guest that waits for another of its processors gives way to it, as by the pause-loop exits of a hardware KVM.

use crate::op::Op;
use crate::{Core, Step, World};
use ring3_host::time::host_tsc;

/// Ticks between two PAUSEs of one loop, at most.
const GAP: u64 = 10_000;

/// Ticks of one loop before the host's processor is given away: as long as a word from one running processor to another
/// may take, and little beside what a turn of the host's scheduler lasts.
const WINDOW: u64 = 300_000;

/// A loop of PAUSEs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spin {
    since: u64,
    last: u64,
}

impl Spin {
    /// Notes a PAUSE at `now`. True if the loop has gone on for long enough.
    fn again(&mut self, now: u64) -> bool {
        if now.wrapping_sub(self.last) > GAP {
            self.since = now;
        }
        self.last = now;
        if now.wrapping_sub(self.since) < WINDOW {
            return false;
        }
        self.since = now;
        true
    }
}

pub fn pause(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    if core.spin.again(host_tsc()) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a loop gives way in which PAUSEs are so many ticks apart.
    fn yields(gap: u64) -> usize {
        let mut spin = Spin::default();
        let pauses = (0..10_000u64).map(|n| (1 << 40) + n * gap);
        pauses.filter(|now| spin.again(*now)).count()
    }

    #[test]
    fn a_loop_gives_way_once_in_a_while_and_a_lone_pause_never() {
        assert_eq!(yields(100), 10_000 * 100 / WINDOW as usize);
        assert_eq!(yields(GAP + 1), 0);
    }
}
