//! The runs: one after the other, never two at once.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ring3_guest::{Accel, Assets};

use crate::counts::{self, Count};
use crate::guest::{self, Plan};
use crate::programs::Programs;
use crate::workloads::{Kind, Workload, chosen};
use crate::{Options, Peer};

/// Everything that was measured.
#[derive(Default)]
pub struct Results {
    /// Seconds of each round, by workload and peer.
    pub seconds: BTreeMap<(&'static str, Peer), Vec<f64>>,
    pub counts: Vec<Count>,
    /// Runs that did not end well: peer and why.
    pub failures: Vec<String>,
}

/// The time of one run of a workload, or why it does not count.
pub type Outcome = Result<Duration, String>;

/// What one peer did in one round.
pub type Round = Vec<(&'static str, Outcome)>;

impl Results {
    fn take(&mut self, number: usize, peer: Peer, round: Round) {
        for (workload, outcome) in round {
            match outcome {
                Ok(time) => {
                    let times = self.seconds.entry((workload, peer)).or_default();
                    times.push(time.as_secs_f64());
                }
                Err(reason) => self.fail(number, peer, &reason),
            }
        }
    }

    fn fail(&mut self, number: usize, peer: Peer, reason: &str) {
        eprintln!("bench: {} failed: {reason}", peer.name());
        let first = reason.lines().next().unwrap_or_default();
        self.failures
            .push(format!("{}, round {number}: {first}", peer.name()));
    }
}

/// All rounds of all peers, then the instruction counts.
pub fn all(options: &Options, assets: &Assets) -> Result<Results> {
    let workloads = chosen(&options.workloads)?;
    eprintln!("bench: building the programs");
    let programs = Programs::build(assets)?;
    let expected = expected(&programs, &workloads, options.percent)?;
    let plan = Plan {
        programs: &programs,
        workloads: &workloads,
        percent: options.percent,
        expected: &expected,
    };
    let mut results = Results::default();
    let mut alive = options.peers.clone();
    for number in 1..=options.runs {
        for peer in alive.clone() {
            eprintln!("bench: round {number} of {}: {}", options.runs, peer.name());
            let round = match peer {
                Peer::Native => native(&plan),
                Peer::Tcg => guest::round(Accel::Tcg, &plan),
                Peer::Ring3 => guest::round(Accel::Ring3, &plan),
            };
            match round {
                Ok(round) => results.take(number, peer, round),
                Err(error) => {
                    results.fail(number, peer, &format!("{error:#}"));
                    alive.retain(|other| *other != peer);
                }
            }
        }
    }
    if alive.contains(&Peer::Ring3) && workloads.iter().any(|workload| workload.name == "sh-loop") {
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

/// The checksums that the host finds. Whoever finds another one did not do the work.
fn expected(
    programs: &Programs,
    workloads: &[&'static Workload],
    percent: u32,
) -> Result<BTreeMap<&'static str, u64>> {
    eprintln!("bench: what the programs must find");
    let mut expected = BTreeMap::new();
    for workload in workloads {
        if let Kind::Program(_) = workload.kind {
            expected.insert(workload.name, programs.run(workload.name, percent, 1)?.checksum);
        }
    }
    Ok(expected)
}

/// The workloads on the host: the guest's busybox, and the guest's programs.
fn native(plan: &Plan) -> Result<Round> {
    let mut round = Vec::new();
    for workload in plan.workloads {
        let name = workload.name;
        let outcome = match workload.kind {
            Kind::Boot => continue,
            Kind::Script(_) => native_script(plan, name)?,
            Kind::Program(_) => match plan.programs.run(name, plan.percent, 1) {
                Ok(said) if plan.expected.get(name) == Some(&said.checksum) => Ok(said.time),
                Ok(said) => Err(format!("{name} found the wrong checksum {:016x}", said.checksum)),
                Err(error) => Err(format!("{error:#}")),
            },
        };
        round.push((name, outcome));
    }
    Ok(round)
}

fn native_script(plan: &Plan, name: &str) -> Result<Outcome> {
    let busybox = &plan.programs.assets.busybox;
    let mut command = Command::new(busybox);
    command
        .arg("sh")
        .arg(plan.programs.script(name))
        .env("BUSYBOX", busybox);
    let start = Instant::now();
    let status = command.status().context("starting busybox")?;
    let time = start.elapsed();
    Ok(if status.success() {
        Ok(time)
    } else {
        Err(format!("{name} ended with {status}"))
    })
}
