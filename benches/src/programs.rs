//! Our C programs: built once for every peer, run on the host, packed for guests, and understood.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ring3_guest::cpio::Archive;
use ring3_guest::{Assets, places, programs};

use crate::workloads::{Kind, WORKLOADS};

/// What guests and the host run: static programs, so that all peers execute the same instructions.
pub struct Programs {
    dir: PathBuf,
    /// The guests' assets, with an initramfs that holds the programs and scripts too.
    pub assets: Assets,
    /// What guests run in.
    pub qemu: PathBuf,
}

/// What a program said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    pub checksum: u64,
    /// How long it warmed up.
    pub warm: Duration,
    /// How long the timed passes took.
    pub time: Duration,
}

impl Programs {
    /// Builds them all, and the initramfs.
    pub fn build(assets: &Assets, qemu: &Path) -> Result<Self> {
        let dir = places::target().join("bench/programs");
        std::fs::create_dir_all(&dir)?;
        let mut archive = Archive::new();
        for workload in &WORKLOADS {
            let name = workload.name;
            match workload.kind {
                Kind::Boot | Kind::Smp | Kind::Exit => {}
                Kind::Script(script) => {
                    std::fs::write(dir.join(format!("{name}.sh")), script)?;
                    archive.file(&format!("work/{name}.sh"), 0o644, script.as_bytes());
                }
                Kind::Program(_) => {
                    compile(name, &dir)?;
                    archive.file(&format!("work/{name}"), 0o755, &std::fs::read(dir.join(name))?);
                }
            }
        }
        let assets = programs::pack(assets, archive, &dir.join("initramfs.cpio"))?;
        Ok(Self {
            dir,
            assets,
            qemu: qemu.to_path_buf(),
        })
    }

    /// The file of a script.
    pub fn script(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.sh"))
    }

    /// Runs a program on the host.
    pub fn run(&self, name: &str, percent: u32, copies: u32) -> Result<Said> {
        let output = Command::new(self.dir.join(name))
            .args([percent.to_string(), copies.to_string()])
            .output()
            .with_context(|| format!("starting {name}"))?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("{name} ended with {}: {}", output.status, error.trim());
        }
        let line = String::from_utf8_lossy(&output.stdout);
        let said = line.trim_end().strip_prefix(&result_of(name)).map(understand);
        said.with_context(|| format!("{name} printed no result, but {line:?}"))?
    }
}

/// How the line with a program's result begins.
pub fn result_of(name: &str) -> String {
    format!("result {name} ")
}

/// The rest of that line.
pub fn understand(rest: &str) -> Result<Said> {
    let field = |key: &str| {
        rest.split_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            .with_context(|| format!("no {key} in the result {rest:?}"))
    };
    Ok(Said {
        checksum: u64::from_str_radix(field("checksum")?, 16)?,
        warm: Duration::from_nanos(field("warm")?.parse()?),
        time: Duration::from_nanos(field("ns")?.parse()?),
    })
}

/// The flags are those of ordinary packages, and nothing that depends on the host's processor.
fn compile(name: &str, into: &Path) -> Result<()> {
    let sources = places::workspace().join("benches/programs");
    let sources = [sources.join("harness.c"), sources.join(format!("{name}.c"))];
    programs::compile(&sources, &into.join(name))
}

#[cfg(test)]
mod tests {
    use super::{Said, understand};
    use std::time::Duration;

    #[test]
    fn results_are_understood() {
        let said = understand("checksum=00ff warm=20 ns=300").expect("complete");
        let expected = Said {
            checksum: 255,
            warm: Duration::from_nanos(20),
            time: Duration::from_nanos(300),
        };
        assert_eq!(said, expected);
        assert!(understand("checksum=1 warm=2").is_err());
        assert!(understand("checksum=1 warm=2 ns=x").is_err());
    }
}
