//! Random programs with a kernel of their own, on the interpreter and on the translator in lockstep: the same registers at every
//! place where the translator stops, the same memory now and then and at the end.
//!
//! RING3_SEED repeats a run, RING3_CASES says how many programs it has.

use fastrand::Rng;
use ring3_tests::bare::snapshot::memory_differences;
use ring3_tests::bare::world::BareWorld;
use ring3_tests::lockstep::follow::Forgives;
use ring3_tests::lockstep::kernel::{self, cpu};
use ring3_tests::lockstep::program::Program;
use ring3_tests::lockstep::{Lockstep, Metronome, Pace, Stage};
use ring3_tests::oracle::Mode;
use ring3_tests::oracle::campaign::{cases, seed};
use ring3_tests::oracle::program::forms;
use ring3_x86_cpu::Leave;
use std::collections::BTreeMap;
use std::time::Duration;

const LONGEST: usize = 24;
/// Instructions that a program may take.
const ENOUGH: u64 = 40_000;
/// Boundaries at most: a loop that changes nothing is left at its first round by the follower, and never ends.
const MOST: u64 = 3_000;
/// Instructions between two boundaries at most; a loop that never ends is left after some microseconds.
const FARTHEST: u64 = 50_000_000;

/// How a difference in page tables is told.
const ENTRIES: &str = "the byte at 0x10";

/// Runs it to its end, or until it has had enough; says how it ended, or what was not alike.
fn run(
    pair: &mut Lockstep<BareWorld>,
    metronome: &Metronome,
    rng: &mut Rng,
    looks: u8,
) -> Result<Stage, String> {
    loop {
        let pace = if rng.bool() { Pace::Short } else { Pace::Long };
        let mut stage = pair.advance(pace, metronome.word())?;
        if stage != Stage::Boundary || rng.u8(..) <= looks {
            let mut told = differences(pair);
            for _ in 0..3 {
                let accessed = told.iter().all(|told| told.starts_with(ENTRIES));
                if stage != Stage::Boundary || told.is_empty() || !accessed {
                    break;
                }
                // The leader may have fetched what it did not execute: the page's entry says that it was accessed.
                stage = pair.advance(Pace::Short, metronome.word())?;
                told = differences(pair);
            }
            if stage == Stage::Boundary
                && !told.is_empty()
                && pair.search_on(|mine, theirs| mine.contents() == theirs.contents())
            {
                told.clear();
            }
            if !told.is_empty() {
                return Err(told.join("; "));
            }
        }
        if stage != Stage::Boundary || pair.instructions() > ENOUGH || pair.boundaries > MOST {
            return Ok(stage);
        }
    }
}

fn differences(pair: &Lockstep<BareWorld>) -> Vec<String> {
    memory_differences(&pair.leaders_world.contents(), &pair.follower.world.contents())
}

#[test]
fn kernels_end_alike() {
    let seed = seed();
    println!("lockstep with kernels: RING3_SEED={seed:#x}");
    let forms = forms(Mode::Long);
    let metronome = Metronome::new(Duration::from_micros(500));
    let count = cases(300);
    // Of 256 boundaries, those where memory is looked at; one alone is looked at closely.
    let looks = if count == 1 { 255 } else { 8 };
    let (mut failures, mut told) = (0, String::new());
    let (mut instructions, mut boundaries, mut forgiven) = (0, 0, 0);
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for case in 0..count as u64 {
        // Each has its own sequence, so that it can be tried alone.
        let mut rng = Rng::with_seed(seed.wrapping_add(case));
        let (_, entries) = kernel::world();
        let Some(program) = Program::random(&mut rng, &forms, &entries, LONGEST) else {
            continue;
        };
        let data = rng.u64(..);
        let made = Lockstep::new(|| {
            let (mut world, _) = kernel::world();
            program.write(&mut world, &mut Rng::with_seed(data));
            (cpu(), world)
        });
        let Some(mut pair) = made else {
            return println!("skipped: the translator, which needs more of the host");
        };
        (pair.follower.forgives, pair.follower.farthest) = (Forgives::Flags, FARTHEST);
        let end = run(&mut pair, &metronome, &mut rng, looks);
        instructions += pair.instructions();
        boundaries += pair.boundaries;
        forgiven += pair.follower.forgiven;
        let name = match &end {
            Ok(stage) => format!("{stage:?}"),
            Err(_) => "difference".to_string(),
        };
        *ends.entry(name).or_default() += 1;
        if let Err(difference) = end {
            failures += 1;
            if failures <= 3 {
                told += &format!(
                    "program {:#x}, at {:#x} after {} instructions: {difference}\n    {}\n",
                    seed.wrapping_add(case),
                    pair.leader.core.state.rip,
                    pair.instructions(),
                    program.listing().join("\n    ")
                );
            }
        }
    }
    println!(
        "lockstep with kernels: {instructions} instructions, {boundaries} boundaries, {forgiven} forgiven, {ends:?}"
    );
    assert_eq!(failures, 0, "RING3_CASES=1 RING3_SEED=... repeats one\n{told}");
    let halted = ends.get(&format!("{:?}", Stage::Left(Leave::Halted)));
    assert!(
        halted.copied().unwrap_or(0) * 2 > count,
        "too few programs came to their end: {ends:?}"
    );
}
