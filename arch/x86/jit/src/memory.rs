//! Memory for translated code: written through one mapping of a memfd, executed through another, so that no page is
//! ever writable and executable at one address.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ptr::NonNull;

/// Bytes of code that one vCPU's translations may fill before all are dropped. Pages never touched cost nothing.
pub const SIZE: usize = 64 << 20;

struct Mapping(NonNull<u8>);

impl Mapping {
    fn new(fd: &rustix::fd::OwnedFd, prot: ProtFlags) -> rustix::io::Result<Mapping> {
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory that anything else knows.
        let at = unsafe { mmap(std::ptr::null_mut(), SIZE, prot, MapFlags::SHARED, fd, 0)? };
        NonNull::new(at.cast())
            .map(Mapping)
            .ok_or(rustix::io::Errno::NOMEM)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, `SIZE` long; its owner lives as long as anything that uses it.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), SIZE) };
    }
}

/// The memory and how much of it is filled.
pub struct CodeMemory {
    write: Mapping,
    execute: Mapping,
    used: usize,
}

// SAFETY: the write side is reached only through `&mut self`; neither side depends on the thread.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    pub fn new() -> rustix::io::Result<CodeMemory> {
        let fd = memfd_create("ring3-code", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, SIZE as u64)?;
        Ok(CodeMemory {
            write: Mapping::new(&fd, ProtFlags::READ | ProtFlags::WRITE)?,
            execute: Mapping::new(&fd, ProtFlags::READ | ProtFlags::EXEC)?,
            used: 0,
        })
    }

    /// The address that the next code will have.
    pub fn next(&self) -> u64 {
        self.start() + self.used as u64
    }

    /// The address of the first code.
    pub fn start(&self) -> u64 {
        self.execute.0.as_ptr() as u64
    }

    /// Adds code, made for [`CodeMemory::next`]; `None` if there is no room left.
    pub fn add(&mut self, code: &[u8]) -> Option<u64> {
        let end = self.used.checked_add(code.len()).filter(|end| *end <= SIZE)?;
        let at = self.next();
        // SAFETY: `used..end` lies inside the writable mapping, just checked, and nothing was put there yet.
        unsafe {
            let to = self.write.0.as_ptr().add(self.used);
            to.copy_from_nonoverlapping(code.as_ptr(), code.len());
        }
        self.used = end.next_multiple_of(16).min(SIZE);
        Some(at)
    }

    /// Makes the jump whose distance is at this address go to `target`. Only the thread that executes this memory may, between two
    /// stays in it.
    pub fn patch(&mut self, site: u64, target: u64) {
        let offset = site.wrapping_sub(self.start()) as usize;
        if offset > self.used.saturating_sub(4) {
            return;
        }
        let distance = target.wrapping_sub(site + 4) as u32;
        // SAFETY: four bytes of code added before, inside the writable mapping.
        unsafe {
            let to = self.write.0.as_ptr().add(offset);
            to.copy_from_nonoverlapping(distance.to_le_bytes().as_ptr(), 4);
        }
    }

    /// Forgets all code from this address on.
    pub fn truncate(&mut self, address: u64) {
        self.used = (address.wrapping_sub(self.start()) as usize).min(self.used);
    }
}
