//! What guests boot from: Debian's cloud kernel and an initramfs around its static busybox.
//!
//! Fetched once and kept in `target/assets`; only the initramfs is built again when its scripts changed.
//! `cargo xtask assets` calls this; so does the first test or benchmark that needs a guest.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::debian::Fetcher;
use crate::{initramfs, places};

const KERNEL_METAPACKAGE: &str = "linux-image-cloud-amd64";
pub(crate) const KERNEL_PREFIX: &str = "linux-image-";
pub(crate) const BUSYBOX_PACKAGE: &str = "busybox-static";

/// Paths of everything a guest needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assets {
    /// The package the kernel came from, version included in its name.
    pub kernel_package: String,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// A static busybox that runs on the host too: the native side of benchmarks.
    pub busybox: PathBuf,
}

/// Whether to look for a newer kernel package than the cached one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    Cached,
    Newest,
}

impl Assets {
    /// The assets, fetched and built if they are not there yet. Tests in several processes may call this
    /// at once: a lock file makes one of them work and the others wait.
    pub fn get() -> Result<Self> {
        Self::prepare(Freshness::Cached, &mut |_| {})
    }

    /// As [`Assets::get`], telling `progress` each step.
    pub fn prepare(freshness: Freshness, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        let (dir, _lock) = lock()?;
        let cached = match freshness {
            Freshness::Cached => read_manifest(&dir),
            Freshness::Newest => None,
        };
        let (kernel_package, kernel_root, busybox) = match cached {
            Some(found) => found,
            None => fetch(&dir, progress)?,
        };
        progress("building the initramfs");
        let archive = initramfs::build(&kernel_root, &busybox, &initramfs::applets(&busybox)?, &[])?;
        let initramfs = dir.join("initramfs.cpio");
        write_if_changed(&initramfs, &archive)?;
        let kernel = kernel_in(&kernel_root)?;
        Ok(Self {
            kernel_package,
            kernel,
            initramfs,
            busybox,
        })
    }
}

/// `target/assets`, and the lock on it, which others wait for.
pub(crate) fn lock() -> Result<(PathBuf, File)> {
    let dir = places::target().join("assets");
    std::fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join("lock"))?;
    lock.lock().context("locking target/assets")?;
    Ok((dir, lock))
}

/// What `manifest.json` remembers between runs; paths are relative to `target/assets`.
#[derive(Serialize, Deserialize)]
struct Manifest {
    kernel_package: String,
}

type Found = (String, PathBuf, PathBuf);

fn found(dir: &Path, kernel_package: String) -> Found {
    let kernel_root = dir.join(&kernel_package);
    (
        kernel_package,
        kernel_root,
        busybox_in(&dir.join(BUSYBOX_PACKAGE)),
    )
}

/// Debian 12's package has it in /bin, later ones in /usr/bin.
pub(crate) fn busybox_in(root: &Path) -> PathBuf {
    let usr = root.join("usr/bin/busybox");
    if usr.is_file() {
        usr
    } else {
        root.join("bin/busybox")
    }
}

fn read_manifest(dir: &Path) -> Option<Found> {
    let text = std::fs::read_to_string(dir.join("manifest.json")).ok()?;
    let manifest: Manifest = serde_json::from_str(&text).ok()?;
    let found = found(dir, manifest.kernel_package);
    (found.1.is_dir() && found.2.is_file()).then_some(found)
}

fn fetch(dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<Found> {
    let mut fetcher = Fetcher::new(dir)?;
    progress(&format!("asking Debian for the kernel of {KERNEL_METAPACKAGE}"));
    let kernel_package = fetcher.dependency(KERNEL_METAPACKAGE, KERNEL_PREFIX)?;
    progress(&format!("fetching {kernel_package}"));
    fetcher.unpack(&kernel_package)?;
    progress(&format!("fetching {BUSYBOX_PACKAGE}"));
    fetcher.unpack(BUSYBOX_PACKAGE)?;
    let found = found(dir, kernel_package);
    let manifest = Manifest {
        kernel_package: found.0.clone(),
    };
    std::fs::write(dir.join("manifest.json"), serde_json::to_vec_pretty(&manifest)?)?;
    Ok(found)
}

pub(crate) fn kernel_in(root: &Path) -> Result<PathBuf> {
    let boot = root.join("boot");
    for entry in std::fs::read_dir(&boot).with_context(|| format!("reading {}", boot.display()))? {
        let path = entry?.path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
        {
            return Ok(path);
        }
    }
    anyhow::bail!("{} holds no vmlinuz", boot.display())
}

/// Leaves an equal file alone, so that a guest that is reading it right now is not disturbed.
pub(crate) fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let partial = path.with_extension("partial");
    std::fs::write(&partial, bytes)?;
    std::fs::rename(&partial, path)?;
    Ok(())
}
