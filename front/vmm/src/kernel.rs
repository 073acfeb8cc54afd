//! Linux in memory: the kernel, its initramfs, its command line and the zero page that names them.

use crate::layout::{ACPI, CMDLINE, CMDLINE_MAX, HIGH, LOW_END, ZERO_PAGE};
use crate::memory::{GuestMemory, low_end};
use anyhow::{Context, Result, bail, ensure};
use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const PAGE: u64 = 4096;
/// `xloadflags`: there is a 64-bit entry.
const XLF_KERNEL_64: u16 = 1;
/// The 64-bit entry of a bzImage is so far into its protected-mode part.
const ENTRY_64: u64 = 0x200;
/// `loadflags`: the heap's end is given; `type_of_loader`: unknown.
const CAN_USE_HEAP: u8 = 0x80;
const LOADER_UNKNOWN: u8 = 0xff;

/// A kernel that is in memory.
struct Loaded {
    entry: u64,
    /// The end of what it needs before it has looked at the memory map.
    end: u64,
    header: setup_header,
}

/// Puts everything in memory and returns where the first processor begins, in 64-bit mode.
pub fn load(memory: &GuestMemory, kernel: &Path, initrd: Option<&Path>, cmdline: &str) -> Result<u64> {
    let name = kernel.display();
    let image = read(kernel).with_context(|| format!("kernel {name}"))?;
    let Loaded {
        entry,
        end,
        mut header,
    } = load_kernel(memory, &image).with_context(|| format!("kernel {name}"))?;
    if let Some(path) = initrd {
        let (at, len) =
            load_initrd(memory, path, end, &header).with_context(|| format!("initrd {}", path.display()))?;
        (header.ramdisk_image, header.ramdisk_size) = (at, len);
    }
    ensure!(
        cmdline.len() < CMDLINE_MAX,
        "the command line has {} bytes, Linux takes {}",
        cmdline.len(),
        CMDLINE_MAX - 1
    );
    ensure!(!cmdline.contains('\0'), "the command line has a zero byte in it");
    memory.write_slice(cmdline.as_bytes(), GuestAddress(CMDLINE))?;
    header.type_of_loader = LOADER_UNKNOWN;
    header.loadflags |= CAN_USE_HEAP;
    header.heap_end_ptr = 0xfe00;
    header.cmd_line_ptr = CMDLINE as u32;
    header.cmdline_size = cmdline.len() as u32;
    memory.write_obj(zero_page(memory, header), GuestAddress(ZERO_PAGE))?;
    Ok(entry)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = File::open(path)?;
    ensure!(file.metadata()?.is_file(), "not a regular file");
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn load_kernel(memory: &GuestMemory, image: &[u8]) -> Result<Loaded> {
    if image.starts_with(b"\x7fELF") {
        return load_elf(memory, image);
    }
    ensure!(
        image.get(0x202..0x206) == Some(b"HdrS"),
        "neither a bzImage nor an ELF file"
    );
    load_bzimage(memory, image)
}

fn check_fits(memory: &GuestMemory, end: u64) -> Result<()> {
    ensure!(
        end <= low_end(memory),
        "needs at least {} MiB of memory",
        end.div_ceil(1 << 20)
    );
    Ok(())
}

fn load_bzimage(memory: &GuestMemory, image: &[u8]) -> Result<Loaded> {
    const HEADER: usize = 0x1f1;
    let mut header = setup_header::default();
    let bytes = image
        .get(HEADER..HEADER + size_of::<setup_header>())
        .context("the bzImage is truncated: its header is not whole")?;
    vm_memory::ByteValued::as_mut_slice(&mut header).copy_from_slice(bytes);
    let sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let whole = (sectors + 1) * 512 + u64::from(header.syssize) * 16;
    // The protected-mode part is padded to 16 bytes by its count, not necessarily in the file.
    ensure!(
        image.len() as u64 + 15 >= whole,
        "the bzImage is truncated: {} of {whole} bytes",
        image.len()
    );
    ensure!(
        header.version >= 0x020c && header.xloadflags & XLF_KERNEL_64 != 0,
        "the kernel has no 64-bit entry"
    );
    let end = HIGH + u64::from(header.init_size).max(image.len() as u64);
    check_fits(memory, end)?;
    let loaded = BzImage::load(memory, Some(GuestAddress(HIGH)), &mut Cursor::new(image), None)?;
    header.code32_start = HIGH as u32;
    Ok(Loaded {
        entry: loaded.kernel_load.raw_value() + ENTRY_64,
        end,
        header,
    })
}

fn load_elf(memory: &GuestMemory, image: &[u8]) -> Result<Loaded> {
    let loaded = Elf::load(memory, None, &mut Cursor::new(image), Some(GuestAddress(HIGH)))?;
    check_fits(memory, loaded.kernel_end)?;
    let header = setup_header {
        header: 0x5372_6448,
        version: 0x020f,
        boot_flag: 0xaa55,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        ..setup_header::default()
    };
    Ok(Loaded {
        entry: loaded.kernel_load.raw_value(),
        end: loaded.kernel_end,
        header,
    })
}

/// Puts the initramfs as high as the kernel takes it, and returns where that is and how long it is.
fn load_initrd(
    memory: &GuestMemory,
    path: &Path,
    kernel_end: u64,
    header: &setup_header,
) -> Result<(u32, u32)> {
    let image = read(path)?;
    ensure!(!image.is_empty(), "the file is empty");
    let top = low_end(memory).min(u64::from(header.initrd_addr_max) + 1);
    let at = top
        .checked_sub(image.len() as u64)
        .map(|at| at & !(PAGE - 1))
        .filter(|at| *at >= kernel_end);
    let Some(at) = at else {
        bail!("its {} bytes do not fit in the guest's memory", image.len());
    };
    memory.write_slice(&image, GuestAddress(at))?;
    Ok((at as u32, image.len() as u32))
}

/// What Linux is told: the header filled in, and the memory map.
fn zero_page(memory: &GuestMemory, header: setup_header) -> boot_params {
    let mut map = vec![
        (0, LOW_END, E820_RAM),
        (LOW_END, 0xa_0000, E820_RESERVED),
        (ACPI.start, ACPI.end, E820_RESERVED),
    ];
    for region in memory.iter() {
        let (start, len) = (region.start_addr().raw_value(), region.len());
        map.push((start.max(HIGH), start + len, E820_RAM));
    }
    let mut params = boot_params {
        hdr: header,
        e820_entries: map.len() as u8,
        acpi_rsdp_addr: ACPI.start,
        ..boot_params::default()
    };
    for (entry, (start, end, r#type)) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry {
            addr: start,
            size: end - start,
            r#type,
        };
    }
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::create;

    fn refusal(image: &[u8]) -> String {
        let memory = create(16).expect("16 MiB");
        let error = load_kernel(&memory, image).err().expect("refused");
        format!("{error:#}")
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(refusal(b"").contains("neither"));
        assert!(refusal(&[0; 4096]).contains("neither"));
        assert!(!refusal(b"\x7fELF").is_empty());
    }

    #[test]
    fn a_truncated_kernel_is_refused() {
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        // 30 sectors of setup, which a file of 4 KiB cannot hold.
        image[0x1f1] = 30;
        assert!(refusal(&image).contains("truncated"));
        assert!(refusal(&image[..0x210]).contains("truncated"));
    }

    #[test]
    fn a_kernel_without_a_64_bit_entry_is_refused() {
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x1f1] = 1;
        assert!(refusal(&image).contains("64-bit"));
    }
}
