//! Disks from which firmware boots Debian's GRUB, and that the kernel and initramfs of [`Assets`]. Nothing needs privileges.
//!
//! For a BIOS, GRUB's image is made here from its modules, behind the master boot record, and a file system of ext2 follows. UEFI gets
//! a directory, which QEMU shows as a FAT disk, with the images that are signed. The menu has two entries, and waits for a key.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::debian::Fetcher;
use crate::places::run;
use crate::{Assets, assets, places};

/// What the image for a BIOS is made of.
const MODULES: [&str; 9] = [
    "biosdisk",
    "part_msdos",
    "ext2",
    "linux",
    "normal",
    "serial",
    "terminal",
    "configfile",
    "halt",
];

/// Before anything is shown: the console is the first serial port.
const EARLY: &str = "serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
configfile (hd0,msdos1)/grub.cfg
";

const SECTOR: usize = 512;
/// Sector and sectors of the partition.
const PARTITION: (u32, u32) = (2048, 60 * 2048);
/// Where a master boot record has the disk's signature, the partitions, and its own mark.
const TABLE: (usize, usize, usize) = (440, 446, 510);

/// Title of the menu's entry that halts; it is the first one.
pub const HALT: &str = "Nothing";
/// Title of the menu's entry that boots.
pub const BOOT: &str = "Debian";

/// The menu.
fn menu(kernel_command_line: &str) -> String {
    format!(
        "set timeout=-1
menuentry \"{HALT}\" {{
    halt
}}
menuentry \"{BOOT}\" {{
    linux /vmlinuz {kernel_command_line}
    initrd /initramfs.cpio
}}
"
    )
}

/// Writes the disk for a BIOS to `dir`, and returns its path.
pub fn bios_disk(assets: &Assets, kernel_command_line: &str, dir: &Path) -> Result<PathBuf> {
    let mke2fs = places::need("mke2fs", "e2fsprogs")?;
    let (modules, core) = core_image(dir)?;
    let files = dir.join("files");
    std::fs::create_dir(&files)?;
    fill(&files, assets)?;
    std::fs::write(files.join("grub.cfg"), menu(kernel_command_line))?;
    let disk = dir.join("disk.img");
    let (first, sectors) = PARTITION;
    std::fs::File::create(&disk)?.set_len(u64::from(first + sectors) * SECTOR as u64)?;
    let mut command = Command::new(mke2fs);
    command.args(["-q", "-t", "ext2", "-d"]).arg(&files);
    command.arg(format!("-Eoffset={}", first as usize * SECTOR));
    command.arg(&disk).arg(format!("{}k", sectors / 2));
    run(&mut command)?;
    let mut start = master_boot_record(&modules.join("boot.img"))?;
    start.extend(core);
    ensure!(
        start.len() <= first as usize * SECTOR,
        "GRUB does not fit before the partition"
    );
    write_at_start(&disk, &start)?;
    Ok(disk)
}

/// Lays out the directory for UEFI below `dir`; returns what QEMU calls a disk that shows it.
pub fn uefi_disk(assets: &Assets, kernel_command_line: &str, dir: &Path) -> Result<String> {
    let (cache, _lock) = assets::lock()?;
    let mut fetcher = Fetcher::new(&cache)?;
    let shim = fetcher
        .unpack("shim-signed")?
        .join("usr/lib/shim/shimx64.efi.signed");
    let grub = fetcher
        .unpack("grub-efi-amd64-signed")?
        .join("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed");
    let files = dir.join("files");
    let (removable, debian) = (files.join("EFI/BOOT"), files.join("EFI/debian"));
    std::fs::create_dir_all(&removable)?;
    std::fs::create_dir_all(&debian)?;
    std::fs::copy(shim, removable.join("BOOTX64.EFI"))?;
    std::fs::copy(grub, removable.join("grubx64.efi"))?;
    std::fs::write(debian.join("grub.cfg"), menu(kernel_command_line))?;
    fill(&files, assets)?;
    Ok(format!("fat:{}", files.display()))
}

fn fill(files: &Path, assets: &Assets) -> Result<()> {
    std::fs::copy(&assets.kernel, files.join("vmlinuz"))?;
    std::fs::copy(&assets.initramfs, files.join("initramfs.cpio"))?;
    Ok(())
}

/// The directory of GRUB's modules, and the image that the master boot record loads: it is in the sectors right behind.
fn core_image(dir: &Path) -> Result<(PathBuf, Vec<u8>)> {
    let (cache, _lock) = assets::lock()?;
    let mut fetcher = Fetcher::new(&cache)?;
    let tools = fetcher.unpack("grub-common")?;
    let modules = fetcher.unpack("grub-pc-bin")?.join("usr/lib/grub/i386-pc");
    // Not every system has the one library that its program needs besides those of dpkg and apt.
    let libraries = fetcher.unpack("libdevmapper1.02.1")?;
    let library = ["lib", "usr/lib"]
        .map(|directory| libraries.join(directory).join("x86_64-linux-gnu"))
        .into_iter()
        .find(|directory| directory.is_dir())
        .context("libdevmapper1.02.1 holds no library")?;
    let (early, core) = (dir.join("early.cfg"), dir.join("core.img"));
    std::fs::write(&early, EARLY)?;
    let mut command = Command::new(tools.join("usr/bin/grub-mkimage"));
    command.env("LD_LIBRARY_PATH", library);
    command.arg("-d").arg(&modules);
    command
        .args(["-O", "i386-pc", "-p", "(hd0,msdos1)/", "-c"])
        .arg(&early);
    command.arg("-o").arg(&core).args(MODULES);
    run(&mut command)?;
    Ok((modules, std::fs::read(core)?))
}

/// GRUB's, with one partition in it.
fn master_boot_record(boot: &Path) -> Result<Vec<u8>> {
    let mut sector = std::fs::read(boot).with_context(|| format!("reading {}", boot.display()))?;
    ensure!(sector.len() == SECTOR, "{} is no sector", boot.display());
    let (signature, table, mark) = TABLE;
    // There is code for floppy disks.
    sector[signature..mark].fill(0);
    // It is active, and one of Linux's.
    sector[table] = 0x80;
    sector[table + 4] = 0x83;
    sector[table + 8..][..4].copy_from_slice(&PARTITION.0.to_le_bytes());
    sector[table + 12..][..4].copy_from_slice(&PARTITION.1.to_le_bytes());
    sector[mark..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

fn write_at_start(disk: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).open(disk)?;
    Ok(file.write_all(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::{PARTITION, master_boot_record};

    #[test]
    fn one_partition_and_no_code_of_floppies() {
        let dir = tempfile::tempdir().expect("a directory");
        let boot = dir.path().join("boot.img");
        std::fs::write(&boot, [0x5a; 512]).expect("written");
        let sector = master_boot_record(&boot).expect("a sector");
        assert_eq!(sector[..440], [0x5a; 440]);
        assert_eq!(sector[454..458], PARTITION.0.to_le_bytes());
        assert_eq!(sector[458..462], PARTITION.1.to_le_bytes());
        assert_eq!(sector[462..510], [0; 48]);
        assert_eq!(sector[510..], [0x55, 0xaa]);
        std::fs::write(&boot, [0; 100]).expect("written");
        assert!(master_boot_record(&boot).is_err());
    }
}
