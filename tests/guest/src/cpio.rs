//! A writer of cpio archives in the "newc" format, the one the kernel unpacks as an initramfs.
//!
//! See the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`. Owner is always root and
//! times are zero, so that equal input gives equal bytes. No compression, no hard links.

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

/// What one header says besides the name and the data.
struct Entry {
    mode: u32,
    links: u32,
    device: (u32, u32),
}

impl Archive {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn directory(&mut self, name: &str) {
        self.entry(
            name,
            &[],
            Entry {
                mode: DIRECTORY | 0o755,
                links: 2,
                device: (0, 0),
            },
        );
    }

    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) {
        self.entry(
            name,
            data,
            Entry {
                mode: REGULAR | permissions,
                links: 1,
                device: (0, 0),
            },
        );
    }

    pub fn symlink(&mut self, name: &str, to: &str) {
        self.entry(
            name,
            to.as_bytes(),
            Entry {
                mode: SYMLINK | 0o777,
                links: 1,
                device: (0, 0),
            },
        );
    }

    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(
            name,
            &[],
            Entry {
                mode: CHARACTER | 0o600,
                links: 1,
                device: (major, minor),
            },
        );
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.header(
            "TRAILER!!!",
            0,
            &Entry {
                mode: 0,
                links: 1,
                device: (0, 0),
            },
            0,
        );
        self.bytes
    }

    fn entry(&mut self, name: &str, data: &[u8], entry: Entry) {
        self.inode += 1;
        let inode = self.inode;
        self.header(name, inode, &entry, data.len());
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn header(&mut self, name: &str, inode: u32, entry: &Entry, size: usize) {
        // Our files are a few megabytes; the format's 32-bit size is no limit here.
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [
            inode,
            entry.mode,
            0,
            0,
            entry.links,
            0,
            size,
            0,
            0,
            entry.device.0,
            entry.device.1,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn headers_and_data_are_aligned() {
        let mut archive = Archive::new();
        archive.directory("bin");
        archive.file("bin/x", 0o755, b"hello");
        archive.symlink("bin/y", "x");
        archive.character_device("console", 5, 1);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<usize> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, w)| w == b"070701")
            .map(|(i, _)| i)
            .collect();
        assert_eq!(starts.len(), 5);
        assert!(starts.iter().all(|start| start % 4 == 0));
        // Second header: a file of five bytes, mode 100755.
        let header = &bytes[starts[1]..starts[1] + 110];
        assert_eq!(&header[14..22], b"000081ed");
        assert_eq!(&header[54..62], b"00000005");
    }

    #[test]
    fn gnu_cpio_reads_it() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut archive = Archive::new();
        archive.directory("d");
        archive.file("d/f", 0o644, b"data");
        archive.symlink("l", "d/f");
        let bytes = archive.finish();
        let child = Command::new("cpio")
            .args(["-t", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: cpio is not installed");
            return;
        };
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(&bytes)
            .expect("cpio reads");
        let output = child.wait_with_output().expect("cpio ends");
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "d\nd/f\nl\n");
    }
}
