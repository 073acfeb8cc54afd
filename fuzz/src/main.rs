//! Three targets. Arbitrary bytes as guest code: on interpreter, translator and host CPU at level 3, on the first two in lockstep at level 0.
//!
//! Guest code that tries to reach the host's memory, by [`escape`]. And sequences of ioctls, by [`ioctls`].
//!
//! A plain program with mutations of its own, which needs no other toolchain. Inputs that end in a difference are left in a
//! file and end the run; those worth keeping are named and put in `fuzz/corpus`, which is where mutations begin, and which
//! each run executes first.
#![forbid(unsafe_code)]

mod corpus;
mod escape;
mod ioctls;
mod kernel;
mod mutate;
mod user;
mod watch;

use anyhow::{Context, Result, bail};
use clap::Parser;
use fastrand::Rng;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(
    about = "Runs arbitrary bytes as guest code wherever it can be run, and compares; or tries to get out; or makes arbitrary ioctls"
)]
struct Arguments {
    /// Stop after so many seconds
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Repeat a run: a hexadecimal number
    #[arg(long, value_parser = number)]
    seed: Option<u64>,
    /// Have guest code try to reach the host's memory
    #[arg(long, conflicts_with = "ioctls")]
    escape: bool,
    /// Make ioctls, not guest code: so many, or as many as the seconds allow
    #[arg(long, num_args = 0..=1, value_name = "COUNT")]
    ioctls: Option<Option<u64>>,
    /// Make only the ioctls of this batch: a hexadecimal number
    #[arg(long, value_parser = number, value_name = "SEED")]
    batch: Option<u64>,
    /// Only these inputs, as they are
    inputs: Vec<PathBuf>,
}

fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
}

/// What became of an input.
pub enum Verdict {
    Alike,
    /// It cannot be compared, or no longer, for a reason that is nobody's fault.
    Open,
    Different(String),
}

/// Both ways to run code.
struct Both {
    user: user::User,
    kernel: kernel::Kernel,
    alike: usize,
    open: usize,
}

impl Both {
    fn run(&mut self, code: &[u8], state: u64) -> Result<()> {
        let verdicts = [
            ("level 3", self.user.run(code, state)?),
            ("level 0", self.kernel.run(code, state)),
        ];
        for (level, verdict) in verdicts {
            match verdict {
                Verdict::Alike => self.alike += 1,
                Verdict::Open => self.open += 1,
                Verdict::Different(how) => {
                    bail!(
                        "at {level}, from state {state:#x}: {how}\n{}",
                        corpus::listing(code)
                    );
                }
            }
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("fuzz: seed {seed:#x}");
    let extent = match (arguments.batch, arguments.ioctls) {
        (Some(batch), _) => Some(ioctls::Extent::Batch(batch)),
        (None, Some(Some(calls))) => Some(ioctls::Extent::Calls(calls)),
        (None, Some(None)) => Some(ioctls::Extent::Seconds(arguments.seconds)),
        (None, None) => None,
    };
    if let Some(extent) = extent {
        return ioctls::run(&extent, seed);
    }
    if arguments.escape {
        let time = Duration::from_secs(arguments.seconds);
        return escape::run(&arguments.inputs, time, seed);
    }
    let Some(kernel) = kernel::Kernel::new() else {
        println!("skipped: the translator, which needs more of the host");
        return Ok(());
    };
    let mut both = Both {
        user: user::User::new()?,
        kernel,
        alike: 0,
        open: 0,
    };
    if !arguments.inputs.is_empty() {
        for path in &arguments.inputs {
            let input = corpus::read(path)?;
            both.run(&input.code, input.state)
                .with_context(|| path.display().to_string())?;
        }
        return Ok(());
    }
    let seeds = corpus::all()?;
    for input in &seeds {
        both.run(&input.code, input.state)
            .with_context(|| input.name.clone())?;
    }
    let mut rng = Rng::with_seed(seed);
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let mut inputs = 0;
    while Instant::now() < end {
        let code = mutate::code(&mut rng, &seeds);
        let state = rng.u64(..);
        corpus::note(&code, state)?;
        if let Err(error) = both.run(&code, state) {
            let path = corpus::keep(&code, state, &error)?;
            bail!("{error:#}\nleft in {}", path.display());
        }
        inputs += 1;
    }
    println!(
        "fuzz: {} of the corpus and {inputs} more; {} ends compared, {} left open",
        seeds.len(),
        both.alike,
        both.open
    );
    Ok(())
}
