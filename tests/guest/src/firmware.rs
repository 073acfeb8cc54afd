//! UEFI: Debian's OVMF, in QEMU's flash.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::assets;
use crate::debian::Fetcher;

/// What the firmware starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Whatever there is.
    Open,
    /// Only what is signed: Microsoft's keys are enrolled. The flash can only be written in system management mode.
    SecureBoot,
}

/// Firmware, to be put into a machine.
pub struct Ovmf {
    code: PathBuf,
    /// Of which each machine gets a copy.
    variables: PathBuf,
    security: Security,
}

impl Ovmf {
    /// The firmware, fetched if it is not there yet.
    pub fn get(security: Security) -> Result<Self> {
        let (dir, _lock) = assets::lock()?;
        let files = Fetcher::new(&dir)?.unpack("ovmf")?.join("usr/share/OVMF");
        let (code, variables) = match security {
            Security::Open => ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
            Security::SecureBoot => ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"),
        };
        Ok(Self {
            code: files.join(code),
            variables: files.join(variables),
            security,
        })
    }

    /// Has `command`, a QEMU, begin with the firmware; its variables are kept in `dir`.
    pub fn attach(&self, dir: &Path, command: &mut Command) -> Result<()> {
        let variables = dir.join("variables.fd");
        std::fs::copy(&self.variables, &variables)
            .with_context(|| format!("copying {}", self.variables.display()))?;
        if self.security == Security::SecureBoot {
            command.args(["-machine", "q35,smm=on"]);
            command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        let flash = "if=pflash,format=raw,unit";
        command
            .arg("-drive")
            .arg(format!("{flash}=0,readonly=on,file={}", self.code.display()));
        command
            .arg("-drive")
            .arg(format!("{flash}=1,file={}", variables.display()));
        Ok(())
    }
}
