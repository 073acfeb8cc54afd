//! Where things are: the workspace, its target directory, the built `ring3`, and the system's programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

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
         `cargo build --release -p ring3-cli -p ring3-preload -p ring3-loader`",
        target().display()
    )
}

/// A program on `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    programs(name).next()
}

/// All programs of that name on `PATH`.
fn programs(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian leaves sbin out of an ordinary user's PATH.
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).chain(extra).collect();
    dirs.into_iter()
        .map(move |dir| dir.join(name))
        .filter(|file| file.is_file())
}

/// A program on `PATH`, or an error that names the Debian package holding it.
pub fn need(name: &str, package: &str) -> Result<PathBuf> {
    program(name).with_context(|| format!("`{name}` is not installed: apt-get install {package}"))
}

/// An installed QEMU.
#[derive(Clone, Debug)]
pub struct Qemu {
    pub path: PathBuf,
    /// What it says of itself.
    pub version: String,
}

/// The newest QEMU on `PATH`.
pub fn newest_qemu() -> Result<Qemu> {
    const NAME: &str = "qemu-system-x86_64";
    let all = programs(NAME).filter_map(|path| {
        let output = Command::new(&path).arg("--version").output().ok()?;
        let version = String::from_utf8(output.stdout).ok()?.lines().next()?.to_string();
        Some(Qemu { path, version })
    });
    // Of equal ones, the first.
    let newest = all.reduce(|a, b| {
        if numbers(&b.version) > numbers(&a.version) {
            b
        } else {
            a
        }
    });
    newest.with_context(|| format!("`{NAME}` is not installed: apt-get install qemu-system-x86"))
}

/// The numbers of the first word that begins with one.
fn numbers(version: &str) -> Vec<u32> {
    let word = version
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    word.unwrap_or_default()
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

/// Runs a command, which must succeed: what it printed is in the error otherwise.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{:?} ended with {}:\n{}{}",
        command.get_program(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_ordered_as_numbers() {
        let old = numbers("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)");
        assert_eq!(old, [7, 2, 22]);
        assert!(numbers("QEMU emulator version 10.0.2") > old);
        assert!(numbers("no version").is_empty());
    }
}
