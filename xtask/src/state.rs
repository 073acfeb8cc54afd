//! `cargo xtask state`: a busy guest's state is saved and loaded, and moved from one QEMU to the next, again and again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ring3_guest::keeper::Keeper;
use ring3_guest::{Accel, Assets, Machine};

use crate::ci;
use crate::run::minutes;

#[derive(clap::Args)]
pub struct Options {
    /// How often each is done
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Virtual processors
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// ring3, or tcg (shows that the rounds themselves are right)
    #[arg(long, default_value = "ring3")]
    accel: String,
}

pub fn run(options: &Options) -> Result<()> {
    let accel = Accel::named(&options.accel)?;
    if accel == Accel::Ring3 {
        ci::build_ring3()?;
    }
    let assets = Assets::get()?;
    let dir = tempfile::tempdir()?;
    let mut machine = Machine::new(accel);
    machine.cpus = options.cpus;
    machine.memory_mib = 256;
    let start = Instant::now();
    let mut keeper = Keeper::start(machine, &assets, dir.path())?;
    let mut moves = Vec::new();
    for round in 1..=options.rounds {
        let which = || format!("round {round} of {}", options.rounds);
        keeper.save_and_load().with_context(which)?;
        moves.push(keeper.migrate().with_context(which)?);
        if round % 10 == 0 {
            println!("{round} rounds, {}", minutes(start.elapsed()));
        }
    }
    let mut down: Vec<Duration> = moves.iter().map(|moved| moved.down).collect();
    let mut total: Vec<Duration> = moves.iter().map(|moved| moved.total).collect();
    println!(
        "ok: {} snapshots and {} moves under {} lost nothing; a move takes {}, the guest stands still for {}; all of it took {}",
        moves.len(),
        moves.len(),
        accel.name(),
        spread(&mut total),
        spread(&mut down),
        minutes(start.elapsed())
    );
    Ok(())
}

/// The median and the most.
fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let most = times.last().copied().unwrap_or_default();
    format!("{} ms ({} at most)", median.as_millis(), most.as_millis())
}
