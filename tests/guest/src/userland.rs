//! A whole Debian on a disk: systemd, and all else that a plain installation has, made by `debootstrap`.
//!
//! Its first stage unpacks the packages here, and needs no privileges. The second, which configures them, runs here for root, in a
//! change of root; or else in a guest, which is what a guest may be asked for, too. What is installed is kept. Packages come from a
//! mirror in `target/assets`, from which the guest can install more.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::debian::{Fetcher, SUITE};
use crate::kernels::Flavour;
use crate::places::run;
use crate::{Assets, assets, mirror, places};

/// What is installed, besides what every Debian has.
const INCLUDED: [&str; 2] = ["dbus", "libpam-systemd"];
/// What apt is asked for, to have all that debootstrap wants.
const BASE: [&str; 3] = ["?priority(required)", "?priority(important)", "usr-is-merged"];
/// What the mirror has besides.
const MORE: [&str; 1] = ["hello"];

/// Root's.
pub const PASSWORD: &str = "ring3";

/// Files of the new system: path and content. The network card keeps the kernel's name, and dpkg need not wait for the disk.
const FILES: [(&str, &str); 6] = [
    ("etc/hostname", "guest\n"),
    ("etc/fstab", "/dev/vda / ext4 defaults 0 0\n"),
    (
        "etc/network/interfaces.d/eth0",
        "auto eth0\niface eth0 inet dhcp\n",
    ),
    (
        "etc/systemd/network/99-default.link",
        "[Match]\nOriginalName=*\n[Link]\nNamePolicy=keep kernel\n",
    ),
    ("etc/dpkg/dpkg.cfg.d/unsafe-io", "force-unsafe-io\n"),
    ("second-stage", SECOND_STAGE),
];

/// Unpacks the packages, and adds the files to them. In a container, debootstrap borrows its `/proc`.
const FIRST_STAGE: &str = r#"
sh "$DEBOOTSTRAP" --foreign --no-check-gpg --arch=amd64 --include="$INCLUDED" "$SUITE" root "file://$MIRROR"
unset DEBOOTSTRAP_DIR
if [ -L root/proc ]; then rm root/proc; mkdir root/proc; fi
cp -r files/. root/
"#;

/// Configures the packages, in the new system.
const SECOND_STAGE: &str = r#"#!/bin/sh
set -e
/debootstrap/debootstrap --second-stage
echo "root:$1" | chpasswd
rm /second-stage
"#;

/// Makes a file system.
const IMAGE: &str = r#"
"$MKE2FS" -q -t ext4 -d root image 2G
"#;

/// How far an installation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its second stage is to run in the guest; `init.sh` has a test for that.
    First,
    /// It can be started.
    Installed,
}

/// A system on a disk.
pub struct Userland {
    pub stage: Stage,
    /// The kernel, and an initramfs that finds the system on a disk.
    pub assets: Assets,
    /// The directory of the packages.
    pub mirror: PathBuf,
    dir: PathBuf,
}

impl Userland {
    /// The system, fetched and made if it is not there yet: installed if `wanted` says so and it can be, after its first stage
    /// otherwise.
    pub fn get(wanted: Stage) -> Result<Self> {
        let assets = Flavour::Standard.assets()?;
        let (dir, _lock) = assets::lock()?;
        let dir = dir.join("userland");
        std::fs::create_dir_all(&dir)?;
        let mut userland = Self {
            stage: wanted,
            assets,
            mirror: dir.join("mirror"),
            dir,
        };
        if userland.image().is_file() {
            return Ok(userland);
        }
        if wanted == Stage::Installed && rustix::process::geteuid().is_root() {
            match userland.make() {
                Ok(()) => return Ok(userland),
                Err(error) => eprintln!("debootstrap cannot end here, and goes on in the guest: {error:#}"),
            }
        }
        userland.stage = Stage::First;
        if !userland.image().is_file() {
            userland.make()?;
        }
        Ok(userland)
    }

    fn image(&self) -> PathBuf {
        self.dir.join(match self.stage {
            Stage::First => "first-stage.img",
            Stage::Installed => "installed.img",
        })
    }

    /// A disk of its own in `dir`.
    pub fn disk(&self, dir: &Path) -> Result<PathBuf> {
        let disk = dir.join("system.img");
        copy(&self.image(), &disk)?;
        Ok(disk)
    }

    /// Keeps a disk on which a guest has ended the installation.
    pub fn keep(&mut self, disk: &Path) -> Result<()> {
        self.stage = Stage::Installed;
        let partial = self.dir.join("keep.partial");
        copy(disk, &partial)?;
        Ok(std::fs::rename(partial, self.image())?)
    }

    fn make(&self) -> Result<()> {
        let mke2fs = places::need("mke2fs", "e2fsprogs")?;
        let mut fetcher = Fetcher::of_suite(&self.dir, SUITE)?;
        if !self.mirror.is_dir() {
            let partial = self.dir.join("mirror.partial");
            let _ = std::fs::remove_dir_all(&partial);
            mirror::make(&mut fetcher, &[&BASE[..], &INCLUDED, &MORE].concat(), &partial)?;
            std::fs::rename(partial, &self.mirror)?;
        }
        let debootstrap = fetcher.unpack("debootstrap")?;
        let partial = self.dir.join("partial");
        let _ = std::fs::remove_dir_all(&partial);
        for (name, content) in FILES {
            let file = partial.join("files").join(name);
            std::fs::create_dir_all(file.parent().context("a file is in a directory")?)?;
            std::fs::write(&file, content)?;
        }
        let mut command = self.installer()?;
        command.current_dir(&partial);
        command
            .env("DEBOOTSTRAP", debootstrap.join("usr/sbin/debootstrap"))
            .env("DEBOOTSTRAP_DIR", debootstrap.join("usr/share/debootstrap"))
            .env("INCLUDED", INCLUDED.join(","))
            .env("SUITE", SUITE)
            .env("MIRROR", &self.mirror)
            .env("MKE2FS", mke2fs)
            .env("PASSWORD", PASSWORD)
            .env("LC_ALL", "C");
        run(&mut command)?;
        std::fs::rename(partial.join("image"), self.image())?;
        Ok(std::fs::remove_dir_all(&partial)?)
    }

    /// What makes the image. Whoever is not root has to be shown as such, or all files would be theirs.
    fn installer(&self) -> Result<Command> {
        let mut command = match self.stage {
            Stage::First => Command::new(places::need("fakeroot", "fakeroot")?),
            // What is mounted for the second stage nobody else sees, and it goes with it.
            Stage::Installed => {
                let mut command = Command::new(places::need("unshare", "util-linux")?);
                command.arg("--mount");
                command
            }
        };
        let here = match self.stage {
            Stage::First => "",
            Stage::Installed => {
                "chroot root sh /second-stage \"$PASSWORD\"\nfor at in dev/pts dev proc sys; do umount root/$at 2>/dev/null || true; done"
            }
        };
        let script = format!("set -e\n{FIRST_STAGE}{here}{IMAGE}");
        command.args(["sh", "-c", &script]);
        Ok(command)
    }
}

/// A copy with the holes that the original has.
fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to))
}
