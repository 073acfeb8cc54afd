//! The kernel as a plain ELF file, for virtual machine monitors that start nothing else: unpacked from the image that boot loaders take.
//!
//! What an image is compressed with is the distribution's choice; known here are LZ4, of Debian's cloud kernel, and XZ, of others.

use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Where the setup header has what is needed of it (Documentation/arch/x86/boot.rst of Linux).
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// Behind the payload, and counted with it: its size when it is unpacked.
const UNPACKED_SIZE: usize = 4;

const LZ4: &[u8] = b"\x02\x21\x4c\x18";
const XZ: &[u8] = b"\xfd7zXZ\0";
const ELF: &[u8] = b"\x7fELF";

/// Unpacks the kernel in the image at `vmlinuz` to a file at `to`.
pub fn extract(vmlinuz: &Path, to: &Path) -> Result<()> {
    let image = std::fs::read(vmlinuz).with_context(|| format!("reading {}", vmlinuz.display()))?;
    let kernel = unpack(&image).with_context(|| format!("unpacking {}", vmlinuz.display()))?;
    std::fs::write(to, kernel).with_context(|| format!("writing {}", to.display()))
}

/// The kernel in an image.
fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image).context("it is no image of a kernel for x86 with a payload")?;
    let kernel = if payload.starts_with(LZ4) {
        let mut kernel = Vec::new();
        lz4_flex::frame::FrameDecoder::new(Cursor::new(payload)).read_to_end(&mut kernel)?;
        kernel
    } else if payload.starts_with(XZ) {
        xz(payload)?
    } else {
        let head = &payload[..payload.len().min(6)];
        bail!("it is compressed neither with LZ4 nor with XZ, but begins with {head:02x?}");
    };
    ensure!(kernel.starts_with(ELF), "what is packed is no ELF file");
    Ok(kernel)
}

/// The packed kernel, without its size.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    // As old boot loaders understand it, none are four.
    let sectors = match image.get(SETUP_SECTORS)? {
        0 => 4,
        some => usize::from(*some),
    };
    let start = (sectors + 1) * SECTOR + word(PAYLOAD_OFFSET)?;
    let length = word(PAYLOAD_LENGTH)?.checked_sub(UNPACKED_SIZE)?;
    image.get(start..start.checked_add(length)?)
}

fn xz(packed: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("xz")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("running xz")?;
    let mut stdin = child.stdin.take().context("xz has no input")?;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(packed));
        child.wait_with_output()
    })?;
    ensure!(output.status.success(), "xz could not unpack it");
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::{PAYLOAD_LENGTH, PAYLOAD_OFFSET, SETUP_SECTORS, unpack};

    /// An image with one sector of setup, and a payload 16 bytes into what follows.
    fn image(packed: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * 512 + 16];
        image[SETUP_SECTORS] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..][..4].copy_from_slice(&16u32.to_le_bytes());
        let length = packed.len() as u32 + 4;
        image[PAYLOAD_LENGTH..][..4].copy_from_slice(&length.to_le_bytes());
        image.extend(packed);
        image.extend([0; 4]);
        image
    }

    #[test]
    fn a_packed_kernel_is_unpacked() {
        // A frame as `lz4 -l` makes it, of one block of literals.
        let kernel = b"\x7fELF, and on";
        let mut frame = b"\x02\x21\x4c\x18".to_vec();
        frame.extend((kernel.len() as u32 + 1).to_le_bytes());
        frame.push((kernel.len() as u8) << 4);
        frame.extend(kernel);
        assert!(kernel.len() < 15);
        assert_eq!(unpack(&image(&frame)).expect("it is packed so"), kernel);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(unpack(b"").is_err());
        assert!(unpack(&image(b"")).is_err());
        assert!(unpack(&image(b"something else")).is_err());
        let mut long = image(b"");
        long[PAYLOAD_LENGTH..][..4].fill(0xff);
        assert!(unpack(&long).is_err());
    }
}
