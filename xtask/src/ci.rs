//! `cargo xtask ci`, `test`, `e2e` and `bench`.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ring3_guest::places;

use crate::children::{self, Ended};
use crate::run::{Tally, cargo, minutes, run, tests};
use crate::selftests::{Choice, Linkage};
use crate::{api, book, deb, kvm_ioctls, lint, selftests};

/// Tests that have a step of their own carry one of these in the reason of their `#[ignore]`.
const OWN_STEPS: [&str; 3] = [
    "cargo xtask e2e",
    "cargo xtask guests",
    "cargo xtask lockstep-boot",
];

/// One part of `ci`, with the minutes after which it hangs for certain: on two slow cores it takes a third of them.
struct Step {
    name: &'static str,
    minutes: u64,
    work: fn() -> Result<Tally>,
}

const STEPS: [Step; 13] = [
    Step {
        name: "static checks",
        minutes: 15,
        work: || lint::all(lint::Depth::Full).map(|()| Tally::default()),
    },
    Step {
        name: "unit and integration tests",
        minutes: 20,
        work: test_without_guests,
    },
    Step {
        name: "fuzzing of guest code, of ways out, and of ioctls",
        minutes: 10,
        work: || {
            fuzz(15, Some(SEED.1))?;
            fuzz_escape(15, Some(SEED.1))?;
            fuzz_ioctls(15, None, Some(SEED.1))?;
            Ok(Tally::default())
        },
    },
    Step {
        name: "a boot in lockstep",
        minutes: 10,
        work: || lockstep_boot(400),
    },
    Step {
        name: "the API's tests under ring3 run",
        minutes: 10,
        work: || api::run(Linkage::Dynamic),
    },
    Step {
        name: "end-to-end tests",
        minutes: 25,
        work: || e2e("ring3", None),
    },
    Step {
        name: "a short soak",
        minutes: 15,
        work: || soak(45, Some(SEED.1)).map(|()| Tally::default()),
    },
    Step {
        name: "the kvm-ioctls crate's tests",
        minutes: 10,
        work: || kvm_ioctls::run(None),
    },
    Step {
        name: "the Linux kernel's selftests",
        minutes: 25,
        work: || selftests::run(Linkage::Dynamic, Choice::All),
    },
    Step {
        name: "some of the selftests, linked statically",
        minutes: 10,
        work: || selftests::run(Linkage::Static, Choice::Sample),
    },
    Step {
        name: "the book's commands",
        minutes: 15,
        work: book::check,
    },
    Step {
        name: "the package",
        minutes: 10,
        work: deb::make,
    },
    Step {
        name: "the benchmarks run",
        minutes: 10,
        work: || bench(&ring3_benches::Options::smoke()).map(|()| Tally::default()),
    },
];

/// All checks and tests; goes on after a failure, so that one run shows everything.
pub fn everything() -> Result<()> {
    places::need("qemu-system-x86_64", "qemu-system-x86")?;
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut times = Vec::new();
    for (index, step) in STEPS.iter().enumerate() {
        println!("\n=== {} of {}: {}", index + 1, STEPS.len(), step.name);
        let started = Instant::now();
        take(step, &mut tally);
        times.push((step.name, started.elapsed()));
        println!("=== {}: {}", step.name, minutes(started.elapsed()));
    }
    println!();
    for (name, time) in times {
        println!("{:>14}  {name}", minutes(time));
    }
    tally.took = Some(start.elapsed());
    tally.verdict()
}

fn take(step: &Step, total: &mut Tally) {
    let limit = Duration::from_secs(60 * step.minutes);
    let (result, ended) = children::within(limit, step.work);
    if ended == Ended::Late {
        let late = format!("{}: not finished after {}", step.name, minutes(limit));
        println!("{late}");
        total.broken.push(late);
    }
    match result {
        Ok(tally) => total.add(tally),
        Err(error) => {
            println!("{error:#}");
            total.broken.push(format!("{}: {error:#}", step.name));
        }
    }
}

/// The seed of tests that draw random cases. A run of `ci` shall tell of the change it checks, not of luck; new cases are
/// drawn by every other run of the tests.
const SEED: (&str, &str) = ("RING3_SEED", "0x72696e6733");

/// As [`test`], with a fixed seed; what other steps run is not called skipped.
fn test_without_guests() -> Result<Tally> {
    let mut command = test_command();
    if std::env::var_os(SEED.0).is_none() {
        command.env(SEED.0, SEED.1);
    }
    let mut tally = tests(&mut command)?;
    tally
        .skipped
        .retain(|skipped| !OWN_STEPS.iter().any(|step| skipped.contains(step)));
    Ok(tally)
}

/// `cargo test` of everything that needs no guest.
pub fn test() -> Result<Tally> {
    tests(&mut test_command())
}

fn test_command() -> Command {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    command
}

/// The tests of `tests/tests/e2e_*.rs`.
pub fn e2e(accel: &str, filter: Option<&str>) -> Result<Tally> {
    tests(guest_tests(accel, &["e2e_*"])?.args(filter))
}

/// Those of firmware, kernels and a whole Debian, with its installation.
pub fn guests(accel: &str) -> Result<Tally> {
    let mut command = guest_tests(accel, &["e2e_firmware", "e2e_kernels", "e2e_userland"])?;
    tests(command.env("RING3_INSTALL_IN_GUEST", "1"))
}

/// A command that runs tests with guests, which are the programs of these names.
fn guest_tests(accel: &str, programs: &[&str]) -> Result<Command> {
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
    command.args(["test", "-p", "ring3-tests", "--no-fail-fast"]);
    for program in programs {
        command.args(["--test", program]);
    }
    // One guest at a time, and `skipped:` lines are to be seen.
    command.args(["--", "--include-ignored", "--test-threads", "1", "--nocapture"]);
    Ok(command)
}

/// Times the workloads.
pub fn bench(options: &ring3_benches::Options) -> Result<()> {
    build_ring3()?;
    run(cargo().args(["build", "--release", "-p", "ring3-exits"]))?;
    ring3_benches::run(options)
}

/// Runs the corpus of `fuzz/`, and mutations of it.
pub fn fuzz(seconds: u64, seed: Option<&str>) -> Result<()> {
    run(&mut fuzz_command(seconds, seed))
}

/// Guests that try to reach the host's memory.
pub fn fuzz_escape(seconds: u64, seed: Option<&str>) -> Result<()> {
    run(fuzz_command(seconds, seed).arg("--escape"))
}

/// Makes arbitrary ioctls: so many, or as many as the seconds allow.
pub fn fuzz_ioctls(seconds: u64, count: Option<u64>, seed: Option<&str>) -> Result<()> {
    let mut command = fuzz_command(seconds, seed);
    command.arg("--ioctls").args(count.map(|count| count.to_string()));
    run(&mut command)
}

fn fuzz_command(seconds: u64, seed: Option<&str>) -> Command {
    let mut command = cargo();
    command.args(["run", "-p", "ring3-fuzz", "--", "--seconds", &seconds.to_string()]);
    if let Some(seed) = seed {
        command.args(["--seed", seed]);
    }
    command
}

/// Runs the soak of `tests/src/soak` for so many seconds.
pub fn soak(seconds: u64, seed: Option<&str>) -> Result<()> {
    places::need("qemu-system-x86_64", "qemu-system-x86")?;
    let mut command = cargo();
    command.env("RING3_BIN", build_ring3()?);
    command.args(["run", "-p", "ring3-tests", "--bin", "ring3-soak", "--"]);
    command.args(["--seconds", &seconds.to_string()]);
    if let Some(seed) = seed {
        command.args(["--seed", seed]);
    }
    run(&mut command)
}

/// The test of `tests/tests/lockstep_boot.rs`.
pub fn lockstep_boot(millions: u64) -> Result<Tally> {
    let mut command = cargo();
    command.env("RING3_INSTRUCTIONS", millions.to_string());
    command.args(["test", "-p", "ring3-tests", "--test", "lockstep_boot"]);
    command.args(["--", "--include-ignored", "--nocapture"]);
    tests(&mut command)
}

/// Builds the release `ring3`, `libring3.so` and the loader of static programs, and returns the path of the former.
pub fn build_ring3() -> Result<PathBuf> {
    run(cargo().args([
        "build",
        "--release",
        "-p",
        "ring3-cli",
        "-p",
        "ring3-preload",
        "-p",
        "ring3-loader",
    ]))?;
    Ok(places::target().join("release/ring3"))
}
