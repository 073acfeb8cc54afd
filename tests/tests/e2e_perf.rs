//! `perf` knows translated guest code by name: from the jitdump file that RING3_PERF asks for, read here as its format says, and,
//! where `perf` works, by `perf` itself.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ring3_guest::places;
use ring3_tests::e2e::Bench;

/// Bytes of the file's header, and of what a record of code begins with.
const HEADER: usize = 40;
const RECORD: usize = 56;

/// The names of the code in a jitdump file, with how many bytes of it there are.
fn names(file: &Path) -> Result<Vec<(String, usize)>> {
    let bytes = std::fs::read(file)?;
    let word = |at: usize| -> Result<u32> {
        let word = bytes.get(at..at + 4).context("the file is cut off")?;
        Ok(u32::from_ne_bytes(word.try_into()?))
    };
    ensure!(word(0)? == 0x4a69_5444 && word(4)? == 1, "it begins otherwise");
    let mut at = word(8)? as usize;
    ensure!(at == HEADER, "the header has {at} bytes");
    let mut names = Vec::new();
    while at < bytes.len() {
        let (kind, size) = (word(at)?, word(at + 4)? as usize);
        ensure!(
            kind == 0 && size > RECORD,
            "a record of kind {kind} with {size} bytes"
        );
        let rest = bytes.get(at + RECORD..at + size).context("the file is cut off")?;
        let end = rest
            .iter()
            .position(|byte| *byte == 0)
            .context("a name without an end")?;
        let code = word(at + 40)? as usize;
        ensure!(end + 1 + code == size - RECORD, "{code} bytes of code in {size}");
        names.push((String::from_utf8(rest[..end].to_vec())?, code));
        at += size;
    }
    Ok(names)
}

/// The one file in a directory whose name begins and ends so.
fn only(directory: &Path, begin: &str, end: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(begin) && name.ends_with(end) {
            found.push(path.clone());
        }
    }
    ensure!(found.len() == 1, "{begin}...{end}: {found:?}");
    Ok(found.remove(0))
}

/// `ring3 doctor` runs a loop of a guest's at address 5.
#[test]
#[ignore = "needs the built ring3: cargo xtask e2e"]
fn a_jitdump_names_the_guests_code() -> Result<()> {
    let bench = Bench::new()?;
    if !bench.needs_ring3("RING3_PERF") {
        return Ok(());
    }
    let symbols = bench.dir.path().join("System.map");
    for (text, expected) in [
        ("", "guest@5"),
        ("0000000000000005 T the_loop\n", "the_loop"),
        (
            "0000000000000002 t before\n0000000000000005 D data\n",
            "before+0x3",
        ),
    ] {
        let directory = tempfile::tempdir_in(bench.dir.path())?;
        std::fs::write(&symbols, text)?;
        let mut doctor = Command::new(places::ring3()?);
        doctor.arg("doctor").env("TMPDIR", directory.path());
        doctor
            .env("RING3_PERF", "jitdump,map")
            .env("RING3_SYMBOLS", &symbols);
        let child = doctor.stdout(std::process::Stdio::null()).spawn()?;
        let map = PathBuf::from(format!("/tmp/perf-{}.map", child.id()));
        ensure!(child.wait_with_output()?.status.success(), "ring3 doctor failed");
        let names = names(&only(directory.path(), "jit-", ".dump")?)?;
        ensure!(
            names.iter().any(|(name, code)| name == expected && *code > 0),
            "{names:?}"
        );
        ensure!(names.iter().any(|(name, _)| name == "ring3-stubs"), "{names:?}");
        let text = std::fs::read_to_string(&map).with_context(|| format!("{}", map.display()))?;
        std::fs::remove_file(&map)?;
        let ends = |line: &str| line.rsplit_once(' ').is_some_and(|(_, name)| name == expected);
        ensure!(text.lines().any(ends), "{text}");
    }
    Ok(())
}

/// Runs `perf`; false if it fails, which says what it said.
fn perf(perf: &Path, directory: &Path, arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new(perf);
    command
        .args(arguments)
        .current_dir(directory)
        .env("TMPDIR", directory);
    let output = command
        .env("RING3_PERF", "jitdump")
        .env("HOME", directory)
        .output()?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), said))
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn perf_reports_the_guests_code() -> Result<()> {
    let bench = Bench::new()?;
    if !bench.needs_ring3("RING3_PERF") {
        return Ok(());
    }
    let Some(program) = places::program("perf") else {
        println!("skipped: perf is not installed (apt-get install linux-perf)");
        return Ok(());
    };
    let directory = bench.dir.path();
    let (works, said) = perf(&program, directory, &["record", "-k", "1", "-o", "try", "true"])?;
    if !works {
        println!(
            "skipped: perf does not work here: {}",
            said.lines().next().unwrap_or_default()
        );
        return Ok(());
    }
    let ring3 = places::ring3()?;
    // Without an initramfs the boot soon ends in a panic: `perf inject` makes a file for each piece of code.
    let line = "console=ttyS0 quiet panic=-1 reboot=k";
    let kernel = bench.assets.kernel.display().to_string();
    let ring3 = ring3.display().to_string();
    let record = [
        "record", "-N", "-k", "1", "-F", "499", "-o", "raw", "timeout", "120", &ring3,
    ];
    let boot = ["boot", "--kernel", &kernel, "--cmdline", line];
    let (booted, said) = perf(&program, directory, &[&record[..], &boot[..]].concat())?;
    ensure!(booted, "perf record: {said}");
    let (injected, said) = perf(
        &program,
        directory,
        &["inject", "--jit", "-i", "raw", "-o", "data"],
    )?;
    ensure!(injected, "perf inject: {said}");
    let (reported, said) = perf(
        &program,
        directory,
        &["report", "-i", "data", "--stdio", "--sort", "symbol"],
    )?;
    ensure!(reported, "perf report: {said}");
    let named = said
        .lines()
        .filter(|line| line.contains("guest@ffffffff"))
        .count();
    ensure!(
        named > 10,
        "perf names {named} pieces of the guest's kernel:\n{said}"
    );
    Ok(())
}
