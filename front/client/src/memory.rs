//! Memory to give to a guest.

use crate::Errno;
use ring3_host::shared::SharedPages;
use ring3_uapi::KvmUserspaceMemoryRegion;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Some pages, shared between this process and the guest it gives them to. Clones are the same pages.
#[derive(Clone, Debug)]
pub struct Memory(Arc<SharedPages>);

impl Memory {
    /// Zeroed memory, `bytes` rounded up to whole pages.
    pub fn new(bytes: usize) -> Result<Memory, Errno> {
        let (pages, _fd) = SharedPages::create("guest-memory", bytes.div_ceil(4096).max(1))?;
        Ok(Memory(Arc::new(pages)))
    }

    /// Bytes in all.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Where it is in this process.
    pub fn address(&self) -> u64 {
        self.0.address().0
    }

    fn check(&self, offset: usize, len: usize) -> Result<(), Errno> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.size());
        if fits { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Writes bytes; EFAULT when they do not fit.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
        self.check(offset, bytes.len())?;
        self.0.write(offset, bytes);
        Ok(())
    }

    /// Reads bytes; EFAULT beyond the end.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), Errno> {
        self.check(offset, bytes.len())?;
        self.0.read(offset, bytes);
        Ok(())
    }

    /// Writes a value.
    pub fn store<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) -> Result<(), Errno> {
        self.write(offset, value.as_bytes())
    }

    /// Reads a value.
    pub fn load<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read(offset, value.as_mut_bytes())?;
        Ok(value)
    }

    /// The whole of it as a slot.
    pub fn region(&self, slot: u32, guest_phys_addr: u64, flags: u32) -> KvmUserspaceMemoryRegion {
        KvmUserspaceMemoryRegion {
            slot,
            flags,
            guest_phys_addr,
            memory_size: self.size() as u64,
            userspace_addr: self.address(),
        }
    }
}
