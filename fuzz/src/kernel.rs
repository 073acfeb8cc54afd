//! Code at level 0, on interpreter and translator in lockstep, in the little kernel of the lockstep tests.

use crate::Verdict;
use fastrand::Rng;
use ring3_tests::bare::places::Words;
use ring3_tests::bare::snapshot::memory_differences;
use ring3_tests::bare::world::BareWorld;
use ring3_tests::lockstep::follow::{Forgives, are_images};
use ring3_tests::lockstep::kernel::{CODE, DATA, DATA_FRAMES, DATA_PAGES, LANDING, cpu, plant, world};
use ring3_tests::lockstep::{Lockstep, Metronome, Pace, Stage};
use ring3_x86_jit::Jit;
use std::time::Duration;

/// Instructions that an input may take, and that lie between two boundaries at most.
const ENOUGH: u64 = 5_000;
const FARTHEST: u64 = 50_000_000;
/// Boundaries at most: a loop that changes nothing is left at its first round by the follower, and never ends.
const MOST: u64 = 300;

pub struct Kernel {
    metronome: Metronome,
}

impl Kernel {
    /// `None` where there is no translator.
    pub fn new() -> Option<Kernel> {
        Jit::eager()?;
        Some(Kernel {
            metronome: Metronome::new(Duration::from_micros(100)),
        })
    }

    pub fn run(&mut self, code: &[u8], state: u64) -> Verdict {
        let made = Lockstep::new(|| {
            let (mut world, _) = world();
            let mut rng = Rng::with_seed(state);
            for at in (DATA_FRAMES..DATA_FRAMES + DATA_PAGES * 4096).step_by(8) {
                world.put(at, ring3_tests::oracle::values::integer(&mut rng));
            }
            plant(&mut world, code);
            // Behind the code is a HLT, which is also where faults without a place lead.
            world.put(LANDING, CODE + code.len() as u64);
            let mut cpu = cpu();
            let gpr = &mut cpu.core.state.gpr;
            for (n, register) in gpr[..16].iter_mut().enumerate().filter(|(n, _)| *n != 4) {
                *register = match n {
                    3 | 6 | 7 | 13 => DATA + rng.u64(..DATA_PAGES) * 4096 + rng.u64(..4096),
                    _ => ring3_tests::oracle::values::integer(&mut rng),
                };
            }
            (cpu, world)
        });
        let Some(mut pair) = made else {
            return Verdict::Open;
        };
        (pair.follower.forgives, pair.follower.farthest) = (Forgives::Images, FARTHEST);
        let mut rng = Rng::with_seed(state);
        match self.compare(&mut pair, &mut rng) {
            Ok(()) => Verdict::Alike,
            // What is undefined may have gone anywhere.
            Err(_) if pair.follower.forgiven > 0 || pair.follower.saw_undefined => Verdict::Open,
            Err(told) => Verdict::Different(told),
        }
    }

    fn compare(&self, pair: &mut Lockstep<BareWorld>, rng: &mut Rng) -> Result<(), String> {
        loop {
            let pace = if rng.bool() { Pace::Short } else { Pace::Long };
            let stage = pair.advance(pace, self.metronome.word())?;
            if stage != Stage::Boundary {
                let (mine, theirs) = (pair.leaders_world.contents(), pair.follower.world.contents());
                let words = mine.chunks_exact(8).zip(theirs.chunks_exact(8));
                let word = |bytes: &[u8]| {
                    bytes
                        .iter()
                        .rev()
                        .fold(0, |word, byte| word << 8 | u64::from(*byte))
                };
                let alike =
                    |mine: &[u8], theirs: &[u8]| mine == theirs || are_images(word(mine), word(theirs));
                if !words.into_iter().all(|(mine, theirs)| alike(mine, theirs)) {
                    return Err(memory_differences(&mine, &theirs).join("; "));
                }
                return Ok(());
            }
            if pair.instructions() > ENOUGH || pair.boundaries > MOST {
                return Ok(());
            }
        }
    }
}
