//! The static checks: what can be said about the tree without running it.

mod docs;
mod islands;
mod layers;
mod ranks;
mod sizes;
mod source;

use anyhow::{Result, bail};

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
        clippy.args([
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]);
        failed += outcome("clippy", "no warnings", run(&mut clippy));
    } else {
        println!("skipped clippy: --quick");
    }
    if failed > 0 {
        bail!("{failed} static checks failed");
    }
    Ok(())
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

/// Every file of the tree, tracked or about to be, relative to the root.
fn tracked_files() -> Result<Vec<String>> {
    let mut git = std::process::Command::new("git");
    git.current_dir(ring3_guest::places::workspace());
    git.args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--deduplicate",
    ]);
    let root = ring3_guest::places::workspace();
    let files = output(&mut git)?;
    // A deleted file is listed until the deletion is committed.
    Ok(files
        .lines()
        .filter(|file| root.join(file).is_file())
        .map(str::to_string)
        .collect())
}
