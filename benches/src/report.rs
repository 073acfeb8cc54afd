//! Medians, ratios, and the table and JSON made of them.

use std::fmt::Write;
use std::process::Command;

use anyhow::Result;
use ring3_guest::{Assets, places};
use serde::Serialize;

use crate::Peer;
use crate::counts::{Count, Stats};
use crate::measure::Results;
use crate::workloads::WORKLOADS;

/// All that is said about a run of the benchmarks.
#[derive(Serialize)]
pub struct Report {
    /// What was compared, versions included.
    pub compared: Vec<String>,
    pub rows: Vec<Row>,
    pub counts: Vec<Count>,
    pub speed: Option<Speed>,
    pub failures: Vec<String>,
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

/// One workload.
#[derive(Serialize)]
pub struct Row {
    pub workload: &'static str,
    pub what: &'static str,
    pub cells: Vec<Cell>,
    /// Median of ring3 over median of TCG.
    pub ring3_over_tcg: Option<f64>,
}

/// One workload on one peer.
#[derive(Serialize)]
pub struct Cell {
    pub peer: &'static str,
    pub seconds: Vec<f64>,
    pub median: f64,
    pub over_native: Option<f64>,
}

impl Report {
    pub fn new(results: &Results, assets: &Assets) -> Result<Self> {
        let rows: Vec<Row> = WORKLOADS
            .iter()
            .map(|workload| row(results, workload.name, workload.what))
            .collect();
        Ok(Self {
            compared: compared(assets),
            rows,
            counts: results.counts.clone(),
            speed: speed(results),
            failures: results.failures.clone(),
        })
    }

    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            let _ = writeln!(out, "{}", text.trim_end());
        };
        for compared in &self.compared {
            line(compared.clone());
        }
        line(String::new());
        line(format!(
            "{:<10} {:<7} {:>9} {:>18} {:>9}  runs",
            "workload", "peer", "median s", "min..max", "x native"
        ));
        for row in &self.rows {
            for cell in &row.cells {
                let over = cell
                    .over_native
                    .map_or_else(|| "-".to_string(), |ratio| format!("{ratio:.1}"));
                let (low, high) = range(&cell.seconds);
                line(format!(
                    "{:<10} {:<7} {:>9.3} {:>18} {:>9}  {}",
                    row.workload,
                    cell.peer,
                    cell.median,
                    format!("{low:.3}..{high:.3}"),
                    over,
                    cell.seconds.len()
                ));
            }
        }
        line(String::new());
        for row in &self.rows {
            if let Some(ratio) = row.ring3_over_tcg {
                line(format!(
                    "ring3 takes {ratio:.2} times as long as TCG on {} ({})",
                    row.workload, row.what
                ));
            }
        }
        if let Some(speed) = self.speed {
            line(format!(
                "ring3 runs {} million guest instructions a second on sh-loop by the clock, {:.1} million in guest mode \
                 ({:.0} million instructions)",
                speed
                    .on_the_clock
                    .map_or_else(|| "?".to_string(), |rate| format!("{rate:.1}")),
                speed.in_guest_mode,
                speed.instructions / 1e6
            ));
        }
        for failure in &self.failures {
            line(format!("failed: {failure}"));
        }
        out
    }
}

fn row(results: &Results, workload: &'static str, what: &'static str) -> Row {
    let median_of = |peer| {
        results
            .seconds
            .get(&(workload, peer))
            .and_then(|times| median(times))
    };
    let native = median_of(Peer::Native);
    let cells = [Peer::Native, Peer::Tcg, Peer::Ring3]
        .into_iter()
        .filter_map(|peer| {
            let seconds = results.seconds.get(&(workload, peer))?.clone();
            let median = median(&seconds)?;
            let over_native = native.map(|native| median / native);
            Some(Cell {
                peer: peer.name(),
                seconds,
                median,
                over_native,
            })
        })
        .collect();
    let ring3_over_tcg = median_of(Peer::Ring3)
        .zip(median_of(Peer::Tcg))
        .map(|(ring3, tcg)| ring3 / tcg);
    Row {
        workload,
        what,
        cells,
        ring3_over_tcg,
    }
}

fn speed(results: &Results) -> Option<Speed> {
    let loops: Vec<_> = results.counts.iter().filter_map(Count::sh_loop).collect();
    let over = |of: fn(&Stats) -> f64| median(&loops.iter().map(of).collect::<Vec<_>>());
    let instructions = over(|stats| stats.guest_instructions as f64)?;
    let seconds = results
        .seconds
        .get(&("sh-loop", Peer::Ring3))
        .and_then(|times| median(times));
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

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| {
        (low.min(*value), high.max(*value))
    })
}

fn compared(assets: &Assets) -> Vec<String> {
    let first_line = |command: &mut Command| {
        let output = command.current_dir(places::workspace()).output().ok()?;
        String::from_utf8(output.stdout)
            .ok()?
            .lines()
            .next()
            .map(str::to_string)
    };
    let unknown = || "unknown".to_string();
    let cpu = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find(|line| line.starts_with("model name"))?
                .to_string();
            Some(line.split(':').nth(1)?.trim().to_string())
        })
        .unwrap_or_else(unknown);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let qemu = first_line(Command::new("qemu-system-x86_64").arg("--version")).unwrap_or_else(unknown);
    let commit =
        first_line(Command::new("git").args(["describe", "--always", "--dirty"])).unwrap_or_else(unknown);
    vec![
        format!("host    {cpu}, {cores} cores"),
        "native  the same static programs on the host".to_string(),
        format!("tcg     {qemu}, -accel tcg -cpu max"),
        format!("ring3   {commit}, the same QEMU, -accel kvm -cpu host"),
        format!("guest   {}, 1 processor, 512 MiB", assets.kernel_package),
    ]
}

#[cfg(test)]
mod tests {
    use super::{Results, Speed, median, row, speed};
    use crate::Peer;
    use crate::counts::{Count, Stats};

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn ratios_are_of_medians() {
        let mut results = Results::default();
        results
            .seconds
            .insert(("sh-loop", Peer::Native), vec![1.0, 9.0, 1.0]);
        results
            .seconds
            .insert(("sh-loop", Peer::Tcg), vec![10.0, 12.0, 11.0]);
        results.seconds.insert(("sh-loop", Peer::Ring3), vec![22.0]);
        let row = row(&results, "sh-loop", "");
        assert_eq!(row.ring3_over_tcg, Some(2.0));
        assert_eq!(row.cells[1].over_native, Some(11.0));
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
            .seconds
            .insert(("sh-loop", Peer::Ring3), vec![2.0, 1.0, 9.0]);
        let expected = Speed {
            instructions: 1e8,
            on_the_clock: Some(50.0),
            in_guest_mode: 100.0,
        };
        assert_eq!(speed(&results), Some(expected));
    }
}
