//! The runs: one after the other, never two at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ring3_guest::guest::patience;
use ring3_guest::initramfs::WORKLOADS;
use ring3_guest::machine::KernelLog;
use ring3_guest::{Accel, Assets, Guest, Machine, Process, places};
use serde::{Deserialize, Serialize};

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

/// Two runs of ring3 that differ only in the sh-loop.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Count {
    pub boot: Stats,
    pub boot_and_sh_loop: Stats,
}

impl Count {
    /// What sh-loop took: what the second run took more than the first.
    pub fn sh_loop(&self) -> Option<Stats> {
        let more = |of: fn(&Stats) -> u64| {
            of(&self.boot_and_sh_loop)
                .checked_sub(of(&self.boot))
                .filter(|more| *more > 0)
        };
        Some(Stats {
            guest_instructions: more(|stats| stats.guest_instructions)?,
            guest_ns: more(|stats| stats.guest_ns)?,
        })
    }
}

/// What ring3 writes to the file that `RING3_STATS` names: what was executed, and the time spent in guest mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub guest_instructions: u64,
    pub guest_ns: u64,
}

/// All rounds of all peers, then the instruction counts.
pub fn all(options: &Options, assets: &Assets) -> Result<Results> {
    let mut results = Results::default();
    let mut alive = options.peers.clone();
    for round in 1..=options.runs {
        for peer in alive.clone() {
            eprintln!("bench: round {round} of {}: {}", options.runs, peer.name());
            let outcome = match peer {
                Peer::Native => native(assets),
                Peer::Tcg => guest(Accel::Tcg, assets),
                Peer::Ring3 => guest(Accel::Ring3, assets),
            };
            match outcome {
                Ok(times) => {
                    for (workload, time) in times {
                        results
                            .seconds
                            .entry((workload, peer))
                            .or_default()
                            .push(time.as_secs_f64());
                    }
                }
                Err(error) => {
                    eprintln!("bench: {} failed: {error:#}", peer.name());
                    let reason = format!("{error:#}");
                    let first = reason.lines().next().unwrap_or_default();
                    results
                        .failures
                        .push(format!("{}, round {round}: {first}", peer.name()));
                    alive.retain(|other| *other != peer);
                }
            }
        }
    }
    if alive.contains(&Peer::Ring3) {
        for round in 1..=options.counts {
            eprintln!(
                "bench: counting guest instructions, {round} of {}",
                options.counts
            );
            results.counts.push(Count {
                boot: counted(assets, "")?,
                boot_and_sh_loop: counted(assets, "sh-loop")?,
            });
        }
    }
    Ok(results)
}

type Times = Vec<(&'static str, Duration)>;

/// The shell workloads on the host, with the busybox that the guest has.
fn native(assets: &Assets) -> Result<Times> {
    let dir = places::target().join("bench");
    std::fs::create_dir_all(&dir)?;
    let mut times = Vec::new();
    for (name, script) in WORKLOADS {
        let file = dir.join(format!("{name}.sh"));
        std::fs::write(&file, script)?;
        let mut command = Command::new(&assets.busybox);
        command.arg("sh").arg(&file).env("BUSYBOX", &assets.busybox);
        let start = Instant::now();
        let status = command.status().context("starting busybox")?;
        times.push((name, start.elapsed()));
        if !status.success() {
            bail!("{name} ended with {status}");
        }
    }
    Ok(times)
}

fn machine(accel: Accel, tests: &str) -> Machine {
    let mut machine = Machine::new(accel);
    machine.kernel_log = KernelLog::Shown;
    if !tests.is_empty() {
        machine = machine.word("test", tests);
    }
    machine.word("then", "poweroff")
}

/// One guest: the boot, then every shell workload in it.
fn guest(accel: Accel, assets: &Assets) -> Result<Times> {
    let names = WORKLOADS.map(|(name, _)| name);
    let mut guest = Guest::start(&machine(accel, &names.join(",")), assets)?;
    let booted = guest.process.expect("guest: init", patience(300))?;
    let mut times = vec![("boot", booted.at - guest.process.started)];
    for name in names {
        let start = guest
            .process
            .expect(&format!("guest: start {name}"), patience(120))?;
        let end = guest
            .process
            .expect(&format!("guest: end {name}"), patience(300))?;
        guest.passed(name, patience(10))?;
        times.push((name, end.at - start.at));
    }
    guest.powered_off()?;
    Ok(times)
}

/// One more run of ring3, which writes its account.
fn counted(assets: &Assets, tests: &str) -> Result<Stats> {
    let dir = places::target().join("bench");
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("stats.json");
    let _ = std::fs::remove_file(&file);
    let mut command = machine(Accel::Ring3, tests).command(assets)?;
    command.env("RING3_STATS", &file);
    let mut guest = Guest {
        process: Process::start(command)?,
    };
    guest.process.expect("guest: poweroff", patience(600))?;
    guest.process.wait_success(patience(60))?;
    read_stats(&file)
}

fn read_stats(file: &Path) -> Result<Stats> {
    let text = std::fs::read_to_string(file).context("ring3 wrote no account")?;
    serde_json::from_str(&text).context("reading what RING3_STATS wrote")
}

#[cfg(test)]
mod tests {
    use super::{Count, Stats};

    #[test]
    fn the_loop_is_the_difference() {
        let stats = |guest_instructions, guest_ns| Stats {
            guest_instructions,
            guest_ns,
        };
        let count = |boot_and_sh_loop| Count {
            boot: stats(10, 5),
            boot_and_sh_loop,
        };
        assert_eq!(count(stats(35, 9)).sh_loop(), Some(stats(25, 4)));
        assert_eq!(count(stats(9, 9)).sh_loop(), None);
        assert_eq!(count(stats(35, 5)).sh_loop(), None);
    }
}
