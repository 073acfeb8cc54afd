//! Whole machines under QEMU, with a guest that keeps things, and what is done to them.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use ring3_guest::guest::patience;
use ring3_guest::keeper::Keeper;
use ring3_guest::machine::OnReset;
use ring3_guest::{Accel, Assets, Machine};
use ring3_host::testing::{ThreadId, Usage};
use serde_json::Value;

/// What was done, for the account.
#[derive(Default)]
pub struct Done {
    boots: u32,
    snapshots: u32,
    moves: u32,
    resets: u32,
    pauses: u32,
    signals: u32,
    kills: u32,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} boots, {} snapshots, {} moves, {} resets, {} pauses, {} signals, {} kills",
            self.boots, self.snapshots, self.moves, self.resets, self.pauses, self.signals, self.kills
        )
    }
}

/// What a QEMU may have resident at most, in pages: the guest's memory, what it needs itself, and what each processor has
/// decoded and translated, which is thrown away when there is no more room.
fn most_pages(machine: &Machine) -> u64 {
    const OWN_MIB: u32 = 256;
    const PROCESSORS_MIB: u32 = 256;
    u64::from(machine.memory_mib + OWN_MIB + machine.cpus * PROCESSORS_MIB) * 256
}

/// Threads that QEMU has for its disks, for some seconds whenever it needs them.
const OWN_THREADS: usize = 64;

/// One machine's life.
pub fn turn(rng: &mut Rng, accel: Accel, done: &mut Done) -> Result<()> {
    let assets = Assets::get()?;
    let dir = tempfile::tempdir()?;
    let mut machine = Machine::new(accel);
    machine.cpus = rng.u32(1..=3);
    // At the low end the guest has hardly any memory left for what it is to do.
    machine.memory_mib = rng.u32(112..=320);
    machine.on_reset = OnReset::Reboot;
    let what = format!("{} processors, {} MiB", machine.cpus, machine.memory_mib);
    let pages = most_pages(&machine);
    let mut keeper = Keeper::start(machine, &assets, dir.path()).with_context(|| what.clone())?;
    done.boots += 1;
    let mut usage: Option<(u32, Usage)> = None;
    for _ in 0..rng.u32(2..=6) {
        trial(&mut keeper, rng, done).with_context(|| what.clone())?;
        let id = keeper.guest().process.id();
        match usage {
            Some((same, before)) if same == id => {
                let now = || Usage::of(id);
                let threads = before.threads + OWN_THREADS;
                let most = Usage {
                    pages,
                    threads,
                    ..before
                };
                ensure!(
                    most.is_left(0, now),
                    "{what}: QEMU leaks: {before:?} have become {:?}",
                    now()?
                );
            }
            _ => usage = Some((id, Usage::of(id)?)),
        }
    }
    end(keeper, rng, done).context(what)
}

fn trial(keeper: &mut Keeper, rng: &mut Rng, done: &mut Done) -> Result<()> {
    match rng.u32(0..5) {
        0 => {
            done.snapshots += 1;
            keeper.save_and_load().context("a snapshot")
        }
        1 => {
            done.moves += 1;
            keeper.migrate().map(drop).context("a move")
        }
        2 => {
            done.resets += 1;
            keeper.reset().context("a reset")
        }
        3 => {
            done.pauses += 1;
            keeper.qmp().execute("stop")?;
            std::thread::sleep(Duration::from_millis(rng.u64(1..300)));
            keeper.qmp().execute("cont")?;
            keeper.goes_on(2).context("a pause")
        }
        _ => {
            done.signals += storm(keeper, rng)?;
            keeper.goes_on(2).context("signals")
        }
    }
}

/// Sends each of the threads that QEMU runs its processors on the signal that QEMU itself takes them out of KVM_RUN with, many
/// times.
fn storm(keeper: &mut Keeper, rng: &mut Rng) -> Result<u32> {
    const SIGUSR1: i32 = 10;
    let process = keeper.guest().process.id();
    let cpus = keeper.qmp().execute("query-cpus-fast")?;
    let thread = |cpu: &Value| cpu.get("thread-id").and_then(Value::as_u64);
    let threads: Vec<ThreadId> = cpus
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(thread)
        .map(|thread| ThreadId::of(process, thread as u32))
        .collect();
    ensure!(!threads.is_empty(), "QEMU tells of no thread: {cpus}");
    let mut sent = 0;
    for _ in 0..rng.u32(50..500) {
        for thread in &threads {
            thread.signal(SIGUSR1);
            sent += 1;
        }
        std::thread::sleep(Duration::from_micros(rng.u64(0..2000)));
    }
    Ok(sent)
}

/// QEMU is told to end, or the guest powers off, or QEMU is killed.
fn end(mut keeper: Keeper, rng: &mut Rng, done: &mut Done) -> Result<()> {
    match rng.u32(0..3) {
        0 => {
            keeper.qmp().execute("quit")?;
            keeper.guest().process.wait_success(patience(30))
        }
        1 => {
            // Ctrl-C for the keeper.
            keeper.guest().process.send("\x03")?;
            keeper.guest().process.expect("# ", patience(60))?;
            keeper.guest().process.send("poweroff -f\n")?;
            keeper.guest().process.wait_success(patience(60))
        }
        _ => {
            done.kills += 1;
            drop(keeper);
            Ok(())
        }
    }
}
