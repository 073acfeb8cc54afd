//! C programs for guests: static, so that they need nothing of the guest's, and packed behind the initramfs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cpio::Archive;
use crate::{Assets, places};

/// Builds a static program.
pub fn compile(sources: &[PathBuf], to: &Path) -> Result<()> {
    let compiler = places::need("gcc", "gcc")?;
    let status = Command::new(compiler)
        .args(["-O2", "-Wall", "-static", "-pthread", "-o"])
        .arg(to)
        .args(sources)
        .status()
        .context("starting gcc")?;
    if !status.success() {
        bail!("gcc could not build {}", to.display());
    }
    Ok(())
}

/// The assets, with `archive` behind their initramfs in a file of its own: the kernel unpacks one after the other.
pub fn pack(assets: &Assets, archive: Archive, to: &Path) -> Result<Assets> {
    let mut initramfs = std::fs::read(&assets.initramfs)?;
    initramfs.extend(archive.finish());
    std::fs::write(to, initramfs)?;
    Ok(Assets {
        initramfs: to.to_path_buf(),
        ..assets.clone()
    })
}
