//! A whole Debian: systemd starts all of it, somebody logs in on the console, and apt and dpkg do their work. Where debootstrap could not
//! end on the host what it began there, it does in the guest first; it always does with `cargo xtask guests`.

#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::{Result, ensure};
use ring3_guest::guest::{Process, patience};
use ring3_guest::machine::Network;
use ring3_guest::userland::{PASSWORD, Stage, Userland};
use ring3_guest::{Assets, Guest, Machine, debian, mirror};
use ring3_tests::e2e::Bench;

/// Says that debootstrap is to end in the guest.
const INSTALL: &str = "RING3_INSTALL_IN_GUEST";

/// A package of one script.
const BUILD: &str = "mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin && \
     printf 'Package: answer\\nVersion: 1\\nArchitecture: all\\nMaintainer: root\\nDescription: the answer\\n' >/tmp/p/DEBIAN/control && \
     printf '#!/bin/sh\\necho forty-two\\n' >/tmp/p/usr/bin/answer && chmod +x /tmp/p/usr/bin/answer && \
     dpkg-deb --build --root-owner-group /tmp/p /tmp/answer.deb >/dev/null && dpkg -i /tmp/answer.deb >/dev/null && answer";

fn machine(bench: &Bench) -> Machine {
    let mut machine = bench.machine();
    machine.cpus = 2;
    machine.memory_mib = 1024;
    machine.network = Network::User;
    machine
}

/// Starts it with a disk that the host's need not keep: dpkg flushes it all the time.
fn start(machine: &Machine, assets: &Assets, disk: &Path) -> Result<Guest> {
    let mut command = machine.command(assets)?;
    let drive = format!("file={},format=raw,if=virtio,cache=unsafe", disk.display());
    command.args(["-drive", &drive]);
    Ok(Guest {
        process: Process::start(command)?,
    })
}

/// What a command says, which has to be something.
fn says(guest: &mut Guest, command: &str, seconds: u64, expected: &str) -> Result<()> {
    let said = guest.run(command, patience(seconds))?;
    ensure!(said.contains(expected), "{command} says {said:?}");
    Ok(())
}

/// From the login prompt to a shell.
fn log_in(guest: &mut Guest) -> Result<()> {
    guest.process.expect("guest login: ", patience(180))?;
    guest.process.send("root\n")?;
    guest.process.expect("Password: ", patience(60))?;
    guest.process.send(&format!("{PASSWORD}\n"))?;
    guest.process.expect("root@guest:~# ", patience(60))?;
    // One that does not edit lines.
    guest.process.send("exec sh\n")?;
    guest.process.expect("# ", patience(30))?;
    Ok(())
}

/// Ends the installation on a disk, with hundreds of packages to unpack and to configure, and thousands of processes.
fn install(bench: &Bench, userland: &mut Userland, disk: &Path) -> Result<()> {
    let machine = machine(bench)
        .word("test", "debootstrap")
        .word("password", PASSWORD);
    let mut guest = start(&machine, &userland.assets, disk)?;
    guest.booted()?;
    guest
        .process
        .expect("I: Base system installed successfully", patience(1200))?;
    guest.passed("debootstrap", patience(60))?;
    guest.powered_off()?;
    userland.keep(disk)
}

/// From the boot to a clean power-off.
fn works(bench: &Bench, userland: &Userland, disk: &Path) -> Result<()> {
    let machine = machine(bench).word("then", "system");
    let mut guest = start(&machine, &userland.assets, disk)?;
    guest.process.expect("guest: system", patience(120))?;
    log_in(&mut guest)?;
    says(&mut guest, "systemctl is-system-running --wait", 180, "running")?;
    says(&mut guest, "systemctl --failed --no-pager", 60, "0 loaded units")?;
    says(&mut guest, "nproc", 30, "2")?;
    let port = mirror::serve(userland.mirror.clone())?;
    let list = format!("deb [trusted=yes] http://10.0.2.2:{port} {} main", debian::SUITE);
    let change = format!("echo '{list}' >/etc/apt/sources.list; echo $?");
    says(&mut guest, &change, 30, "0")?;
    says(
        &mut guest,
        "apt-get update && echo up' 'to date",
        180,
        "up to date",
    )?;
    says(
        &mut guest,
        "apt-get install -y hello && hello",
        180,
        "Hello, world!",
    )?;
    says(&mut guest, BUILD, 120, "forty-two")?;
    guest.process.send("poweroff\n")?;
    guest.process.expect("reboot: Power down", patience(180))?;
    guest.process.wait_success(patience(30))
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn debian_works() -> Result<()> {
    let mut userland = Userland::get(Stage::Installed)?;
    let bench = Bench::new()?;
    let disk = userland.disk(bench.dir.path())?;
    if userland.stage == Stage::First {
        install(&bench, &mut userland, &disk)?;
    }
    works(&bench, &userland, &disk)
}

#[test]
#[ignore = "boots a guest: cargo xtask guests"]
fn debian_installs_itself() -> Result<()> {
    if std::env::var_os(INSTALL).is_none() {
        eprintln!("skipped: Debian's own installation takes ten minutes: cargo xtask guests");
        return Ok(());
    }
    let mut userland = Userland::get(Stage::First)?;
    let bench = Bench::new()?;
    let disk = userland.disk(bench.dir.path())?;
    install(&bench, &mut userland, &disk)?;
    works(&bench, &userland, &disk)
}
