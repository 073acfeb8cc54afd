//! `cargo xtask book`: the book's chapters exist, and the commands that it marks to be run do run.
//!
//! A block is run if it is fenced as `console,run`: its lines that begin with `$ ` are commands of one script, `> ` goes on with the
//! line before, and all others are what they print, which is not compared. The script runs in a scratch directory, with the built
//! `ring3` first on the PATH, and has `vmlinuz` and `initramfs.cpio` there: the guest of the end-to-end tests.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use ring3_guest::assets::{Assets, Freshness};
use ring3_guest::places;

use crate::children::{self, Ended};
use crate::ci;
use crate::run::Tally;

/// After which a block hangs for certain.
const LIMIT: Duration = Duration::from_secs(180);

/// A block of a chapter that is to be run.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    line: usize,
    script: String,
}

/// Checks the summary, and runs every block.
pub fn check() -> Result<Tally> {
    let source = places::workspace().join("docs/book/src");
    let mut tally = Tally::default();
    tally.broken.extend(unlisted(&source)?);
    let ring3 = ci::build_ring3()?;
    let assets = Assets::prepare(Freshness::Cached, &mut |step| println!("book: {step}"))?;
    for chapter in chapters(&fs::read_to_string(source.join("SUMMARY.md"))?) {
        let text = fs::read_to_string(source.join(&chapter)).unwrap_or_default();
        for block in blocks(&text) {
            let name = format!("{chapter}:{}", block.line);
            match run_block(&block, &ring3, &assets).with_context(|| name.clone())? {
                None => {
                    println!("book {name} ... ok");
                    tally.passed += 1;
                }
                Some(why) => {
                    println!("book {name} ... FAILED: {why}\n{}", block.script);
                    tally.failed += 1;
                    tally.failures.push(format!("book {name}"));
                }
            }
        }
    }
    Ok(tally)
}

/// The files that the summary names.
fn chapters(summary: &str) -> Vec<String> {
    let links = summary.lines().filter_map(|line| {
        let (_, rest) = line.split_once("](")?;
        let (target, _) = rest.split_once(')')?;
        Some(target.trim_start_matches("./").to_string())
    });
    links.filter(|target| !target.contains("://")).collect()
}

/// What the summary names and is not there, and the reverse.
fn unlisted(source: &Path) -> Result<Vec<String>> {
    let named: BTreeSet<String> = chapters(&fs::read_to_string(source.join("SUMMARY.md"))?)
        .into_iter()
        .collect();
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(source)? {
        there.extend(entry?.file_name().into_string().ok());
    }
    there.remove("SUMMARY.md");
    let missing = named
        .difference(&there)
        .map(|name| format!("docs/book: SUMMARY.md names {name}, which is not there"));
    let forgotten = there
        .difference(&named)
        .map(|name| format!("docs/book: SUMMARY.md does not name {name}"));
    Ok(missing.chain(forgotten).collect())
}

/// The blocks of a chapter that are to be run.
fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        match &mut open {
            None if line.trim() == "```console,run" => {
                open = Some(Block {
                    line: index + 1,
                    script: String::new(),
                });
            }
            None => {}
            Some(_) if line.trim() == "```" => found.extend(open.take()),
            Some(block) => {
                if let Some(command) = line.strip_prefix("$ ").or_else(|| line.strip_prefix("> ")) {
                    block.script.push_str(command);
                    block.script.push('\n');
                }
            }
        }
    }
    found
}

/// Runs a block; says why it failed, if it did.
fn run_block(block: &Block, ring3: &Path, assets: &Assets) -> Result<Option<String>> {
    let scratch = tempfile::tempdir()?;
    symlink(&assets.kernel, scratch.path().join("vmlinuz"))?;
    symlink(&assets.initramfs, scratch.path().join("initramfs.cpio"))?;
    let mut path = vec![ring3.parent().map(PathBuf::from).unwrap_or_default()];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &block.script]);
    command
        .current_dir(scratch.path())
        .env("PATH", std::env::join_paths(path)?)
        .stdin(std::process::Stdio::null());
    let (result, ended) = children::within(LIMIT, || command.output());
    let output = result.context("starting bash")?;
    Ok(match ended {
        Ended::Late => Some(format!("not finished after {} s", LIMIT.as_secs())),
        Ended::InTime if output.status.success() => None,
        Ended::InTime => {
            let said = String::from_utf8_lossy(&output.stderr);
            Some(format!("{}: {}", output.status, said.trim()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_blocks_are_scripts() {
        let text =
            "a\n```console,run\n$ one \\\n>   two\nits output\n$ three\n```\n```console\n$ not me\n```\n";
        let script = "one \\\n  two\nthree\n".to_string();
        assert_eq!(blocks(text), [Block { line: 2, script }]);
    }

    #[test]
    fn chapters_are_links() {
        let summary = "# Summary\n\n- [A](a.md)\n  - [B](./b.md)\n- [web](https://x.y/z)\n";
        assert_eq!(chapters(summary), ["a.md", "b.md"]);
    }

    #[test]
    fn the_summary_is_complete() {
        let source = places::workspace().join("docs/book/src");
        assert_eq!(
            unlisted(&source).expect("the book is there"),
            Vec::<String>::new()
        );
    }
}
