//! PAUSE: a guest that waits for another of its processors gives way to it, as by the pause-loop exits of a hardware KVM.

use crate::op::Op;
use crate::{Core, Step, World};
use ring3_host::time::host_tsc;

/// Ticks between two PAUSEs of one loop, at most.
const GAP: u64 = 10_000;

/// PAUSEs of one loop before the host's processor is given away.
const WINDOW: u32 = 64;

/// A loop of PAUSEs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spin {
    /// When the last one was executed.
    last: u64,
    count: u32,
}

impl Spin {
    /// Counts a PAUSE at `now`. True if the loop has gone on for long enough.
    fn again(&mut self, now: u64) -> bool {
        let same = now.wrapping_sub(self.last) <= GAP;
        self.last = now;
        self.count = if same { self.count + 1 } else { 0 };
        if self.count < WINDOW {
            return false;
        }
        self.count = 0;
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

    #[test]
    fn a_loop_gives_way_again_and_again_and_a_lone_pause_does_not() {
        let mut spin = Spin::default();
        let yields = |spin: &mut Spin, gap: u64| {
            (0..1000 * gap)
                .step_by(gap as usize)
                .filter(|now| spin.again(1 << 32 | *now))
                .count()
        };
        assert_eq!(yields(&mut spin, 100), 1000 / (WINDOW as usize));
        assert_eq!(yields(&mut Spin::default(), GAP + 1), 0);
    }
}
