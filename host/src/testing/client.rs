//! What a client does to memory that it gave to a guest, and to threads that run one.

use crate::addr::PAGE_SIZE;
use crate::mem;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

/// Anonymous, private memory of a client's: what KVM's slots are mostly made of.
#[derive(Debug)]
pub struct ClientMemory {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: all access is by machine code that assumes nothing about other writers, and may fault.
unsafe impl Send for ClientMemory {}
// SAFETY: as above.
unsafe impl Sync for ClientMemory {}

const RIGHTS: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

impl ClientMemory {
    /// So many zeroed pages.
    pub fn new(pages: usize) -> io::Result<ClientMemory> {
        let len = pages * PAGE_SIZE as usize;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), len, RIGHTS, MapFlags::PRIVATE) }?;
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(ClientMemory { at, len })
    }

    /// So many zeroed pages at an address that nothing else has.
    pub fn at(address: u64, pages: usize) -> io::Result<ClientMemory> {
        let len = pages * PAGE_SIZE as usize;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE | MapFlags::NORESERVE;
        let at = std::ptr::without_provenance_mut(address as usize);
        // SAFETY: a mapping that replaces none.
        let at = unsafe { mmap_anonymous(at, len, RIGHTS, flags) }?;
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = ClientMemory { at, len };
        // Kernels that do not know the flag take the address as a wish.
        if memory.address() == address {
            Ok(memory)
        } else {
            Err(io::ErrorKind::AddrInUse.into())
        }
    }

    /// The first pages of a file, shared with everybody who has it.
    pub fn of_file(file: impl AsFd, pages: usize) -> io::Result<ClientMemory> {
        let len = pages * PAGE_SIZE as usize;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let at = unsafe { mmap(std::ptr::null_mut(), len, RIGHTS, MapFlags::SHARED, file, 0) }?;
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(ClientMemory { at, len })
    }

    pub fn address(&self) -> u64 {
        self.at.as_ptr() as u64
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: there is at least one page.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// # Panics
    /// If they are not all inside.
    fn place(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset <= self.len && len <= self.len - offset);
        // SAFETY: just checked to be inside the mapping.
        unsafe { self.at.add(offset) }
    }

    /// Writes bytes.
    ///
    /// # Panics
    /// If they do not fit, or if memory is gone there.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.place(offset, bytes.len());
        // SAFETY: the destination is inside the mapping, and no Rust object.
        let copied = unsafe { mem::copy(to.as_ptr() as u64, bytes.as_ptr() as u64, bytes.len()) };
        copied.expect("the memory is there");
    }

    /// Reads bytes; panics as [`ClientMemory::write`] does.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.place(offset, bytes.len());
        // SAFETY: the source is inside the mapping, the destination ours.
        let copied = unsafe { mem::copy(bytes.as_mut_ptr() as u64, from.as_ptr() as u64, bytes.len()) };
        copied.expect("the memory is there");
    }

    /// read(2) from a file into the memory.
    pub fn read_file(&self, file: impl AsFd, offset: usize, len: usize) -> io::Result<usize> {
        let to = self.place(offset, len);
        // SAFETY: the kernel writes at most `len` bytes, which are inside the mapping and no Rust object's.
        let read = unsafe { libc::read(file.as_fd().as_raw_fd(), to.as_ptr().cast(), len) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// MADV_DONTNEED: the pages are zeroes from now on.
    pub fn discard(&self, offset: usize, len: usize) -> io::Result<()> {
        let at = self.place(offset, len);
        // SAFETY: the pages hold no Rust object, and all access to them may find them changed.
        unsafe { madvise(at.as_ptr().cast(), len, Advice::LinuxDontNeed) }?;
        Ok(())
    }

    /// Takes pages away for good. Nothing else of the process will be mapped in their place.
    pub fn unmap(&self, offset: usize, len: usize) -> io::Result<()> {
        let at = self.place(offset, len);
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: the pages are ours to replace.
        unsafe { mmap_anonymous(at.as_ptr().cast(), len, ProtFlags::empty(), flags) }?;
        Ok(())
    }

    /// Lets pages only be read from now on.
    pub fn protect(&self, offset: usize, len: usize) -> io::Result<()> {
        let at = self.place(offset, len);
        // SAFETY: the pages are ours, and all access to them may fault.
        unsafe { mprotect(at.as_ptr().cast(), len, MprotectFlags::READ) }?;
        Ok(())
    }

    /// Puts zeroed pages where [`ClientMemory::unmap`] took some away.
    pub fn map_again(&self, offset: usize, len: usize) -> io::Result<()> {
        let at = self.place(offset, len);
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: the pages are ours to replace.
        unsafe { mmap_anonymous(at.as_ptr().cast(), len, RIGHTS, flags) }?;
        Ok(())
    }
}

impl Drop for ClientMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// A thread, to send signals to.
#[derive(Clone, Copy, Debug)]
pub struct ThreadId {
    process: i32,
    thread: i32,
}

impl ThreadId {
    /// The calling thread.
    pub fn current() -> ThreadId {
        ThreadId {
            process: rustix::process::getpid().as_raw_nonzero().get(),
            thread: rustix::thread::gettid().as_raw_nonzero().get(),
        }
    }

    /// A thread of another process.
    pub fn of(process: u32, thread: u32) -> ThreadId {
        ThreadId {
            process: process as i32,
            thread: thread as i32,
        }
    }

    /// Sends the thread a signal; it is no error if the thread is gone.
    pub fn signal(self, signal: i32) {
        // SAFETY: a system call that touches no memory, about a thread that the caller rules.
        unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, signal) };
    }
}
