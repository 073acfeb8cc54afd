//! `cargo xtask kvm-ioctls`: the `kvm-ioctls` crate's own tests, unchanged, under `ring3 run`.
//!
//! The version and the tests that may fail stand in `tests/upstream/kvm-ioctls.toml`. Each test first runs in a
//! process of its own, so that a crash is one test's failure; then all that should pass run in one process, two
//! at a time. The crate's documentation examples are not run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use ring3_guest::places;
use serde::Deserialize;

use crate::ci;
use crate::run::{Tally, cargo, output, run as run_command, test_program};
use crate::upstream::{self, excerpt};

const EXPECTATIONS: &str = "tests/upstream/kvm-ioctls.toml";

/// Seconds for one test; the slowest takes a fraction of one on a real KVM.
const TEST_LIMIT: &str = "60";
const ALL_LIMIT: &str = "300";

#[derive(Deserialize)]
struct Pinned {
    version: String,
}

pub fn run(filter: Option<&str>) -> Result<Tally> {
    let (expectations, Pinned { version }) = upstream::read(EXPECTATIONS)?;
    let ring3 = ci::build_ring3()?;
    let binary = build(&version)?;
    let names = list(&binary)?;

    let mut tally = expectations.tally(&names);
    let chosen = names
        .iter()
        .filter(|name| filter.is_none_or(|filter| name.contains(filter)));
    let mut passing = Vec::new();
    for name in chosen {
        let result = under_ring3(&ring3, TEST_LIMIT, &binary, &["--exact", name], 1);
        if result.is_ok() && !expectations.is_listed(name) {
            passing.push(name.as_str());
        }
        println!("test {name} ... {}", expectations.judge(&mut tally, name, result));
    }
    let mut together = vec!["--test-threads", "2", "--exact"];
    together.extend(&passing);
    if !passing.is_empty()
        && let Err(error) = under_ring3(&ring3, ALL_LIMIT, &binary, &together, passing.len())
    {
        tally
            .broken
            .push(format!("tests that pass alone fail in one process: {error:#}"));
    }
    Ok(tally)
}

/// Runs the test program, in which `count` tests must pass; its output is only shown if they do not.
fn under_ring3(ring3: &Path, limit: &str, binary: &Path, arguments: &[&str], count: usize) -> Result<()> {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", limit])
        .arg(ring3)
        .args(["run", "--"])
        .arg(binary)
        .args(arguments);
    let output = command.output().context("starting timeout")?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    // An exit status of 0 alone could also come from a `ring3 run` that ran nothing.
    let passed = stdout.contains(&format!("test result: ok. {count} passed"));
    if output.status.success() && passed {
        return Ok(());
    }
    let why = match output.status.code() {
        Some(124 | 137) => format!("not finished after {limit} s"),
        Some(0) => format!("ended without {count} passed tests"),
        _ => output.status.to_string(),
    };
    bail!("{why}\n{}", excerpt(&output, |line| !line.contains("... ok")))
}

/// The names of all tests. The program is asked without ring3: listing opens nothing.
fn list(binary: &Path) -> Result<Vec<String>> {
    let text = output(Command::new(binary).args(["--list", "--format", "terse"]))?;
    Ok(text
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_string)
        .collect())
}

/// Builds the crate's test program from the registry's source of exactly `version`, with the crate's own lock file.
fn build(version: &str) -> Result<PathBuf> {
    let upstream = places::target().join("upstream");
    let copy = upstream.join(format!("kvm-ioctls-{version}"));
    if !copy.join("Cargo.toml").is_file() {
        let source = fetch(&upstream, version)?;
        let partial = upstream.join("kvm-ioctls.partial");
        let _ = std::fs::remove_dir_all(&partial);
        copy_tree(&source, &partial)?;
        // The copy stands below our workspace and must not be taken for a part of it.
        let manifest = partial.join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest)?;
        std::fs::write(&manifest, format!("{text}\n[workspace]\n"))?;
        std::fs::rename(&partial, &copy)?;
    }
    let mut command = cargo();
    command
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", upstream.join("build"));
    command.args(["test", "--quiet", "--lib", "--locked"]);
    test_program(&mut command)
}

/// Lets cargo put the crate's source into its registry, and returns where.
fn fetch(upstream: &Path, version: &str) -> Result<PathBuf> {
    let dir = upstream.join("fetch");
    std::fs::create_dir_all(dir.join("src"))?;
    std::fs::write(dir.join("src/lib.rs"), "")?;
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
         [dependencies]\nkvm-ioctls = \"={version}\"\n"
    );
    std::fs::write(dir.join("Cargo.toml"), manifest)?;
    run_command(cargo().current_dir(&dir).args(["fetch", "--quiet"]))?;
    let text = output(
        cargo()
            .current_dir(&dir)
            .args(["metadata", "--format-version", "1"]),
    )?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "kvm-ioctls")
        .and_then(|package| {
            Path::new(package["manifest_path"].as_str()?)
                .parent()
                .map(Path::to_path_buf)
        })
        .context("cargo metadata does not know where kvm-ioctls is")
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
