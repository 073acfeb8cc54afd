//! `cargo xtask demo`: Debian's kernel under Debian's QEMU on ring3, on this terminal.

use std::os::unix::process::CommandExt;

use anyhow::Result;
use ring3_guest::machine::Network;
use ring3_guest::{Accel, Assets, Machine, assets::Freshness, places};

use crate::ci;

pub fn run(cpus: u32) -> Result<()> {
    println!("[1/4] QEMU");
    let qemu = places::need("qemu-system-x86_64", "qemu-system-x86")?;
    println!("      {}", qemu.display());
    println!("[2/4] building ring3");
    ci::build_ring3()?;
    println!("[3/4] the guest");
    let assets = Assets::prepare(Freshness::Cached, &mut |step| println!("      {step}"))?;
    println!("      {} and busybox", assets.kernel_package);
    let mut machine = Machine::new(Accel::Ring3);
    machine.cpus = cpus;
    machine.network = Network::User;
    let mut command = machine.command(&assets)?;
    println!("[4/4] booting: {command:?}");
    println!("      `poweroff -f` in the guest, or Ctrl-A X, ends it\n");
    // The guest takes over this process, and with it the terminal and the exit status.
    Err(command.exec().into())
}
