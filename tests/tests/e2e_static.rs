//! A client that is linked statically, and that others build: `RING3_KVMTOOL` names kvmtool's `lkvm-static`.
//!
//! It looks by itself whether the processor can virtualize. Its machine has an MP table and no ACPI, so that Debian's kernel finds one
//! processor.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use ring3_guest::guest::{Process, patience};
use ring3_guest::places;
use ring3_tests::e2e::Bench;

/// The client that the variable names; without one, says that the calling test is skipped.
fn client(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: {variable} names no program");
    }
    path
}

/// A command under ring3.
fn under_ring3(client: PathBuf) -> Result<Command> {
    let mut command = Command::new(places::ring3()?);
    command.args(["run", "--"]).arg(client);
    Ok(command)
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn kvmtool_boots_with_a_disk() -> Result<()> {
    let Some(kvmtool) = client("RING3_KVMTOOL") else {
        return Ok(());
    };
    let bench = Bench::new()?;
    if !bench.needs_ring3("a static client") {
        return Ok(());
    }
    let disk = bench.dir.path().join("disk");
    let half: Vec<u8> = (0..1u32 << 18)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .collect();
    std::fs::write(&disk, [&half[..], &vec![0; half.len()]].concat())?;
    let mut command = under_ring3(kvmtool)?;
    command.args([
        "run",
        "--mem",
        "256",
        "--console",
        "serial",
        "--network",
        "mode=none",
        "--kernel",
    ]);
    command
        .arg(&bench.assets.kernel)
        .arg("--initrd")
        .arg(&bench.assets.initramfs);
    command.arg("--disk").arg(&disk);
    let line = "console=ttyS0 panic=-1 reboot=k ring3.test=blk ring3.then=reboot";
    command.args(["--params", line]);
    let mut vmm = Process::start(command)?;
    vmm.expect("guest: init", patience(120))?;
    vmm.expect("guest: PASS blk", patience(60))?;
    vmm.wait_success(patience(30))?;
    let all = std::fs::read(&disk)?;
    ensure!(all[half.len()..] == half[..], "the halves of the disk differ");
    Ok(())
}
