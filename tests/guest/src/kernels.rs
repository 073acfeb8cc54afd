//! Debian's kernels other than the cloud one: that of ordinary machines, and those of 32-bit machines.
//!
//! The 32-bit ones get a 32-bit busybox, as they run nothing else. Their packages are those of [`SUITE`], whatever the host is.
//!
//! [`SUITE`]: crate::debian::SUITE

use std::path::Path;

use anyhow::Result;

use crate::assets::{self, Assets, BUSYBOX_PACKAGE, KERNEL_PREFIX};
use crate::debian::{Fetcher, SUITE};
use crate::initramfs;

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// What an ordinary installation has: everything is a module.
    Standard,
    /// 32 bits, with PAE.
    Pae,
    /// 32 bits, with page tables of two levels.
    TwoLevel,
}

/// What is unpacked of a kernel's package.
const PARTS: [&str; 9] = [
    "./boot/vmlinuz*",
    "./lib/modules/*/modules.builtin",
    "./lib/modules/*/kernel/crypto/*",
    "./lib/modules/*/kernel/lib/*",
    "./lib/modules/*/kernel/fs/*",
    "./lib/modules/*/kernel/drivers/block/*",
    "./lib/modules/*/kernel/drivers/net/*",
    "./lib/modules/*/kernel/drivers/virtio/*",
    "./lib/modules/*/kernel/net/core/*",
];

/// What takes a file system on a disk; ext4 asks for the checksum by a name that is no module's.
const DRIVERS: [&str; 2] = ["crc32c_generic", "ext4"];

impl Flavour {
    fn metapackage(self) -> &'static str {
        match self {
            Self::Standard => "linux-image-amd64",
            Self::Pae => "linux-image-686-pae",
            Self::TwoLevel => "linux-image-686",
        }
    }

    /// Whence the packages come.
    fn fetcher(self, dir: &Path) -> Result<Fetcher> {
        match self {
            Self::Standard => Fetcher::of_suite(dir, SUITE),
            Self::Pae | Self::TwoLevel => Fetcher::of_architecture(dir, SUITE, "i386"),
        }
    }

    /// The kernel, with an initramfs that does what that of the cloud kernel does, and can mount ext4; fetched and built if they
    /// are not there yet.
    pub fn assets(self) -> Result<Assets> {
        let host = Assets::get()?;
        let (dir, _lock) = assets::lock()?;
        let mut fetcher = self.fetcher(&dir)?;
        let kernel_package = fetcher.dependency(self.metapackage(), KERNEL_PREFIX)?;
        let root = fetcher.unpack_only(&kernel_package, &PARTS)?;
        let busybox = assets::busybox_in(&fetcher.unpack(BUSYBOX_PACKAGE)?);
        // A host may be unable to run the guest's; they are of one version, or nearly so.
        let applets = initramfs::applets(&host.busybox)?;
        let archive = initramfs::build(&root, &busybox, &applets, &DRIVERS)?;
        let initramfs = dir.join(format!("{}.cpio", self.metapackage()));
        assets::write_if_changed(&initramfs, &archive)?;
        Ok(Assets {
            kernel: assets::kernel_in(&root)?,
            kernel_package,
            initramfs,
            busybox,
        })
    }
}
