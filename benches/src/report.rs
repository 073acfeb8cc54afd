//! Medians, ratios, and the JSON made of them.

use std::process::Command;

use anyhow::Result;
use ring3_guest::places::Qemu;
use ring3_guest::{Assets, places};
use serde::Serialize;

use crate::Peer;
use crate::counts::{Count, Stats};
use crate::measure::Results;
use crate::smp::Pair;
use crate::targets::{self, Verdict};
use crate::workloads::{Class, Kind, Unit, WORKLOADS, Workload, of_kind};

/// All that is said about a run of the benchmarks.
#[derive(Serialize)]
pub struct Report {
    /// What was compared, versions included.
    pub compared: Vec<String>,
    pub rows: Vec<Row>,
    pub compute: Compute,
    pub targets: Vec<Verdict>,
    pub smp: Vec<Program>,
    pub counts: Vec<Count>,
    pub speed: Option<Speed>,
    pub failures: Vec<String>,
}

/// One workload.
#[derive(Serialize)]
pub struct Row {
    pub workload: &'static str,
    pub what: &'static str,
    pub unit: Unit,
    pub cells: Vec<Cell>,
}

/// One workload on one peer.
#[derive(Serialize)]
pub struct Cell {
    pub peer: Peer,
    pub figures: Vec<f64>,
    pub median: f64,
    /// Median over native's, where both are times.
    pub over_native: Option<f64>,
    pub over_tcg: Option<f64>,
}

/// Geometric means over the compute programs that both peers did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Compute {
    pub programs: usize,
    /// Whether these are all that there are.
    pub complete: bool,
    pub ring3_over_native: Option<f64>,
    pub tcg_over_native: Option<f64>,
    pub tcg_over_ring3: Option<f64>,
}

/// One program of smp on one peer.
#[derive(Serialize)]
pub struct Program {
    pub program: &'static str,
    pub peer: Peer,
    pub pairs: Vec<Pair>,
}

/// How fast ring3 is on sh-loop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Guest instructions of the loop: the median of the counts.
    pub instructions: f64,
    /// Millions of them per second on the clock: over the median time of the loop.
    pub on_the_clock: Option<f64>,
    /// Millions of them per second in guest mode: the median over the counts.
    pub in_guest_mode: f64,
}

impl Report {
    pub fn new(results: &Results, compared: Vec<String>) -> Self {
        let programs = results.pairs.iter().map(|((program, peer), pairs)| Program {
            program,
            peer: *peer,
            pairs: pairs.clone(),
        });
        let compute = compute(results);
        Self {
            compared,
            rows: WORKLOADS.iter().map(|workload| row(results, workload)).collect(),
            compute,
            targets: targets::judge(results, &compute),
            smp: programs.collect(),
            counts: results.counts.clone(),
            speed: speed(results),
            failures: results.failures.clone(),
        }
    }

    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }
}

impl Results {
    /// The middle figure of a workload on a peer.
    pub fn median(&self, workload: &'static str, peer: Peer) -> Option<f64> {
        median(self.figures.get(&(workload, peer))?)
    }

    /// The median of one peer over that of another.
    pub fn ratio(&self, workload: &'static str, peer: Peer, over: Peer) -> Option<f64> {
        Some(self.median(workload, peer)? / self.median(workload, over)?)
    }
}

fn row(results: &Results, workload: &Workload) -> Row {
    let name = workload.name;
    let ratio = |peer, over| {
        (workload.unit() == Unit::Seconds)
            .then(|| results.ratio(name, peer, over))
            .flatten()
    };
    let cells = Peer::ALL.into_iter().filter_map(|peer| {
        Some(Cell {
            peer,
            figures: results.figures.get(&(name, peer))?.clone(),
            median: results.median(name, peer)?,
            over_native: ratio(peer, Peer::Native),
            over_tcg: ratio(peer, Peer::Tcg),
        })
    });
    Row {
        workload: name,
        what: workload.what,
        unit: workload.unit(),
        cells: cells.collect(),
    }
}

fn compute(results: &Results) -> Compute {
    let programs: Vec<_> = of_kind(Kind::Program(Class::Compute)).collect();
    let ratios = |peer, over| -> Vec<f64> {
        let ratio = |program: &&Workload| results.ratio(program.name, peer, over);
        programs.iter().filter_map(ratio).collect()
    };
    let pairs = [
        ratios(Peer::Ring3, Peer::Native),
        ratios(Peer::Tcg, Peer::Native),
        ratios(Peer::Tcg, Peer::Ring3),
    ];
    let count = pairs.iter().map(Vec::len).max().unwrap_or(0);
    // A mean over fewer programs than its neighbours' is of something else.
    let [ring3_over_native, tcg_over_native, tcg_over_ring3] =
        pairs.map(|ratios| geomean(ratios.iter().copied()).filter(|_| ratios.len() == count));
    Compute {
        programs: count,
        complete: count == programs.len(),
        ring3_over_native,
        tcg_over_native,
        tcg_over_ring3,
    }
}

fn speed(results: &Results) -> Option<Speed> {
    let loops: Vec<_> = results.counts.iter().filter_map(Count::sh_loop).collect();
    let over = |of: fn(&Stats) -> f64| median(&loops.iter().map(of).collect::<Vec<_>>());
    let instructions = over(|stats| stats.guest_instructions as f64)?;
    let seconds = results.median("sh-loop", Peer::Ring3);
    Some(Speed {
        instructions,
        on_the_clock: seconds.map(|seconds| instructions / seconds / 1e6),
        in_guest_mode: over(|stats| stats.guest_instructions as f64 * 1e3 / stats.guest_ns as f64)?,
    })
}

/// The middle value, or the mean of the two middle ones.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The geometric mean; of nothing there is none.
pub fn geomean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value.ln(), count + 1));
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

/// What is compared.
pub fn compared(assets: &Assets, qemu: &Qemu, peers: &[Peer]) -> Vec<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split(':').nth(1)?.trim().to_string())
    });
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(places::workspace())
        .output();
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
    let unknown = || "unknown".to_string();
    let mut lines = vec![format!(
        "host    {}, {} cores",
        cpu.unwrap_or_else(unknown),
        std::thread::available_parallelism().map_or(1, usize::from)
    )];
    lines.extend(
        Peer::ALL
            .into_iter()
            .filter(|peer| peers.contains(peer))
            .map(|peer| {
                let what = match peer {
                    Peer::Native => "the same static programs on the host".to_string(),
                    Peer::Tcg => format!("{}, -accel tcg -cpu max", qemu.version),
                    Peer::Ring3 => format!(
                        "{}, the same QEMU, -accel kvm -cpu host",
                        commit.as_ref().map_or_else(|_| unknown(), String::clone)
                    ),
                    Peer::Kvm => "the machine's own KVM, the same QEMU, -accel kvm -cpu host".to_string(),
                };
                format!("{:<7} {what}", peer.name())
            }),
    );
    lines.push(format!(
        "guest   {}, 512 MiB, 1 processor; 2 for smp",
        assets.kernel_package
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::{Results, Speed, compute, geomean, median, row, speed};
    use crate::Peer;
    use crate::counts::{Count, Stats};
    use crate::workloads::{Class, Kind, WORKLOADS, of_kind};

    #[test]
    fn means() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(geomean([].into_iter()), None);
        let four = geomean([2.0, 8.0].into_iter()).expect("of two");
        assert!((four - 4.0).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_of_medians() {
        let mut results = Results::default();
        let figures = &mut results.figures;
        figures.insert(("sh-loop", Peer::Native), vec![1.0, 9.0, 1.0]);
        figures.insert(("sh-loop", Peer::Tcg), vec![10.0, 12.0, 11.0]);
        figures.insert(("sh-loop", Peer::Ring3), vec![22.0]);
        let workload = WORKLOADS.iter().find(|workload| workload.name == "sh-loop");
        let row = row(&results, workload.expect("a row"));
        assert_eq!(row.cells[1].over_native, Some(11.0));
        assert_eq!(row.cells[2].over_tcg, Some(2.0));
    }

    #[test]
    fn the_mean_is_over_what_all_peers_did() {
        let mut results = Results::default();
        for (i, program) in of_kind(Kind::Program(Class::Compute)).enumerate() {
            results.figures.insert((program.name, Peer::Native), vec![1.0]);
            results.figures.insert((program.name, Peer::Ring3), vec![2.0]);
            if i > 0 {
                results.figures.insert((program.name, Peer::Tcg), vec![6.0]);
            }
        }
        let compute = compute(&results);
        assert!(compute.complete && compute.tcg_over_native.is_none());
        assert!((compute.ring3_over_native.expect("all did it") - 2.0).abs() < 1e-9);
    }

    #[test]
    fn speed_is_by_the_clock_and_in_guest_mode() {
        let stats = |guest_instructions, guest_ns| Stats {
            guest_instructions,
            guest_ns,
        };
        let mut results = Results::default();
        assert_eq!(speed(&results), None);
        results.counts.push(Count {
            boot: stats(1_000, 10),
            boot_and_sh_loop: stats(100_001_000, 1_000_000_010),
        });
        results
            .figures
            .insert(("sh-loop", Peer::Ring3), vec![2.0, 1.0, 9.0]);
        let expected = Speed {
            instructions: 1e8,
            on_the_clock: Some(50.0),
            in_guest_mode: 100.0,
        };
        assert_eq!(speed(&results), Some(expected));
    }
}
