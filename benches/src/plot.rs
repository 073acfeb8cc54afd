//! The plot: one group of bars per workload, each group on its own scale, as a plain SVG.

use std::fmt::Write;

use crate::report::Report;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 150.0;
const BAR: f64 = 22.0;
const GAP: f64 = 4.0;
const GROUP_GAP: f64 = 26.0;
const TOP: f64 = 46.0;
/// Room to the right of the longest bar for its label.
const LABEL: f64 = 190.0;

fn colour(peer: &str) -> &'static str {
    match peer {
        "native" => "#9aa0a6",
        "tcg" => "#e8a33d",
        _ => "#2f6fde",
    }
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
            y + 15.0,
            row.workload
        );
        for cell in &row.cells {
            let length = (WIDTH - LEFT - LABEL) * cell.median / longest;
            let ratio = match cell.over_native {
                Some(ratio) if cell.peer != "native" => format!(" ({ratio:.1}x native)"),
                _ => String::new(),
            };
            let middle = y + BAR * 0.7;
            let _ = writeln!(
                bars,
                r#"<text x="{:.0}" y="{middle:.0}" text-anchor="end">{}</text><rect x="{LEFT}" y="{y:.0}" width="{length:.1}" height="{BAR}" fill="{}"/><text x="{:.0}" y="{middle:.0}">{:.3} s{ratio}</text>"#,
                LEFT - 8.0,
                cell.peer,
                colour(cell.peer),
                LEFT + length + 6.0,
                cell.median,
            );
            y += BAR + GAP;
        }
        y += GROUP_GAP;
    }
    let mut out = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y:.0}" font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>"#
    );
    let _ = writeln!(
        out,
        r#"<text x="10" y="22" font-size="16">ring3 and its peers: median seconds, shorter is better</text>"#
    );
    out.push_str(&bars);
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use crate::report::{Cell, Report, Row};

    #[test]
    fn bars_are_proportional() {
        let cell = |peer, median| Cell {
            peer,
            seconds: vec![median],
            median,
            over_native: Some(median),
        };
        let row = Row {
            workload: "sh-loop",
            what: "",
            cells: vec![cell("native", 1.0), cell("tcg", 4.0)],
            ring3_over_tcg: None,
        };
        let report = Report {
            compared: Vec::new(),
            rows: vec![row],
            counts: Vec::new(),
            speed: None,
            failures: Vec::new(),
        };
        let svg = super::svg(&report);
        assert!(
            svg.contains(r#"width="420.0""#) && svg.contains(r#"width="105.0""#),
            "{svg}"
        );
        assert!(svg.contains("4.000 s (4.0x native)"), "{svg}");
    }
}
