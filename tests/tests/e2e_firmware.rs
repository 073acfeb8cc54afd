//! Firmware boots what it finds: SeaBIOS and OVMF, Debian's GRUB from a disk, and a chain of signatures down to the kernel.

#![forbid(unsafe_code)]

use std::process::Command;

use anyhow::{Result, ensure};
use ring3_guest::firmware::{Ovmf, Security};
use ring3_guest::guest::{Process, patience};
use ring3_guest::machine::Boot;
use ring3_guest::{Guest, Machine, grub};
use ring3_tests::e2e::Bench;

/// What OVMF does before it uses its memory grows with the address space: at 46 bits, which a host may have, it is several times all
/// that comes afterwards, on whatever processor.
const MODEL: &str = "host,host-phys-bits=off,phys-bits=40";

/// Two processors, which have to work.
fn machine(bench: &Bench, boot: Boot) -> Machine {
    let mut machine = bench.machine().word("test", "smp");
    machine.cpus = 2;
    machine.cpu_model = MODEL.to_string();
    machine.boot = boot;
    machine
}

fn start(command: Command) -> Result<Guest> {
    Ok(Guest {
        process: Process::start(command)?,
    })
}

/// Chooses the second entry of GRUB's menu.
fn choose(guest: &mut Guest) -> Result<()> {
    guest.process.expect("GNU GRUB", patience(180))?;
    guest.process.expect(grub::BOOT, patience(30))?;
    // Down, as terminals have it, and the entry is shown as chosen.
    guest.process.send("\x1b[B")?;
    guest.process.expect(&format!("*{}", grub::BOOT), patience(30))?;
    guest.process.send("\r")
}

/// From the menu to a clean power-off.
fn goes_on(guest: &mut Guest) -> Result<()> {
    choose(guest)?;
    guest.booted()?;
    guest.process.expect("on 2 cpus", patience(30))?;
    guest.passed("smp", patience(60))?;
    guest.powered_off()
}

/// SeaBIOS reads the sectors of such a disk for GRUB.
fn seabios_and_grub(device: &str) -> Result<()> {
    let bench = Bench::new()?;
    let machine = machine(&bench, Boot::Disk);
    let disk = grub::bios_disk(&bench.assets, &machine.kernel_command_line(), bench.dir.path())?;
    let mut command = machine.command(&bench.assets)?;
    let drive = format!("file={},format=raw,if={device}", disk.display());
    command.args(["-drive", &drive]);
    let mut guest = start(command)?;
    guest.process.expect("SeaBIOS", patience(60))?;
    guest.process.expect("Booting from Hard Disk", patience(60))?;
    goes_on(&mut guest)
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn seabios_boots_grub_from_virtio() -> Result<()> {
    seabios_and_grub("virtio")
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn seabios_boots_grub_from_ide() -> Result<()> {
    seabios_and_grub("ide")
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn ovmf_boots_a_kernel() -> Result<()> {
    let firmware = Ovmf::get(Security::Open)?;
    let bench = Bench::new()?;
    let machine = machine(&bench, Boot::Kernel);
    let mut command = machine.command(&bench.assets)?;
    firmware.attach(bench.dir.path(), &mut command)?;
    let mut guest = start(command)?;
    guest.process.expect("EFI stub", patience(180))?;
    guest.process.expect("efi: EFI v", patience(60))?;
    guest.booted()?;
    guest.process.expect("on 2 cpus", patience(30))?;
    guest.passed("smp", patience(60))?;
    guest.powered_off()
}

/// The firmware checks the shim, the shim GRUB, and GRUB the kernel, which then is locked down.
#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn secure_boot_with_system_management_mode() -> Result<()> {
    let firmware = Ovmf::get(Security::SecureBoot)?;
    let bench = Bench::new()?;
    let machine = machine(&bench, Boot::Disk);
    let disk = grub::uefi_disk(&bench.assets, &machine.kernel_command_line(), bench.dir.path())?;
    let mut command = machine.command(&bench.assets)?;
    firmware.attach(bench.dir.path(), &mut command)?;
    let drive = format!("file={disk},format=raw,if=virtio,readonly=on");
    command.args(["-drive", &drive]);
    let mut guest = start(command)?;
    goes_on(&mut guest)?;
    let log = guest.process.console.text();
    for line in [
        "secureboot: Secure boot enabled",
        "Kernel is locked down from EFI Secure Boot",
    ] {
        ensure!(log.contains(line), "the kernel does not say {line:?}:\n{log}");
    }
    Ok(())
}
