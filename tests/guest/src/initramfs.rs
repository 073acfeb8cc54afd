//! The initramfs: busybox, the virtio modules, and the scripts of `init/`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cpio::Archive;
use crate::modules::{Module, Tree};

const INIT: &str = include_str!("../init/init.sh");
const DHCP: &str = include_str!("../init/dhcp.sh");

/// The drivers that the tests' disks and network cards need.
const DRIVERS: [&str; 4] = ["virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net"];

/// Builds the archive from an unpacked kernel package and a static busybox with these applets. The guest gets more drivers if they
/// are named.
pub fn build(kernel_package: &Path, busybox: &Path, applets: &[String], more: &[&str]) -> Result<Vec<u8>> {
    let modules = modules(kernel_package, more)?;
    let mut archive = Archive::new();
    for dir in [
        "bin", "dev", "proc", "sys", "tmp", "root", "etc", "work", "modules",
    ] {
        archive.directory(dir);
    }
    // The kernel opens it for init before init can mount devtmpfs.
    archive.character_device("dev/console", 5, 1);
    let bytes = std::fs::read(busybox).with_context(|| format!("reading {}", busybox.display()))?;
    archive.file("bin/busybox", 0o755, &bytes);
    for applet in applets {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("work/dhcp.sh", 0o755, DHCP.as_bytes());
    let mut order = String::new();
    for module in &modules {
        archive.file(&format!("modules/{}.ko", module.name), 0o644, &module.bytes);
        order.push_str(&module.name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive.finish())
}

/// busybox itself says which applets it holds; it is a static program of the host's architecture.
pub fn applets(busybox: &Path) -> Result<Vec<String>> {
    let output = Command::new(busybox)
        .arg("--list")
        .output()
        .context("running busybox --list")?;
    if !output.status.success() {
        bail!("busybox --list failed");
    }
    let list = String::from_utf8_lossy(&output.stdout);
    Ok(list
        .lines()
        .filter(|name| *name != "busybox" && !name.contains('/'))
        .map(str::to_string)
        .collect())
}

fn modules(kernel_package: &Path, more: &[&str]) -> Result<Vec<Module>> {
    let usr = kernel_package.join("usr/lib/modules");
    let root = if usr.is_dir() {
        usr
    } else {
        kernel_package.join("lib/modules")
    };
    let builtin = builtin(&root)?;
    let wanted: Vec<&str> = DRIVERS
        .iter()
        .chain(more)
        .copied()
        .filter(|name| !builtin.iter().any(|b| b == name))
        .collect();
    Tree::scan(&root)?.in_load_order(&wanted, &builtin)
}

/// The kernel's own list of what is not a module.
fn builtin(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for version in std::fs::read_dir(root).with_context(|| format!("reading {}", root.display()))? {
        let Ok(list) = std::fs::read_to_string(version?.path().join("modules.builtin")) else {
            continue;
        };
        for line in list.lines() {
            let file = line.rsplit('/').next().unwrap_or(line);
            names.extend(crate::modules::module_name(file));
        }
    }
    Ok(names)
}
