//! One virtual machine as a QEMU command line.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{Assets, places};

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// `-accel kvm` under `ring3 run`.
    Ring3,
    /// `-accel tcg`: the peer, and the proof that a test itself is right.
    Tcg,
    /// `-accel kvm` on the machine's own `/dev/kvm`.
    Kvm,
}

impl Accel {
    /// The accelerator that `RING3_E2E_ACCEL` names; ring3 if it is not set.
    pub fn from_environment() -> Result<Self> {
        match std::env::var("RING3_E2E_ACCEL").as_deref() {
            Err(_) | Ok("") => Ok(Self::Ring3),
            Ok(name) => Self::named(name).context("RING3_E2E_ACCEL"),
        }
    }

    pub fn named(name: &str) -> Result<Self> {
        match name {
            "ring3" => Ok(Self::Ring3),
            "tcg" => Ok(Self::Tcg),
            "kvm" => Ok(Self::Kvm),
            other => bail!("no accelerator is named {other:?}; it may be ring3, tcg or kvm"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Ring3 => "ring3",
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

/// A machine to be started. `Machine::new` gives the plain one; fields may be changed before the start.
#[derive(Clone, Debug)]
pub struct Machine {
    pub accel: Accel,
    /// The QEMU to run; the first on `PATH` if it is not said.
    pub qemu: Option<PathBuf>,
    pub cpus: u32,
    /// QEMU's `-cpu`, with properties behind commas. TCG has no `host`; it gets `max` instead.
    pub cpu_model: String,
    pub memory_mib: u32,
    pub boot: Boot,
    /// Words for `init.sh` on the kernel command line, without their `ring3.` prefix.
    pub words: Vec<(String, String)>,
    /// A raw image on virtio-blk-pci.
    pub disk: Option<PathBuf>,
    pub network: Network,
    /// A Unix socket for QMP.
    pub qmp: Option<PathBuf>,
    /// A qcow2 image in which savevm keeps the machine's state.
    pub snapshots: Option<PathBuf>,
    /// A Unix socket on which another QEMU sends the machine's state; the machine does not boot.
    pub incoming: Option<PathBuf>,
    pub on_reset: OnReset,
    /// The console shows the kernel's log, or only init and what comes after.
    pub kernel_log: KernelLog,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// QEMU hands the assets' kernel and initramfs to the firmware.
    Kernel,
    /// The firmware finds something on a disk.
    Disk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    None,
    /// virtio-net-pci on QEMU's user networking: the host is 10.0.2.2.
    User,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReset {
    Exit,
    Reboot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelLog {
    Shown,
    Hidden,
}

impl Machine {
    pub fn new(accel: Accel) -> Self {
        Self {
            accel,
            qemu: None,
            cpus: 1,
            cpu_model: "host".to_string(),
            memory_mib: 512,
            boot: Boot::Kernel,
            words: Vec::new(),
            disk: None,
            network: Network::None,
            qmp: None,
            snapshots: None,
            incoming: None,
            on_reset: OnReset::Exit,
            kernel_log: KernelLog::Shown,
        }
    }

    /// Adds a word for `init.sh`: `test`, `then` or `port`.
    #[must_use]
    pub fn word(mut self, key: &str, value: &str) -> Self {
        self.words.push((key.to_string(), value.to_string()));
        self
    }

    /// The kernel command line.
    pub fn kernel_command_line(&self) -> String {
        let mut line = "console=ttyS0 panic=-1".to_string();
        if self.kernel_log == KernelLog::Hidden {
            line.push_str(" quiet");
        }
        for (key, value) in &self.words {
            line.push_str(&format!(" ring3.{key}={value}"));
        }
        line.push_str(&format!(" ring3.cpus={}", self.cpus));
        line
    }

    /// The whole command, not started.
    pub fn command(&self, assets: &Assets) -> Result<Command> {
        let qemu = match &self.qemu {
            Some(qemu) => qemu.clone(),
            None => places::need("qemu-system-x86_64", "qemu-system-x86")?,
        };
        let mut command = match self.accel {
            Accel::Ring3 => {
                let mut command = Command::new(places::ring3()?);
                command.args(["run", "--"]).arg(qemu);
                command
            }
            Accel::Tcg | Accel::Kvm => Command::new(qemu),
        };
        let model = match self.cpu_model.strip_prefix("host") {
            Some(properties) if self.accel == Accel::Tcg => format!("max{properties}"),
            _ => self.cpu_model.clone(),
        };
        command.args(["-accel", if self.accel == Accel::Tcg { "tcg" } else { "kvm" }]);
        command.args([
            "-cpu",
            &model,
            "-smp",
            &self.cpus.to_string(),
            "-m",
            &self.memory_mib.to_string(),
        ]);
        command.args(["-nographic", "-nic", "none"]);
        if self.boot == Boot::Kernel {
            command
                .arg("-kernel")
                .arg(&assets.kernel)
                .arg("-initrd")
                .arg(&assets.initramfs);
            command.args(["-append", &self.kernel_command_line()]);
        }
        if self.on_reset == OnReset::Exit {
            command.arg("-no-reboot");
        }
        if let Some(disk) = &self.disk {
            let drive = format!(
                "file={},format=raw,if=none,id=disk0,cache=writeback",
                disk.display()
            );
            command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=disk0"]);
        }
        if self.network == Network::User {
            command.args([
                "-netdev",
                "user,id=net0",
                "-device",
                "virtio-net-pci,netdev=net0,romfile=",
            ]);
        }
        if let Some(image) = &self.snapshots {
            // Two QEMUs have it open while a machine moves; only one of them runs.
            let drive = format!(
                "file={},format=qcow2,if=none,id=state,file.locking=off",
                image.display()
            );
            command.args(["-drive", &drive]);
        }
        if let Some(socket) = &self.incoming {
            command.args(["-incoming", &format!("unix:{}", socket.display())]);
        }
        if let Some(socket) = &self.qmp {
            command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        }
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::{Accel, KernelLog, Machine};

    #[test]
    fn words_reach_the_kernel_command_line() {
        let mut machine = Machine::new(Accel::Tcg)
            .word("test", "blk,net")
            .word("port", "1234");
        machine.cpus = 2;
        machine.kernel_log = KernelLog::Hidden;
        assert_eq!(
            machine.kernel_command_line(),
            "console=ttyS0 panic=-1 quiet ring3.test=blk,net ring3.port=1234 ring3.cpus=2"
        );
    }
}
