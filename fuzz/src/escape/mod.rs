//! Guest code that tries to reach the host's memory: by page tables of its own making, segments, code that it changes, devices, and
//! operands across the ends of its memory. It never does.
//!
//! The guest's slots lie in one piece of the host's memory, with pages between them that hold a secret. No guest may change
//! those, nor what is only to be read; and the secret may appear neither in its registers and memory nor in what it writes to
//! devices. It is told all addresses of the host's.

mod prison;
mod secret;
mod tricks;

use crate::corpus::{self, Input};
use crate::watch::Watch;
use anyhow::{Context, Result, bail};
use fastrand::Rng;
use prison::Prison;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Runs these inputs; or those of the corpus, and then mutations of them for so long.
pub fn run(inputs: &[PathBuf], time: Duration, seed: u64) -> Result<()> {
    let watch = Watch::start()?;
    let prison = Prison::new().context("memory at the harness's own address")?;
    let mut exits = 0;
    let mut try_input = |code: &[u8], state: u64| -> Result<()> {
        watch.batch(state);
        exits += prison
            .hold(code, state, &watch)
            .with_context(|| format!("the guest, from state {state:#x}\n{}", corpus::listing(code)))?;
        Ok(())
    };
    if !inputs.is_empty() {
        for path in inputs {
            let input = corpus::read(path)?;
            try_input(&input.code, input.state).with_context(|| path.display().to_string())?;
        }
        return Ok(());
    }
    let seeds: Vec<Input> = corpus::all()?;
    for input in &seeds {
        try_input(&input.code, input.state).with_context(|| input.name.clone())?;
    }
    let mut rng = Rng::with_seed(seed);
    let end = Instant::now() + time;
    let mut tried = 0;
    while Instant::now() < end {
        let code = tricks::code(&mut rng, &seeds);
        let state = rng.u64(..);
        corpus::note(&code, state)?;
        if let Err(error) = try_input(&code, state) {
            let path = corpus::keep(&code, state, &error)?;
            bail!("{error:#}\nleft in {}", path.display());
        }
        tried += 1;
    }
    println!(
        "fuzz: {} of the corpus and {tried} more guests, {exits} exits: none got out",
        seeds.len()
    );
    Ok(())
}
