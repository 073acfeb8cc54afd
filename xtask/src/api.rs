//! `cargo xtask api`: the tests of the API as a client of their own, unmodified, under `ring3 run`.
//!
//! `cargo test` runs the same tests on ring3 in process. Here they open `/dev/kvm`, and ring3 has to be there because it was
//! preloaded, whether or not the machine has a device of that name. Linked statically, they are served by the loader.

use std::process::Command;

use anyhow::{Context, Result};
use ring3_guest::places;
use serde::Deserialize;

use crate::ci;
use crate::run::{Tally, cargo, test_program, tests};
use crate::selftests::Linkage;

/// Seconds for all of the tests; they take about one.
const LIMIT: &str = "300";

/// As much of what `RING3_STATS` names as is needed here.
#[derive(Deserialize)]
struct Account {
    guest_instructions: u64,
}

/// The host, as a target of its own: flags for it are then not those of build scripts.
const HOST: &str = "x86_64-unknown-linux-gnu";

pub fn run(linkage: Linkage) -> Result<Tally> {
    let ring3 = ci::build_ring3()?;
    let mut build = cargo();
    build.args(["test", "-p", "ring3-tests", "--test", "api"]);
    if linkage == Linkage::Static {
        build
            .args(["--target", HOST])
            .env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    }
    let program = test_program(&mut build)?;
    let account = places::target().join("api-account.json");
    let _ = std::fs::remove_file(&account);
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", LIMIT]).arg(ring3);
    command.args(["run", "--"]).arg(program);
    command.env("RING3_API", "device").env("RING3_STATS", &account);
    let mut tally = tests(&mut command)?;
    // Without ring3 the tests would skip themselves, or be served by the machine's own KVM, and pass.
    match instructions(&account) {
        Ok(1..) => {}
        Ok(0) => tally
            .broken
            .push("ring3 executed nothing for the tests of the API".to_string()),
        Err(error) => tally
            .broken
            .push(format!("the tests of the API did not run on ring3: {error:#}")),
    }
    Ok(tally)
}

fn instructions(account: &std::path::Path) -> Result<u64> {
    let text = std::fs::read_to_string(account).context("no account of what guests did")?;
    Ok(serde_json::from_str::<Account>(&text)?.guest_instructions)
}
