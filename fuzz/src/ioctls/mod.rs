//! Sequences of KVM ioctls, through the entry that the preload library uses: nothing that a client asks for may crash, panic,
//! hang or leak.
//!
//! A run consists of batches, each with a seed of its own, by which it can be repeated alone. `RING3_TRACE=text,all` in the
//! environment shows its calls. Finds become tests of the API, as the grammar that found them goes on changing.

mod grammar;
mod places;
mod session;

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use ring3_host::testing::Usage;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Calls of a batch.
const BATCH: u64 = 400;
/// Pages that may be in use on top of those after the first batch: 128 MiB.
const SLACK: u64 = 32768;

/// The seed of the batch that is on its way, for whoever tells of its end.
static BATCH_SEED: AtomicU64 = AtomicU64::new(0);

/// What is run.
pub enum Extent {
    Calls(u64),
    Seconds(u64),
    /// Only the batch of this seed.
    Batch(u64),
}

pub fn run(extent: &Extent, seed: u64) -> Result<()> {
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::force_capture();
        let batch = BATCH_SEED.load(Relaxed);
        eprintln!("fuzz: batch {batch:#x}: {panic}\n{trace}");
        std::process::abort();
    }));
    let places = places::Places::new().context("memory at the harness's own address")?;
    let watch = crate::watch::Watch::start()?;
    let (start, mut rng) = (Instant::now(), Rng::with_seed(seed));
    let (mut calls, mut succeeded, mut batches) = (0, 0, 0_u64);
    let mut base: Option<Usage> = None;
    loop {
        let done = match extent {
            Extent::Calls(most) => calls >= *most,
            Extent::Seconds(most) => start.elapsed() >= Duration::from_secs(*most),
            Extent::Batch(_) => batches > 0,
        };
        if done {
            break;
        }
        let batch = match extent {
            Extent::Batch(seed) => *seed,
            _ => rng.u64(..),
        };
        BATCH_SEED.store(batch, Relaxed);
        watch.batch(batch);
        let session = session::Session::new(batch, &places, &watch)?.run(BATCH);
        calls += session.calls;
        succeeded += session.succeeded;
        batches += 1;
        let base = *base.get_or_insert(Usage::own()?);
        if !base.is_left(SLACK, Usage::own) {
            bail!("batch {batch:#x} leaks: {base:?} have become {:?}", Usage::own()?);
        }
    }
    // For `RING3_TRACE=text,summary`.
    ring3_interpose::trace::finish();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "fuzz: {calls} ioctls in {batches} batches, {succeeded} of them successful, {:.0} a second; {:?}",
        calls as f64 / seconds,
        Usage::own()?
    );
    Ok(())
}
