//! A file that tells `perf` of code made at run time: the kernel's format "jitdump", version 1.
//!
//! `perf record` notes the file because a page of it is mapped to be executed; `perf inject --jit` reads it then. Times in it are
//! of the monotonic clock (`perf record -k 1`).

use crate::addr::PAGE_SIZE;
use crate::fd::KeptFd;
use crate::process;
use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::path::{Path, PathBuf};
use zerocopy::{Immutable, IntoBytes};

/// "JiTD", in the byte order of the host.
const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
/// ELF's number of x86-64.
const EM_X86_64: u32 = 62;
/// Code was made.
const JIT_CODE_LOAD: u32 = 0;

/// What the file begins with.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct FileHeader {
    magic: u32,
    version: u32,
    total_size: u32,
    elf_mach: u32,
    pad1: u32,
    pid: u32,
    timestamp: u64,
    flags: u64,
}

/// What a record of new code begins with; its name, a zero, and the code follow.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct CodeLoad {
    id: u32,
    total_size: u32,
    timestamp: u64,
    pid: u32,
    tid: u32,
    vma: u64,
    code_addr: u64,
    code_size: u64,
    code_index: u64,
}

/// The file of a process.
#[derive(Debug)]
pub struct JitDump {
    file: KeptFd,
    pid: u32,
    count: u64,
}

/// Nanoseconds of the monotonic clock.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl JitDump {
    /// A new file in the directory, by the name that `perf` wants.
    pub fn create(directory: &Path) -> io::Result<JitDump> {
        let pid = process::id();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(path(directory, pid), flags, Mode::RUSR | Mode::WUSR)?;
        let header = FileHeader {
            magic: MAGIC,
            version: VERSION,
            total_size: size_of::<FileHeader>() as u32,
            elf_mach: EM_X86_64,
            pad1: 0,
            pid,
            timestamp: now(),
            flags: 0,
        };
        rustix::io::write(&file, header.as_bytes())?;
        let rights = ProtFlags::READ | ProtFlags::EXEC;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other. It is never used, and never unmapped:
        // that there is one is what `perf` looks for.
        unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PAGE_SIZE as usize,
                rights,
                MapFlags::PRIVATE,
                &file,
                0,
            )
        }?;
        Ok(JitDump {
            file: KeptFd::new(file)?,
            pid,
            count: 0,
        })
    }

    /// Code was made at this address of the process's. Nothing is written in a forked child, or once the client has closed the file.
    pub fn code(&mut self, name: &str, address: u64, code: &[u8]) -> io::Result<()> {
        let Some(file) = self.file.get().filter(|_| process::id() == self.pid) else {
            return Ok(());
        };
        let load = CodeLoad {
            id: JIT_CODE_LOAD,
            total_size: (size_of::<CodeLoad>() + name.len() + 1 + code.len()) as u32,
            timestamp: now(),
            pid: self.pid,
            tid: process::thread_id(),
            vma: address,
            code_addr: address,
            code_size: code.len() as u64,
            code_index: self.count,
        };
        self.count += 1;
        let record = [load.as_bytes(), name.as_bytes(), &[0], code].concat();
        let mut rest = &record[..];
        while !rest.is_empty() {
            let written = rustix::io::write(file, rest)?;
            rest = &rest[written..];
        }
        Ok(())
    }
}

/// The file of a process in a directory.
pub fn path(directory: &Path, pid: u32) -> PathBuf {
    directory.join(format!("jit-{pid}.dump"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn a_file_is_as_perf_wants_it() {
        let directory = std::env::temp_dir();
        let mut dump = JitDump::create(&directory).unwrap();
        dump.code("first", 0x1000, &[0x90, 0xc3]).unwrap();
        dump.code("second", 0x2000, &[0xcc]).unwrap();
        let file = path(&directory, process::id());
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(bytes[..4], *b"DTiJ");
        assert_eq!((u32_at(&bytes, 8), u32_at(&bytes, 12)), (40, 62));
        assert_eq!(u32_at(&bytes, 20), process::id());
        let first = &bytes[40..];
        assert_eq!((u32_at(first, 0), u32_at(first, 4)), (0, 56 + 6 + 2));
        assert_eq!(
            [24, 32, 40, 48].map(|at| u64_at(first, at)),
            [0x1000, 0x1000, 2, 0]
        );
        assert_eq!(first[56..64], *b"first\0\x90\xc3");
        let second = &first[64..];
        assert_eq!((u64_at(second, 24), u64_at(second, 48)), (0x2000, 1));
        assert_eq!(second.len(), 56 + 7 + 1);
        assert!(u64_at(first, 8) <= u64_at(second, 8));
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let name = file.file_name().unwrap().to_str().unwrap().to_string();
        assert!(
            maps.lines()
                .any(|line| line.contains("r-xp") && line.contains(&name))
        );
    }
}
