//! The guest's devices do what they say: disk, network, clock, and all at once on two processors.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use ring3_guest::guest::patience;
use ring3_guest::machine::Network;
use ring3_guest::noise;
use ring3_tests::e2e::{Bench, Echo};

const MIB: usize = 1 << 20;

/// A disk whose first half is noise and whose second half is empty.
fn make_disk(dir: &Path, half: &[u8]) -> Result<PathBuf> {
    let path = dir.join("disk.img");
    let mut bytes = half.to_vec();
    bytes.resize(2 * half.len(), 0);
    std::fs::write(&path, bytes)?;
    Ok(path)
}

/// The guest copied the first half to the second.
fn check_disk(disk: &Path, half: &[u8]) -> Result<()> {
    let bytes = std::fs::read(disk)?;
    ensure!(bytes.len() == 2 * half.len(), "the disk changed its size");
    ensure!(
        &bytes[..half.len()] == half,
        "the guest changed what it should only read"
    );
    ensure!(
        &bytes[half.len()..] == half,
        "what the guest wrote is not what it read"
    );
    Ok(())
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn virtio_blk_reads_and_writes() -> Result<()> {
    let bench = Bench::new()?;
    let half = noise::bytes(1, 4 * MIB);
    let disk = make_disk(bench.dir.path(), &half)?;
    let mut machine = bench.machine().word("test", "blk");
    machine.disk = Some(disk.clone());
    let mut guest = bench.start(&machine)?;
    guest.booted()?;
    guest.passed("blk", patience(90))?;
    guest.powered_off()?;
    check_disk(&disk, &half)
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn virtio_net_talks_to_the_host() -> Result<()> {
    let bench = Bench::new()?;
    let echo = Echo::serve(noise::bytes(2, MIB))?;
    let mut machine = bench
        .machine()
        .word("test", "net")
        .word("port", &echo.port.to_string());
    machine.network = Network::User;
    let mut guest = bench.start(&machine)?;
    guest.booted()?;
    guest.process.expect("guest: address 10.0.2.", patience(60))?;
    guest.passed("net", patience(90))?;
    guest.powered_off()?;
    echo.join()
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn everything_at_once_on_two_processors() -> Result<()> {
    let bench = Bench::new()?;
    let half = noise::bytes(3, 4 * MIB);
    let disk = make_disk(bench.dir.path(), &half)?;
    let echo = Echo::serve(noise::bytes(4, MIB))?;
    let machine = bench.machine_with_devices(&disk, &echo);
    let mut guest = bench.start(&machine)?;
    guest.booted()?;
    for test in ["smp", "blk", "net"] {
        guest.passed(test, patience(120))?;
    }
    guest.powered_off()?;
    echo.join()?;
    check_disk(&disk, &half)
}

/// Three seconds inside are about three seconds outside. The bounds are wide, because the machine is shared;
/// they catch a clock that runs at a wrong rate, not one that jitters.
#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn the_clock_runs_at_the_right_rate() -> Result<()> {
    let bench = Bench::new()?;
    let mut guest = bench.start(&bench.machine().word("test", "clock"))?;
    guest.booted()?;
    let start = guest.process.expect("guest: clock-start", patience(60))?;
    let end = guest.process.expect("guest: clock-end", patience(60))?;
    let outside = end.at - start.at;
    guest.passed("clock", patience(10))?;
    ensure!(
        outside > Duration::from_millis(2800) && outside < patience(6),
        "3 s in the guest took {outside:?} outside"
    );
    guest.powered_off()
}
