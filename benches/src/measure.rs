//! The rounds: one run after the other, never two at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use ring3_guest::Assets;

use crate::counts::{self, Count};
use crate::guest::{self, Errand, Task};
use crate::programs::Programs;
use crate::smp::{self, Pair};
use crate::workloads::{Kind, Workload, chosen};
use crate::{Options, Peer, exits, native};

/// Everything that was measured.
#[derive(Default)]
pub struct Results {
    /// The figure of each round in the workload's unit, by workload and peer.
    pub figures: BTreeMap<(&'static str, Peer), Vec<f64>>,
    /// What the figures of smp are made of, by program and peer.
    pub pairs: BTreeMap<(&'static str, Peer), Vec<Pair>>,
    pub counts: Vec<Count>,
    /// Runs that did not end well: peer and why.
    pub failures: Vec<String>,
}

/// The figure of one run of a workload, or why it does not count.
pub type Outcome = Result<f64, String>;

/// A part of each round. Peers alternate within it, so that what is compared was measured at about the same time.
enum Stage<'a> {
    /// Workloads one by one on one processor, and whether the boot counts.
    OneByOne(Errand<'a>, Boot),
    Smp(Errand<'a>),
    Exit(&'static Workload),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Boot {
    Counts,
    DoesNot,
}

/// All rounds of all peers, then the instruction counts.
pub fn all(options: &Options, assets: &Assets, qemu: &Path) -> Result<Results> {
    let workloads = chosen(&options.workloads)?;
    eprintln!("bench: building the programs");
    let programs = Programs::build(assets, qemu)?;
    let stages = stages(&programs, &workloads, options.percent)?;
    let mut results = Results::default();
    let mut broken = BTreeSet::new();
    for round in 1..=options.runs {
        for (index, stage) in stages.iter().enumerate() {
            for peer in &options.peers {
                if broken.contains(&(index, *peer)) || !stage.suits(*peer) {
                    continue;
                }
                eprintln!(
                    "bench: round {round} of {}: {}: {}",
                    options.runs,
                    stage.name(),
                    peer.name()
                );
                // What broke once would only take its time again.
                if let Err(error) = results.run(round, stage, *peer, options.percent) {
                    results.fail(round, *peer, &format!("{error:#}"));
                    broken.insert((index, *peer));
                }
            }
        }
    }
    let counted = workloads.iter().any(|workload| workload.name == "sh-loop");
    if counted && options.peers.contains(&Peer::Ring3) && !broken.contains(&(0, Peer::Ring3)) {
        for number in 1..=options.counts {
            eprintln!(
                "bench: counting guest instructions, {number} of {}",
                options.counts
            );
            results.counts.push(counts::pair(&programs)?);
        }
    }
    Ok(results)
}

fn stages<'a>(
    programs: &'a Programs,
    workloads: &[&'static Workload],
    percent: u32,
) -> Result<Vec<Stage<'a>>> {
    let mut stages = Vec::new();
    let inside = workloads.iter().filter(|workload| workload.runs_inside());
    let tasks: Vec<Task> = inside.map(|workload| Task { workload, copies: 1 }).collect();
    let boot = if workloads.iter().any(|workload| workload.kind == Kind::Boot) {
        Boot::Counts
    } else {
        Boot::DoesNot
    };
    if !tasks.is_empty() || boot == Boot::Counts {
        stages.push(Stage::OneByOne(errand(programs, tasks, 1, percent)?, boot));
    }
    if workloads.iter().any(|workload| workload.kind == Kind::Smp) {
        let percent = (percent * smp::PERCENT / 100).max(1);
        stages.push(Stage::Smp(errand(programs, smp::tasks(), smp::CPUS, percent)?));
    }
    let exits = workloads.iter().filter(|workload| workload.kind == Kind::Exit);
    stages.extend(exits.map(|workload| Stage::Exit(workload)));
    Ok(stages)
}

/// An errand, with the checksums that the host finds.
fn errand(programs: &Programs, tasks: Vec<Task>, cpus: u32, percent: u32) -> Result<Errand<'_>> {
    eprintln!("bench: what the programs must find");
    let mut expected = BTreeMap::new();
    for task in &tasks {
        let name = task.workload.name;
        if matches!(task.workload.kind, Kind::Program(_)) && !expected.contains_key(name) {
            expected.insert(name, programs.run(name, percent, 1)?.checksum);
        }
    }
    Ok(Errand {
        programs,
        tasks,
        cpus,
        percent,
        expected,
    })
}

impl Stage<'_> {
    /// Whether a peer can be asked: only a KVM has VM exits that a client sees.
    fn suits(&self, peer: Peer) -> bool {
        match self {
            Self::OneByOne(..) | Self::Smp(_) => true,
            Self::Exit(_) => matches!(peer, Peer::Ring3 | Peer::Kvm),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::OneByOne(..) => "one by one",
            Self::Smp(_) => "two processors",
            Self::Exit(workload) => workload.name,
        }
    }
}

impl Results {
    /// One peer's part of a stage.
    fn run(&mut self, round: usize, stage: &Stage, peer: Peer, percent: u32) -> Result<()> {
        match stage {
            Stage::OneByOne(errand, boot) => {
                let booted = perform(peer, errand, |task, outcome| {
                    self.take(round, task.workload.name, peer, outcome)
                })?;
                if let (Some(seconds), Boot::Counts) = (booted, boot) {
                    self.take(round, "boot", peer, Ok(seconds));
                }
            }
            Stage::Smp(errand) => {
                let mut pairs = smp::Round::default();
                perform(peer, errand, |task, outcome| match outcome {
                    Ok(seconds) => pairs.take(task, seconds),
                    Err(reason) => self.fail(round, peer, &format!("two processors: {reason}")),
                })?;
                self.take_pairs(round, peer, &pairs);
            }
            Stage::Exit(workload) => {
                let nanoseconds = exits::one(peer, workload.name, percent)?;
                self.take(round, workload.name, peer, Ok(nanoseconds));
            }
        }
        Ok(())
    }

    fn take(&mut self, round: usize, workload: &'static str, peer: Peer, outcome: Outcome) {
        match outcome {
            Ok(figure) => self.figures.entry((workload, peer)).or_default().push(figure),
            Err(reason) => self.fail(round, peer, &reason),
        }
    }

    fn take_pairs(&mut self, round: usize, peer: Peer, pairs: &smp::Round) {
        let Some(pairs) = pairs.pairs() else { return };
        if let Some(work) = smp::work(&pairs) {
            self.take(round, "smp", peer, Ok(work));
        }
        for (program, pair) in pairs {
            self.pairs.entry((program, peer)).or_default().push(pair);
        }
    }

    fn fail(&mut self, round: usize, peer: Peer, reason: &str) {
        eprintln!("bench: {} failed: {reason}", peer.name());
        let first = reason.lines().next().unwrap_or_default();
        self.failures
            .push(format!("{}, round {round}: {first}", peer.name()));
    }
}

/// An errand on a peer, whatever that is; how many seconds it took to boot, if it had to.
fn perform(peer: Peer, errand: &Errand, done: impl FnMut(Task, Outcome)) -> Result<Option<f64>> {
    match peer.accel() {
        None => native::run(errand, done).map(|()| None),
        Some(accel) => guest::run(accel, errand, done).map(|booted| Some(booted.as_secs_f64())),
    }
}
