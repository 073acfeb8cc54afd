//! Timing ring3 against its peers: `cargo xtask bench`.
//!
//! Machines are shared and noisy, so an absolute time means nothing: every round runs each peer once, alternately,
//! and what is reported are ratios of medians. Nothing here asserts a time.
//!
//! Peers are the host itself (`native`), QEMU's TCG, and ring3 under the same QEMU binary with the same kernel,
//! initramfs and memory; and, where it works, the machine's own KVM.
//!
//! * `workloads`: what is measured; `targets`: what is to be reached.
//! * `measure`: the rounds. A round has up to three stages: workloads one by one (`guest`, `native`), the same programs
//!   on two processors (`smp`), VM exits (`exits`). `programs` builds what they run; `counts` counts instructions.
//! * `report`, `table`, `plot`: what is said about it; `load`: how far it can be trusted.

#![forbid(unsafe_code)]

mod counts;
mod exits;
mod guest;
mod load;
mod measure;
mod native;
mod plot;
mod programs;
mod report;
mod smp;
mod table;
mod targets;
mod workloads;

use std::path::PathBuf;

use anyhow::{Result, bail};
use ring3_guest::{Accel, Assets, places};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds; each runs every peer once
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Pairs of runs that count ring3's guest instructions
    #[arg(long, default_value_t = 3)]
    pub counts: usize,
    /// Where bench.txt, bench.json and bench.svg go, from the workspace's root [default: target/bench]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The peers, in the order they run within a round
    #[arg(long, value_delimiter = ',', default_value = "native,tcg,ring3")]
    pub peers: Vec<Peer>,
    /// Only these workloads; compute, kernel and exits stand for several [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub workloads: Vec<String>,
    /// How much of their work the programs do; scripts do all of it
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub percent: u32,
    /// One round with next to no work, to see that everything runs; its figures mean nothing
    #[arg(long, conflicts_with_all = ["runs", "counts", "percent", "out"])]
    pub smoke: bool,
}

impl Options {
    /// What `--smoke` asks for.
    pub fn smoke() -> Self {
        Self {
            runs: 1,
            counts: 0,
            out: Some(places::target().join("bench-smoke")),
            peers: vec![Peer::Native, Peer::Tcg, Peer::Ring3],
            workloads: Vec::new(),
            percent: 1,
            smoke: true,
        }
    }
}

/// Something that runs a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    Native,
    Tcg,
    Ring3,
    /// The machine's own `/dev/kvm`.
    Kvm,
}

impl Peer {
    pub const ALL: [Self; 4] = [Self::Native, Self::Tcg, Self::Ring3, Self::Kvm];

    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Tcg => "tcg",
            Self::Ring3 => "ring3",
            Self::Kvm => "kvm",
        }
    }

    /// How it runs guests.
    pub fn accel(self) -> Option<Accel> {
        match self {
            Self::Native => None,
            Self::Tcg => Some(Accel::Tcg),
            Self::Ring3 => Some(Accel::Ring3),
            Self::Kvm => Some(Accel::Kvm),
        }
    }
}

/// Measures, prints the table, and leaves table, JSON and plot in a directory.
pub fn run(options: &Options) -> Result<()> {
    let options = if options.smoke {
        Options {
            peers: options.peers.clone(),
            workloads: options.workloads.clone(),
            ..Options::smoke()
        }
    } else {
        options.clone()
    };
    if options.runs == 0 || options.peers.is_empty() {
        bail!("nothing to measure: --runs and --peers must not be empty");
    }
    let assets = Assets::prepare(ring3_guest::assets::Freshness::Cached, &mut |step| {
        eprintln!("bench: {step}")
    })?;
    let qemu = places::newest_qemu()?;
    let mut compared = report::compared(&assets, &qemu, &options.peers);
    let start = load::Moment::now();
    let results = measure::all(&options, &assets, &qemu.path)?;
    compared.extend(start.and_then(|start| start.others_since()));
    let report = report::Report::new(&results, compared);
    let dir = match &options.out {
        Some(out) => places::workspace().join(out),
        None => places::target().join("bench"),
    };
    std::fs::create_dir_all(&dir)?;
    let table = table::text(&report);
    if !options.smoke {
        println!("\n{table}");
    }
    std::fs::write(dir.join("bench.txt"), &table)?;
    std::fs::write(dir.join("bench.json"), report.json()?)?;
    std::fs::write(dir.join("bench.svg"), plot::svg(&report))?;
    println!("written to {}: bench.txt, bench.json, bench.svg", dir.display());
    if !results.failures.is_empty() {
        bail!("{} of the runs failed", results.failures.len());
    }
    Ok(())
}
