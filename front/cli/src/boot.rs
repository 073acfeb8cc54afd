//! `ring3 boot`: the bundled VMM, on ring3 in this process or on a device.

use anyhow::{Context, Result};
use clap::Args;
use ring3_client::Kvm;
use ring3_client::device;
use ring3_vmm::{Config, End};
use std::path::PathBuf;

/// A serial console, and a reset where the guest panics.
const CMDLINE: &str = "console=ttyS0 panic=-1 reboot=k";

#[derive(Args)]
pub struct Options {
    /// The kernel: a bzImage, or a 64-bit vmlinux
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// An initramfs
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", default_value = CMDLINE, allow_hyphen_values = true)]
    cmdline: String,
    /// Memory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u64,
    /// Processors
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    cpus: u32,
    /// Use this KVM device instead of ring3
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// Wait for gdb here before the guest's first instruction: a port of this host's own, HOST:PORT, or a socket's path
    #[arg(long, value_name = "ADDR|PATH")]
    gdb: Option<String>,
}

/// Boots, and says on standard error how it ended if the guest did not power off.
pub fn boot(options: Options) -> Result<()> {
    let kvm = match &options.device {
        None => Kvm::in_process().context("ring3")?,
        Some(path) => {
            let name = path
                .to_str()
                .with_context(|| format!("device {path:?}: not UTF-8"))?;
            Kvm::from_handle(device::open(name).with_context(|| format!("device {name}"))?)
        }
    };
    let config = Config {
        kernel: options.kernel,
        initrd: options.initrd,
        cmdline: options.cmdline,
        memory_mib: options.memory,
        cpus: options.cpus,
        gdb: options.gdb,
    };
    match ring3_vmm::boot(&kvm, &config)? {
        End::PowerOff => {}
        End::Reset => eprintln!("ring3: the guest asked for a reset"),
        End::Quit => eprintln!("ring3: quit"),
    }
    Ok(())
}
