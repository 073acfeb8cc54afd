//! `cargo xtask demo`: Debian's kernel under Debian's QEMU on ring3, on this terminal.
//!
//! Without a terminal, or with `--check`, nobody types: a command is run in the guest's shell, and the guest powered off.

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ring3_guest::console::Echo;
use ring3_guest::machine::Network;
use ring3_guest::{Accel, Assets, Guest, Machine, Process, assets::Freshness, places};

use crate::ci;
use crate::run::minutes;

#[derive(clap::Args)]
pub struct Options {
    /// Virtual processors
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Run a command in the guest and power it off instead of leaving the shell to you
    #[arg(long)]
    check: bool,
    /// Seconds after which a check gives up on the guest
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

pub fn run(options: &Options) -> Result<()> {
    println!("[1/4] QEMU");
    let qemu = places::need("qemu-system-x86_64", "qemu-system-x86")?;
    println!("      {}", qemu.display());
    println!("[2/4] building ring3");
    ci::build_ring3()?;
    println!("[3/4] the guest");
    let assets = Assets::prepare(Freshness::Cached, &mut |step| println!("      {step}"))?;
    println!("      {} and busybox", assets.kernel_package);
    let mut machine = Machine::new(Accel::Ring3);
    machine.cpus = options.cpus;
    machine.network = Network::User;
    let mut command = machine.command(&assets)?;
    println!("[4/4] booting: {command:?}");
    if options.check || !std::io::stdin().is_terminal() {
        return check(command, Duration::from_secs(options.timeout));
    }
    println!("      `poweroff -f` in the guest, or Ctrl-A X, ends it\n");
    // The guest takes over this process, and with it the terminal and the exit status.
    Err(command.exec().into())
}

/// Boots to the shell, runs a command in it, and powers off, all before `limit`.
fn check(command: Command, limit: Duration) -> Result<()> {
    println!("      no shell is left to you: stdin is no terminal, or --check was given\n");
    let mut guest = Guest {
        process: Process::start_shown(command, Echo::ToTerminal)?,
    };
    let deadline = guest.process.started + limit;
    let left = || deadline.saturating_duration_since(Instant::now());
    let late = || format!("the demo did not get to its end within {}", minutes(limit));
    let init = guest.process.expect("guest: init", left()).with_context(late)?;
    guest
        .process
        .expect("guest: shell (", left())
        .with_context(late)?;
    guest.process.expect("# ", left()).with_context(late)?;
    let kernel = guest.run("uname -srm", left()).with_context(late)?;
    ensure!(kernel.starts_with("Linux "), "uname said {kernel:?} in the guest");
    guest.process.send("poweroff -f\n")?;
    guest.process.wait_success(left()).with_context(late)?;
    println!(
        "\nok: {kernel} booted under QEMU on ring3; init after {:.1} s, and all of it took {:.1} s",
        (init.at - guest.process.started).as_secs_f64(),
        guest.process.started.elapsed().as_secs_f64()
    );
    Ok(())
}
