//! The plot: one group of bars per workload, each group on its own scale, as a plain SVG.

use std::fmt::Write;

use crate::Peer;
use crate::report::{Cell, Report, Row};
use crate::table::figure;
use crate::workloads::Unit;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 150.0;
const BAR: f64 = 15.0;
const GAP: f64 = 2.0;
const GROUP_GAP: f64 = 12.0;
const TOP: f64 = 46.0;
/// Room to the right of the longest bar for its label.
const LABEL: f64 = 190.0;

fn colour(peer: Peer) -> &'static str {
    match peer {
        Peer::Native => "#9aa0a6",
        Peer::Tcg => "#e8a33d",
        Peer::Ring3 => "#2f6fde",
        Peer::Kvm => "#4c9f70",
    }
}

fn label(row: &Row, cell: &Cell) -> String {
    let unit = match row.unit {
        Unit::Seconds => "s",
        Unit::Nanoseconds => "ns",
        Unit::WorkOfOne => "of one (longer is better)",
    };
    let ratio = match cell.over_native {
        Some(ratio) if cell.peer != Peer::Native => format!(" ({ratio:.1}x native)"),
        _ => String::new(),
    };
    format!("{} {unit}{ratio}", figure(row.unit, cell.median))
}

pub fn svg(report: &Report) -> String {
    let mut bars = String::new();
    let mut y = TOP;
    for row in report.rows.iter().filter(|row| !row.cells.is_empty()) {
        let longest = row
            .cells
            .iter()
            .map(|cell| cell.median)
            .fold(f64::MIN_POSITIVE, f64::max);
        let _ = writeln!(
            bars,
            r#"<text x="10" y="{:.0}" font-weight="bold">{}</text>"#,
            y + BAR * 0.8,
            row.workload
        );
        for cell in &row.cells {
            let length = (WIDTH - LEFT - LABEL) * cell.median / longest;
            let middle = y + BAR * 0.8;
            let _ = writeln!(
                bars,
                r#"<text x="{:.0}" y="{middle:.0}" text-anchor="end">{}</text><rect x="{LEFT}" y="{y:.0}" width="{length:.1}" height="{BAR}" fill="{}"/><text x="{:.0}" y="{middle:.0}">{}</text>"#,
                LEFT - 8.0,
                cell.peer.name(),
                colour(cell.peer),
                LEFT + length + 6.0,
                label(row, cell),
            );
            y += BAR + GAP;
        }
        y += GROUP_GAP;
    }
    let mut out = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y:.0}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>"#
    );
    let _ = writeln!(
        out,
        r#"<text x="10" y="22" font-size="16">ring3 and its peers: medians; shorter is better</text>"#
    );
    out.push_str(&bars);
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use crate::Peer;
    use crate::measure::Results;
    use crate::report::Report;

    #[test]
    fn bars_are_proportional() {
        let mut results = Results::default();
        results.figures.insert(("sh-loop", Peer::Native), vec![1.0]);
        results.figures.insert(("sh-loop", Peer::Tcg), vec![4.0]);
        let svg = super::svg(&Report::new(&results, Vec::new()));
        assert!(
            svg.contains(r#"width="420.0""#) && svg.contains(r#"width="105.0""#),
            "{svg}"
        );
        assert!(svg.contains("4.000 s (4.0x native)"), "{svg}");
    }
}
