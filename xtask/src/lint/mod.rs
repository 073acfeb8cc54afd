//! The static checks: what can be said about the tree without running it.

mod docs;
mod islands;
mod layers;
mod ranks;
mod sizes;
mod source;

use std::path::Path;

use anyhow::{Result, bail};
use ignore::WalkBuilder;
use ring3_guest::places;

use crate::run::{cargo, output, run};

/// How much is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Without clippy.
    Quick,
    Full,
}

/// One thing that is wrong, ready to be printed.
pub type Finding = String;

/// Runs every check and prints every finding.
pub fn all(depth: Depth) -> Result<()> {
    let files = tracked_files()?;
    let mut failed = 0;
    failed += report("layers", "nothing imports upwards", layers::check()?);
    failed += report(
        "islands",
        "unsafe code stays on its islands",
        islands::check(&files)?,
    );
    failed += report("sizes", "files stay small", sizes::check(&files)?);
    failed += report("docs", "documents name what exists", docs::check(&files)?);
    failed += report(
        "ranks",
        "docs/locking.md has the order of locks",
        ranks::check(&files)?,
    );
    failed += outcome(
        "format",
        "rustfmt",
        run(cargo().args(["fmt", "--all", "--check"])),
    );
    if depth == Depth::Full {
        let mut clippy = cargo();
        clippy.args(["clippy", "--workspace", "--all-targets"]);
        let what = if is_the_pinned_clippy()? {
            clippy.args(["--", "-D", "warnings"]);
            "no warnings"
        } else {
            "no errors (warnings may be new in this version)"
        };
        failed += outcome("clippy", what, run(&mut clippy));
    } else {
        println!("skipped clippy: --quick");
    }
    if failed > 0 {
        bail!("{failed} static checks failed");
    }
    Ok(())
}

/// Whether clippy is of the Rust version that `Cargo.toml` names. Every version warns of more than the one before, which
/// must not make a good tree fail.
fn is_the_pinned_clippy() -> Result<bool> {
    // "1.95" comes with "clippy 0.1.95 (...)".
    let version = output(cargo().args(["clippy", "--version"]))?;
    let pinned = env!("CARGO_PKG_RUST_VERSION").split('.').nth(1);
    let have = version
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.split('.').nth(2));
    Ok(pinned.is_some() && pinned == have)
}

fn report(name: &str, what: &str, findings: Vec<Finding>) -> usize {
    for finding in &findings {
        println!("        {finding}");
    }
    let verdict = if findings.is_empty() { "ok" } else { "FAILED" };
    println!("{verdict:7} {name}: {what}");
    usize::from(!findings.is_empty())
}

fn outcome(name: &str, what: &str, result: Result<()>) -> usize {
    report(
        name,
        what,
        result.err().map(|error| error.to_string()).into_iter().collect(),
    )
}

/// Every file of the tree that git does not ignore, relative to the root. Asks no git: there may be none, or one that
/// mistrusts a checkout of another user.
fn tracked_files() -> Result<Vec<String>> {
    let root = places::workspace();
    let walk = WalkBuilder::new(&root)
        .hidden(false)
        .parents(false)
        .git_global(false)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_path(Path::cmp)
        .build();
    let mut files = Vec::new();
    for entry in walk {
        let entry = entry?;
        if entry.file_type().is_some_and(|kind| kind.is_file())
            && let Some(file) = entry.path().strip_prefix(&root)?.to_str()
        {
            files.push(file.to_string());
        }
    }
    Ok(files)
}
