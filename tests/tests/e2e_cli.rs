//! The `ring3` command: its bundled VMM boots the same kernel, and wrong input gets one clear line.

#![forbid(unsafe_code)]

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use ring3_guest::guest::{Process, patience};
use ring3_guest::places;
use ring3_tests::e2e::Bench;

/// `ring3 boot` of the test kernel with `words` on its command line.
fn boot(bench: &Bench, cpus: u32, words: &str) -> Result<Process> {
    let mut command = Command::new(places::ring3()?);
    command.arg("boot").arg("--kernel").arg(&bench.assets.kernel);
    command.arg("--initrd").arg(&bench.assets.initramfs);
    let cpus = cpus.to_string();
    let line = format!("console=ttyS0 panic=-1 reboot=k {words} ring3.cpus={cpus}");
    command.args(["--cmdline", &line, "--memory", "512", "--cpus", &cpus]);
    Process::start(command)
}

fn boot_tests_and_reboots(cpus: u32) -> Result<()> {
    let bench = Bench::new()?;
    if !bench.needs_ring3("ring3 boot") {
        return Ok(());
    }
    let mut vmm = boot(&bench, cpus, "ring3.test=smp ring3.then=reboot")?;
    vmm.expect("guest: init", patience(120))?;
    vmm.expect("guest: PASS smp", patience(60))?;
    vmm.wait_success(patience(30))
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn ring3_boot_smp_1() -> Result<()> {
    boot_tests_and_reboots(1)
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn ring3_boot_smp_2() -> Result<()> {
    boot_tests_and_reboots(2)
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn ring3_boot_has_an_interactive_console() -> Result<()> {
    let bench = Bench::new()?;
    if !bench.needs_ring3("ring3 boot") {
        return Ok(());
    }
    let mut vmm = boot(&bench, 1, "")?;
    vmm.expect("guest: shell (", patience(150))?;
    vmm.send("echo $((6 * 7)) 'is it'\n")?;
    vmm.expect("42 is it", patience(30))?;
    vmm.send("reboot -f\n")?;
    vmm.wait_success(patience(30))
}

/// Fails, and says so on exactly one line of stderr that mentions `about`.
fn one_line_error(command: &mut Command, about: &str) -> Result<()> {
    let output: Output = command.output().context("starting ring3")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success(),
        "{command:?} succeeded; it said {stderr:?}"
    );
    let code = output.status.code();
    ensure!(
        code.is_some_and(|code| code < 126 || code == 127),
        "{command:?} ended with {:?}",
        output.status
    );
    ensure!(
        stderr.trim_end().lines().count() == 1,
        "{command:?} said {stderr:?}, which is not one line"
    );
    ensure!(
        stderr.to_lowercase().contains(&about.to_lowercase()),
        "{command:?} said {stderr:?}, which does not mention {about:?}"
    );
    Ok(())
}

#[test]
#[ignore = "needs the built ring3: cargo xtask e2e"]
fn wrong_input_gets_one_line() -> Result<()> {
    let bench = Bench::new()?;
    if !bench.needs_ring3("the command line") {
        return Ok(());
    }
    let ring3 = places::ring3()?;
    let boot = || {
        let mut command = Command::new(&ring3);
        command.arg("boot");
        command
    };
    let missing = bench.dir.path().join("no-such-kernel");
    one_line_error(boot().arg("--kernel").arg(&missing), "no-such-kernel")?;
    let truncated = bench.dir.path().join("truncated-kernel");
    std::fs::write(&truncated, &std::fs::read(&bench.assets.kernel)?[..4096])?;
    one_line_error(boot().arg("--kernel").arg(&truncated), "truncated")?;
    let empty = bench.dir.path().join("empty-kernel");
    std::fs::write(&empty, b"")?;
    one_line_error(boot().arg("--kernel").arg(&empty), "empty-kernel")?;
    let kernel = &bench.assets.kernel;
    one_line_error(
        boot().arg("--kernel").arg(kernel).args(["--memory", "0"]),
        "memory",
    )?;
    one_line_error(boot().arg("--kernel").arg(kernel).args(["--cpus", "0"]), "cpu")?;
    let initrd = bench.dir.path().join("no-such-initrd");
    one_line_error(
        boot().arg("--kernel").arg(kernel).arg("--initrd").arg(&initrd),
        "no-such-initrd",
    )?;
    one_line_error(
        Command::new(&ring3).args(["run", "--", "no-such-program"]),
        "no-such-program",
    )
}

/// What `ring3 run` starts keeps its exit status, and a program that never opens /dev/kvm sees no difference.
#[test]
#[ignore = "needs the built ring3: cargo xtask e2e"]
fn run_is_transparent() -> Result<()> {
    let bench = Bench::new()?;
    if !bench.needs_ring3("ring3 run") {
        return Ok(());
    }
    let ring3 = places::ring3()?;
    let output = Command::new(&ring3)
        .args(["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"])
        .output()?;
    ensure!(
        output.status.code() == Some(7),
        "the exit status became {:?}",
        output.status
    );
    ensure!(
        output.stdout == b"out\n" && output.stderr == b"err\n",
        "the output became {output:?}"
    );
    Ok(())
}

/// Commands that the README shows are commands that `ring3 --help` knows.
#[test]
#[ignore = "needs the built ring3: cargo xtask e2e"]
fn the_readme_names_real_commands() -> Result<()> {
    let bench = Bench::new()?;
    if !bench.needs_ring3("the command line") {
        return Ok(());
    }
    let output = Command::new(places::ring3()?).arg("--help").output()?;
    let help = String::from_utf8_lossy(&output.stdout);
    let readme = std::fs::read_to_string(places::workspace().join("README.md"))?;
    for line in readme.lines() {
        let words: Vec<&str> = line.trim().trim_start_matches("$ ").split_whitespace().collect();
        if let ["ring3" | "target/release/ring3", command, ..] = words[..]
            && command.chars().all(|c| c.is_ascii_lowercase())
        {
            let known = help
                .lines()
                .any(|line| line.split_whitespace().next() == Some(command));
            ensure!(
                known,
                "the README shows `ring3 {command}`, which ring3 --help does not know"
            );
        }
    }
    Ok(())
}
