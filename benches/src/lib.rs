//! Timing ring3 against its peers: `cargo xtask bench`.
//!
//! Machines are shared and noisy, so an absolute time means nothing: every round runs each peer once, alternately,
//! and what is reported are ratios of medians. Nothing here asserts a time.
//!
//! Peers are the host itself (`native`), QEMU's TCG, and ring3 under the same QEMU binary with the same kernel,
//! initramfs and memory.

#![forbid(unsafe_code)]

mod counts;
mod guest;
mod measure;
mod plot;
mod programs;
mod report;
mod workloads;

use anyhow::{Result, bail};
use ring3_guest::{Assets, places};

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
    pub out: Option<std::path::PathBuf>,
    /// The peers, in the order they run within a round
    #[arg(long, value_delimiter = ',', default_value = "native,tcg,ring3")]
    pub peers: Vec<Peer>,
    /// Only these workloads; compute and kernel stand for several [default: all]
    #[arg(long, value_delimiter = ',')]
    pub workloads: Vec<String>,
    /// How much of their work the C programs do, in percent
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub percent: u32,
}

/// Something that runs a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Peer {
    Native,
    Tcg,
    Ring3,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Tcg => "tcg",
            Self::Ring3 => "ring3",
        }
    }
}

/// Measures, prints the table, and leaves table, JSON and plot in a directory.
pub fn run(options: &Options) -> Result<()> {
    if options.runs == 0 || options.peers.is_empty() {
        bail!("nothing to measure: --runs and --peers must not be empty");
    }
    let assets = Assets::prepare(ring3_guest::assets::Freshness::Cached, &mut |step| {
        eprintln!("bench: {step}")
    })?;
    let results = measure::all(options, &assets)?;
    let report = report::Report::new(&results, &assets)?;
    let dir = match &options.out {
        Some(out) => places::workspace().join(out),
        None => places::target().join("bench"),
    };
    std::fs::create_dir_all(&dir)?;
    let table = report.table();
    println!("\n{table}");
    std::fs::write(dir.join("bench.txt"), &table)?;
    std::fs::write(dir.join("bench.json"), report.json()?)?;
    std::fs::write(dir.join("bench.svg"), plot::svg(&report))?;
    println!("written to {}: bench.txt, bench.json, bench.svg", dir.display());
    if !results.failures.is_empty() {
        bail!("{} of the runs failed", results.failures.len());
    }
    Ok(())
}
