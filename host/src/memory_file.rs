//! Memory in a file of ours, of which the client has a descriptor that can free pages and little more.
//!
//! The file cannot be resized, and what the client's descriptor lets be written goes behind its end, so nothing is. A mapping of
//! ours stays what it is until it is dropped; pages freed meanwhile read as zero.

use crate::fd::{self, FdId};
use crate::mem::HostRegion;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

/// What the client may do with its descriptor besides freeing and making pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMay {
    /// Nothing.
    Free,
    /// Map it, and, where nobody stands between it and the kernel, read it.
    Map,
}

/// The file.
#[derive(Debug)]
pub struct MemoryFile {
    /// `None` only while it is dropped.
    file: Option<OwnedFd>,
    id: FdId,
    size: u64,
}

impl MemoryFile {
    /// A file of `size` zero bytes.
    pub fn create(name: &str, size: u64) -> io::Result<MemoryFile> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = fd::out_of_the_way(rustix::fs::memfd_create(name, flags)?);
        rustix::fs::ftruncate(&file, size)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let id = fd::identity(&file)?;
        Ok(MemoryFile {
            file: Some(file),
            id,
            size,
        })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Our descriptor, unless the client, who knows nothing of it, has closed it.
    fn file(&self) -> io::Result<&OwnedFd> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        if fd::identity(file)? == self.id {
            Ok(file)
        } else {
            Err(io::Error::from_raw_os_error(libc::EBADF))
        }
    }

    /// A descriptor for the client, which a program that is executed inherits.
    pub fn client_fd(&self, may: ClientMay) -> io::Result<OwnedFd> {
        let file = self.file()?;
        let access = match may {
            ClientMay::Free => OFlags::WRONLY,
            ClientMay::Map => OFlags::RDWR,
        };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        match rustix::fs::open(path, access | OFlags::APPEND, Mode::empty()) {
            Ok(again) if fd::identity(&again)? == self.id => Ok(again),
            // Without /proc it can also be read and mapped.
            _ => {
                let again = fd::dup_for_client(file)?;
                fd::set_cloexec(&again, fd::CloseOnExec::No)?;
                rustix::fs::fcntl_setfl(&again, rustix::fs::fcntl_getfl(&again)? | OFlags::APPEND)?;
                Ok(again)
            }
        }
    }

    /// Maps whole pages of it; what lies beyond its end is EINVAL.
    pub fn map(&self, offset: u64, len: u64) -> io::Result<FileMapping> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(invalid());
        }
        let file = self.file()?;
        let bytes = usize::try_from(len).map_err(|_| invalid())?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, rights, flags, file, offset) }?;
        let region = HostRegion::from_client(at as u64, len).ok_or_else(invalid)?;
        Ok(FileMapping(region))
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let there = self.file().is_ok();
        if let Some(file) = self.file.take()
            && !there
        {
            // The number is not ours to close.
            let _: RawFd = file.into_raw_fd();
        }
    }
}

/// A part of the file, mapped. Whoever drops it sees to it that nobody uses its pages any more.
#[derive(Debug)]
pub struct FileMapping(HostRegion);

impl FileMapping {
    pub fn region(&self) -> &HostRegion {
        &self.0
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        let len = (self.0.pages() * crate::addr::PAGE_SIZE) as usize;
        // SAFETY: the mapping is ours, and by the type's contract not used any more.
        let unmapped = unsafe { rustix::mm::munmap(self.0.address().0 as *mut _, len) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::FallocateFlags;
    use rustix::io::Errno;

    const HOLE: FallocateFlags = FallocateFlags::KEEP_SIZE.union(FallocateFlags::PUNCH_HOLE);

    #[test]
    fn the_client_frees_pages_and_no_more() {
        let memory = MemoryFile::create("memory", 0x4000).unwrap();
        let client = memory.client_fd(ClientMay::Free).unwrap();
        let mapping = memory.map(0x1000, 0x2000).unwrap();
        let page = mapping.region().page(1).unwrap();
        page.store(8, 7u64).unwrap();
        assert_eq!(rustix::io::pwrite(&client, &[1], 0), Err(Errno::PERM));
        assert_eq!(rustix::io::write(&client, &[1]), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&client, 0), Err(Errno::PERM));
        assert!(rustix::io::pread(&client, &mut [0u8; 1], 0).is_err());
        assert_eq!(page.load::<u64>(8), Ok(7));
        rustix::fs::fallocate(&client, HOLE, 0x2000, 0x1000).unwrap();
        assert_eq!(page.load::<u64>(8), Ok(0), "freed");
        page.store(8, 8u64).unwrap();
        assert_eq!(page.load::<u64>(8), Ok(8), "and there again");
    }

    #[test]
    fn one_that_may_be_mapped_is_the_same_memory() {
        let memory = MemoryFile::create("memory", 0x2000).unwrap();
        let client = memory.client_fd(ClientMay::Map).unwrap();
        let mapping = memory.map(0, 0x2000).unwrap();
        mapping.region().page(1).unwrap().store(0, 5u8).unwrap();
        let theirs = crate::device::DeviceFile::from_fd(client).map(0x2000).unwrap();
        assert_eq!(theirs.load::<u8>(0x1000), 5);
        assert!(memory.map(0x1000, 0x2000).is_err());
        assert!(memory.map(u64::MAX, 0x1000).is_err());
    }
}
