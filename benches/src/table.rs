//! The report as text.

use std::fmt::Write;

use crate::report::{Cell, Report, Row};
use crate::workloads::Unit;

pub fn text(report: &Report) -> String {
    let mut lines = report.compared.clone();
    let mut unit = None;
    for row in report.rows.iter().filter(|row| !row.cells.is_empty()) {
        if unit != Some(row.unit) {
            unit = Some(row.unit);
            lines.push(String::new());
            lines.push(head(row.unit));
        }
        lines.extend(row.cells.iter().map(|cell| measured(row, cell)));
    }
    lines.push(String::new());
    lines.extend(summary(report));
    let targets: Vec<String> = targets(report);
    if !targets.is_empty() {
        lines.push(String::new());
        lines.extend(targets);
    }
    lines.extend(report.failures.iter().map(|failure| format!("failed: {failure}")));
    lines.iter().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "{}", line.trim_end());
        out
    })
}

fn head(unit: Unit) -> String {
    let median = match unit {
        Unit::Seconds => "median s",
        Unit::Nanoseconds => "median ns",
        Unit::WorkOfOne => "of one",
    };
    format!(
        "{:<10} {:<7} {median:>9} {:>18} {:>9} {:>7}  runs",
        "workload", "peer", "min..max", "x native", "x tcg"
    )
}

/// A figure with as many digits as mean something.
pub fn figure(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Seconds => format!("{value:.3}"),
        Unit::Nanoseconds => format!("{value:.0}"),
        Unit::WorkOfOne => format!("{value:.2}"),
    }
}

fn measured(row: &Row, cell: &Cell) -> String {
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_string(), |ratio| format!("{ratio:.2}"));
    let low = cell.figures.iter().copied().fold(f64::MAX, f64::min);
    let high = cell.figures.iter().copied().fold(f64::MIN, f64::max);
    format!(
        "{:<10} {:<7} {:>9} {:>18} {:>9} {:>7}  {}",
        row.workload,
        cell.peer.name(),
        figure(row.unit, cell.median),
        format!("{}..{}", figure(row.unit, low), figure(row.unit, high)),
        ratio(cell.over_native),
        ratio(cell.over_tcg),
        cell.figures.len()
    )
}

fn summary(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let compute = &report.compute;
    let means = [
        ("ring3 / native", compute.ring3_over_native),
        ("tcg / native", compute.tcg_over_native),
        ("tcg / ring3", compute.tcg_over_ring3),
    ];
    let means: Vec<String> = means
        .iter()
        .filter_map(|(what, mean)| Some(format!("{what} {:.2}", (*mean)?)))
        .collect();
    if !means.is_empty() {
        lines.push(format!(
            "geometric mean over {} compute programs: {}",
            compute.programs,
            means.join(", ")
        ));
    }
    if let Some(speed) = report.speed {
        lines.push(format!(
            "ring3 runs {} million guest instructions a second on sh-loop by the clock, {:.1} million in guest mode \
             ({:.0} million instructions)",
            speed
                .on_the_clock
                .map_or_else(|| "?".to_string(), |rate| format!("{rate:.1}")),
            speed.in_guest_mode,
            speed.instructions / 1e6
        ));
    }
    lines
}

/// The targets that were measured.
fn targets(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for verdict in &report.targets {
        if let (Some(reached), Some(met)) = (verdict.reached, verdict.met) {
            let met = if met { "met" } else { "MISSED" };
            lines.push(format!(
                "{:<34} {:<14} {reached:>8.2}  {met}",
                verdict.what, verdict.wanted
            ));
        }
    }
    if !lines.is_empty() {
        lines.insert(0, format!("{:<34} {:<14} {:>8}", "target", "wanted", "reached"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use crate::Peer;
    use crate::measure::Results;
    use crate::report::Report;

    #[test]
    fn every_unit_has_its_own_columns() {
        let mut results = Results::default();
        let figures = &mut results.figures;
        figures.insert(("boot", Peer::Tcg), vec![2.0, 3.0, 2.5]);
        figures.insert(("boot", Peer::Ring3), vec![1.0]);
        figures.insert(("pio-out", Peer::Ring3), vec![250.4]);
        results.failures.push("tcg, round 1: it broke".to_string());
        let text = super::text(&Report::new(&results, vec!["host    a machine".to_string()]));
        let has = |line: &str| assert!(text.lines().any(|other| other == line), "{text}");
        has("boot       tcg         2.500       2.000..3.000         -    1.00  3");
        has("boot       ring3       1.000       1.000..1.000         -    0.40  1");
        has("pio-out    ring3         250           250..250         -       -  1");
        has("boot: ring3 / tcg                  at most 0.7        0.40  met");
        has("failed: tcg, round 1: it broke");
        assert!(!text.contains("sh-loop"), "{text}");
    }
}
