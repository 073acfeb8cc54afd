//! What is to be reached. The report says of each target how far ring3 is; no test depends on it.

use serde::Serialize;

use crate::Peer;
use crate::measure::Results;
use crate::report::Compute;

struct Target {
    what: &'static str,
    figure: Figure,
    wanted: Wanted,
}

/// What a target is about.
enum Figure {
    ComputeOverNative,
    ComputeTcgOverRing3,
    /// How many times faster than TCG.
    TcgOverRing3(&'static str),
    Ring3OverTcg(&'static str),
    /// ring3's own figure, in the workload's unit.
    Plain(&'static str),
}

#[derive(Clone, Copy)]
enum Wanted {
    AtMost(f64),
    AtLeast(f64),
}

use Figure::{ComputeOverNative, ComputeTcgOverRing3, Plain, Ring3OverTcg, TcgOverRing3};
use Wanted::{AtLeast, AtMost};

const fn target(what: &'static str, figure: Figure, wanted: Wanted) -> Target {
    Target { what, figure, wanted }
}

const TARGETS: [Target; 14] = [
    target("compute: ring3 / native, geomean", ComputeOverNative, AtMost(2.0)),
    target("compute: tcg / ring3, geomean", ComputeTcgOverRing3, AtLeast(3.0)),
    target("sh-loop: tcg / ring3", TcgOverRing3("sh-loop"), AtLeast(4.0)),
    target("fork-exec: tcg / ring3", TcgOverRing3("fork-exec"), AtLeast(1.5)),
    target("syscall: tcg / ring3", TcgOverRing3("syscall"), AtLeast(1.5)),
    target("pipe: tcg / ring3", TcgOverRing3("pipe"), AtLeast(1.5)),
    target("pagefault: tcg / ring3", TcgOverRing3("pagefault"), AtLeast(1.5)),
    target("boot: ring3 / tcg", Ring3OverTcg("boot"), AtMost(0.7)),
    target("smp: work of one, ring3", Plain("smp"), AtLeast(1.8)),
    target("pio-out: ns a round trip", Plain("pio-out"), AtMost(1000.0)),
    target("pio-in: ns a round trip", Plain("pio-in"), AtMost(1000.0)),
    target("mmio-write: ns a round trip", Plain("mmio-write"), AtMost(1000.0)),
    target("mmio-read: ns a round trip", Plain("mmio-read"), AtMost(1000.0)),
    target("hypercall: ns a round trip", Plain("hypercall"), AtMost(1000.0)),
];

/// How far a target is reached.
#[derive(Debug, PartialEq, Serialize)]
pub struct Verdict {
    pub what: &'static str,
    pub wanted: String,
    pub reached: Option<f64>,
    /// `None` if it was not measured.
    pub met: Option<bool>,
}

/// All targets.
pub fn judge(results: &Results, compute: &Compute) -> Vec<Verdict> {
    let verdict = |target: &Target| {
        let reached = reached(&target.figure, results, compute);
        let (wanted, met) = match target.wanted {
            AtMost(most) => (format!("at most {most}"), reached.map(|reached| reached <= most)),
            AtLeast(least) => (
                format!("at least {least}"),
                reached.map(|reached| reached >= least),
            ),
        };
        Verdict {
            what: target.what,
            wanted,
            reached,
            met,
        }
    };
    TARGETS.iter().map(verdict).collect()
}

fn reached(figure: &Figure, results: &Results, compute: &Compute) -> Option<f64> {
    match figure {
        ComputeOverNative => compute.ring3_over_native.filter(|_| compute.complete),
        ComputeTcgOverRing3 => compute.tcg_over_ring3.filter(|_| compute.complete),
        TcgOverRing3(name) => results.ratio(name, Peer::Tcg, Peer::Ring3),
        Ring3OverTcg(name) => results.ratio(name, Peer::Ring3, Peer::Tcg),
        Plain(name) => results.median(name, Peer::Ring3),
    }
}

#[cfg(test)]
mod tests {
    use super::{Compute, Figure, Results, TARGETS, judge};
    use crate::Peer;
    use crate::workloads::WORKLOADS;

    const COMPUTE: Compute = Compute {
        programs: 10,
        complete: true,
        ring3_over_native: Some(2.5),
        tcg_over_native: Some(8.0),
        tcg_over_ring3: Some(3.2),
    };

    #[test]
    fn targets_name_workloads() {
        for target in &TARGETS {
            if let Figure::TcgOverRing3(name) | Figure::Ring3OverTcg(name) | Figure::Plain(name) =
                target.figure
            {
                assert!(WORKLOADS.iter().any(|workload| workload.name == name), "{name}");
            }
        }
    }

    #[test]
    fn targets_are_met_or_missed_or_not_measured() {
        let mut results = Results::default();
        results.figures.insert(("boot", Peer::Tcg), vec![2.0]);
        results.figures.insert(("boot", Peer::Ring3), vec![1.0]);
        let verdicts = judge(&results, &COMPUTE);
        let met = |what: &str| {
            let verdict = verdicts.iter().find(|verdict| verdict.what.starts_with(what));
            verdict.expect("a target").met
        };
        assert_eq!(met("compute: ring3"), Some(false));
        assert_eq!(met("compute: tcg"), Some(true));
        assert_eq!(met("boot"), Some(true));
        assert_eq!(met("pipe"), None);
        let part = Compute {
            complete: false,
            ..COMPUTE
        };
        assert_eq!(judge(&results, &part)[0].met, None);
    }
}
