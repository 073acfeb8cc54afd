//! A soak: guests and clients that are treated badly for as long as wanted. Nothing may crash, leak or get stuck.
//!
//! [`machines`] boots Linux under QEMU, and saves, moves, resets, signals and kills it; [`churn`] runs bare guests in a process of
//! its own whose memory, slots, eventfds and descriptors come and go meanwhile. What is done follows from the seed, except
//! for the moments.

pub mod churn;
pub mod machines;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use ring3_guest::Accel;

/// A process of churn lives so long.
const CHURN: Duration = Duration::from_secs(20);
/// And this much longer if it is stuck.
const GRACE: Duration = Duration::from_secs(60);

/// Soaks for about so long.
pub fn soak(time: Duration, seed: u64, accel: Accel) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    let end = Instant::now() + time;
    let mut done = machines::Done::default();
    let (mut turns, mut churns) = (0, 0);
    while turns == 0 || Instant::now() < end {
        let (churn_seed, seed) = (rng.u64(..), rng.u64(..));
        let mut churn = Churn::start(churn_seed)?;
        let turn = machines::turn(&mut Rng::with_seed(seed), accel, &mut done);
        turn.with_context(|| format!("turn {turns}, seed {seed:#x}"))?;
        churn.ended().with_context(|| format!("churn {churn_seed:#x}"))?;
        turns += 1;
        churns += 1;
        println!("soak: {turns} turns, {churns} churns, {done}");
    }
    Ok(())
}

/// A process of churn, killed if it is not waited for.
struct Churn {
    child: Child,
    started: Instant,
    /// It does not end by itself.
    killed: bool,
}

impl Churn {
    fn start(seed: u64) -> Result<Churn> {
        let child = Command::new(std::env::current_exe()?)
            .args(["--churn", "--seed", &seed.to_string()])
            .args(["--seconds", &CHURN.as_secs().to_string()])
            .stdin(Stdio::null())
            .spawn()
            .context("starting a process of churn")?;
        Ok(Churn {
            child,
            started: Instant::now(),
            killed: seed.is_multiple_of(4),
        })
    }

    /// Waits for its end, or kills it in the middle if it is one of those.
    fn ended(&mut self) -> Result<()> {
        let limit = if self.killed { CHURN / 2 } else { CHURN + GRACE };
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break Some(status);
            }
            if self.started.elapsed() >= limit {
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        match status {
            Some(status) => ensure!(status.success(), "it ended with {status}"),
            None => {
                self.child.kill()?;
                self.child.wait()?;
                ensure!(self.killed, "it is stuck");
            }
        }
        Ok(())
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
