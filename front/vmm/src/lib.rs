//! A minimal VMM: boots a Linux kernel with a serial console on any KVM.
//!
//! Written only on [`ring3_client`], so it runs on a real KVM as well as on ring3. [`boot`] is all there is to it:
//! [`memory`] is the guest's RAM, [`kernel`] puts Linux and what it is told there, [`acpi`] describes the machine,
//! [`machine`] builds it, [`vcpu`] runs a processor, [`devices`] answers its ports, [`console`] is the terminal,
//! [`gdb`] lets a debugger look.
//!
//! Not supported: disks, networks, PCI, kernels without a 64-bit entry. A guest that asks for a reset ends the boot.
#![forbid(unsafe_code)]

mod acpi;
mod console;
mod devices;
mod gdb;
mod kernel;
mod layout;
mod machine;
mod memory;
mod vcpu;

use anyhow::Result;
use ring3_client::Kvm;
use std::path::PathBuf;

/// What to boot.
#[derive(Clone, Debug)]
pub struct Config {
    /// A bzImage, or a 64-bit vmlinux.
    pub kernel: PathBuf,
    /// An initramfs.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
    /// RAM, in MiB.
    pub memory_mib: u64,
    /// Processors.
    pub cpus: u32,
    /// Where a debugger is waited for, before the guest does anything: a port of this host's own, `HOST:PORT`, or the path of
    /// a socket.
    pub gdb: Option<String>,
}

/// How a guest came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It powered off.
    PowerOff,
    /// It asked for a reset.
    Reset,
    /// Whoever sits at the console had enough.
    Quit,
}

/// Boots the kernel on `kvm` and returns when the guest is done, its console on this process's standard streams.
///
/// Processors that wait in KVM_RUN then are left there: the process is about to end.
pub fn boot(kvm: &Kvm, config: &Config) -> Result<End> {
    machine::Machine::build(kvm, config)?.run()
}
