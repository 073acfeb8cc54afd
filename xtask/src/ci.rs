//! `cargo xtask ci`, `test` and `e2e`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use ring3_guest::places;

use crate::run::{Tally, cargo, run, tests};
use crate::{kvm_ioctls, lint};

/// The tests that boot guests carry this in the reason of their `#[ignore]`.
const E2E_REASON: &str = "cargo xtask e2e";

/// All checks and tests; goes on after a failure, so that one run shows everything.
pub fn everything() -> Result<()> {
    places::need("qemu-system-x86_64", "qemu-system-x86")?;
    let mut tally = Tally::default();
    step("static checks", &mut tally, || {
        lint::all(lint::Depth::Full)?;
        Ok(Tally::default())
    });
    step("unit and integration tests", &mut tally, || {
        let mut tally = test()?;
        tally.skipped.retain(|skipped| !skipped.contains(E2E_REASON));
        Ok(tally)
    });
    step("end-to-end tests", &mut tally, || e2e("ring3", None));
    step("the kvm-ioctls crate's tests", &mut tally, || {
        kvm_ioctls::run(None)
    });
    tally.verdict()
}

fn step(name: &str, total: &mut Tally, work: impl FnOnce() -> Result<Tally>) {
    println!("\n=== {name}");
    let start = Instant::now();
    match work() {
        Ok(tally) => total.add(tally),
        Err(error) => {
            println!("{error:#}");
            total.broken.push(format!("{name}: {error:#}"));
        }
    }
    println!("=== {name}: {} s", start.elapsed().as_secs());
}

/// `cargo test` of everything that needs no guest.
pub fn test() -> Result<Tally> {
    tests(cargo().args(["test", "--workspace", "--no-fail-fast"]))
}

/// The tests of `tests/tests/e2e_*.rs`.
pub fn e2e(accel: &str, filter: Option<&str>) -> Result<Tally> {
    places::need("qemu-system-x86_64", "qemu-system-x86")?;
    let mut command = cargo();
    match accel {
        "ring3" => {
            command.env("RING3_BIN", build_ring3()?);
        }
        "tcg" | "kvm" => {}
        other => bail!("--accel is {other:?}; it may be ring3, tcg or kvm"),
    }
    command.env("RING3_E2E_ACCEL", accel);
    command.args([
        "test",
        "-p",
        "ring3-tests",
        "--test",
        "e2e_*",
        "--no-fail-fast",
        "--",
    ]);
    // One guest at a time, and `skipped:` lines are to be seen.
    command.args(["--include-ignored", "--test-threads", "1", "--nocapture"]);
    command.args(filter);
    tests(&mut command)
}

/// Builds the release `ring3` and `libring3.so`, and returns the path of the former.
pub fn build_ring3() -> Result<PathBuf> {
    run(cargo().args(["build", "--release", "-p", "ring3-cli", "-p", "ring3-preload"]))?;
    Ok(places::target().join("release/ring3"))
}
