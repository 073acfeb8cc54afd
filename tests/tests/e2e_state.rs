//! A machine's state: saved and loaded, and moved to another QEMU, while the guest is busy. `cargo xtask state` does it more
//! often.

#![forbid(unsafe_code)]

use anyhow::Result;
use ring3_guest::keeper::Keeper;
use ring3_tests::e2e::Bench;

const ROUNDS: u32 = 3;

fn keeper(bench: &Bench, cpus: u32) -> Result<Keeper> {
    let mut machine = bench.machine();
    machine.cpus = cpus;
    machine.memory_mib = 256;
    Keeper::start(machine, &bench.assets, bench.dir.path())
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn snapshots_lose_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let mut keeper = keeper(&bench, 2)?;
    for _ in 0..ROUNDS {
        keeper.save_and_load()?;
    }
    Ok(())
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn moves_lose_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let mut keeper = keeper(&bench, 2)?;
    for _ in 0..ROUNDS {
        keeper.migrate()?;
    }
    Ok(())
}
