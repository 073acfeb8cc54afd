//! `cargo xtask man DIR`: the command's manual pages and completions, written by the command itself.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::ci;
use crate::run::run;

/// Makes `man1/` and `completions/` in `directory`.
pub fn write(directory: &Path) -> Result<()> {
    let ring3 = ci::build_ring3()?;
    run(Command::new(ring3).arg("pages").arg(directory))
}
