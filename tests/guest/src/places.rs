//! Where things are: the workspace, its target directory, and the built `ring3`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The root of the workspace this crate was built from.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Cargo's target directory: `CARGO_TARGET_DIR` if it is set, else `target/` in the workspace.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// The `ring3` command to test: `RING3_BIN` if it is set, else the release build, else the debug build.
///
/// `libring3.so` must stand beside it, because that is where `ring3 run` looks for it.
pub fn ring3() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("RING3_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("RING3_BIN names {}, which is not a file", path.display());
        }
        return Ok(path);
    }
    for profile in ["release", "debug"] {
        let dir = target().join(profile);
        if dir.join("ring3").is_file() && dir.join("libring3.so").is_file() {
            return Ok(dir.join("ring3"));
        }
    }
    bail!(
        "no ring3 with libring3.so beside it under {}: build with \
         `cargo build --release -p ring3-cli -p ring3-preload`",
        target().display()
    )
}

/// A program on `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian leaves sbin out of an ordinary user's PATH.
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// A program on `PATH`, or an error that names the Debian package holding it.
pub fn need(name: &str, package: &str) -> Result<PathBuf> {
    program(name).with_context(|| format!("`{name}` is not installed: apt-get install {package}"))
}
