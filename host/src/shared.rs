//! Pages that we and the client both map: `kvm_run`, rings, clock pages.
//!
//! The pages are a memfd's, sealed against resizing, so no access to them can fault. The client may write them at any
//! moment: a value read twice may differ, and nothing read is to be trusted.

use crate::addr::{HostVirt, PAGE_SIZE};
use crate::fd;
use crate::mem;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Our mapping of a memfd that the client may map too.
#[derive(Debug)]
pub struct SharedPages {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: all access is by atomics or by machine code that assumes nothing about other writers.
unsafe impl Send for SharedPages {}
// SAFETY: as above.
unsafe impl Sync for SharedPages {}

impl SharedPages {
    /// Makes a memfd of `pages` zeroed pages and maps it. The descriptor is for the client; the mapping needs it no
    /// longer.
    pub fn create(name: &str, pages: usize) -> io::Result<(SharedPages, OwnedFd)> {
        let bytes = pages as u64 * PAGE_SIZE;
        let file = fd::sealed_memfd(name, bytes)?;
        let len = bytes as usize;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, rights, MapFlags::SHARED, &file, 0) }?;
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok((SharedPages { at, len }, file))
    }

    /// Takes over a mapping.
    ///
    /// # Safety
    /// `len` bytes are mapped at `at`, readable and writable, by nobody else, and no access to them can fault.
    pub(crate) unsafe fn adopt(at: NonNull<u8>, len: usize) -> SharedPages {
        SharedPages { at, len }
    }

    /// Puts the page at `from` of `other` in the place of the page at `offset`: from now on both are the same memory.
    ///
    /// # Panics
    /// If one of them is not a page inside.
    pub fn overlay(&mut self, offset: usize, other: &SharedPages, from: usize) -> io::Result<()> {
        let at = self.at(offset, PAGE_SIZE as usize, PAGE_SIZE as usize);
        // SAFETY: the page is this mapping's own, and nobody borrows from it, as `self` is borrowed mutably.
        unsafe { show_page(other, from, at.as_ptr()) }
    }

    /// Where they are mapped in this process.
    pub fn address(&self) -> HostVirt {
        HostVirt(self.at.as_ptr() as u64)
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: there is at least one page.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of `size` bytes at `offset`.
    ///
    /// # Panics
    /// If they are not all inside. Offsets come from our own layouts, never from a client or guest.
    #[inline(always)]
    fn at(&self, offset: usize, size: usize, align: usize) -> NonNull<u8> {
        assert!(offset <= self.len && size <= self.len - offset && offset.is_multiple_of(align));
        // SAFETY: just checked to be inside the mapping.
        unsafe { self.at.add(offset) }
    }

    /// Reads the value at `offset`, byte by byte as far as other writers are concerned.
    ///
    /// # Panics
    /// If it is not all inside.
    #[inline]
    pub fn load<T: FromBytes + IntoBytes>(&self, offset: usize) -> T {
        let mut value = T::new_zeroed();
        self.read(offset, value.as_mut_bytes());
        value
    }

    /// Writes the value at `offset`, byte by byte as far as other readers are concerned.
    ///
    /// # Panics
    /// If it is not all inside.
    #[inline]
    pub fn store<T: IntoBytes + Immutable + ?Sized>(&self, offset: usize, value: &T) {
        self.write(offset, value.as_bytes());
    }

    /// Fills `bytes` from `offset` on.
    ///
    /// # Panics
    /// If they are not all inside.
    #[inline]
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.at(offset, bytes.len(), 1);
        // SAFETY: `bytes` is ours, and the source is inside the mapping, which cannot shrink.
        let copied = unsafe { mem::copy(bytes.as_mut_ptr() as u64, from.as_ptr() as u64, bytes.len()) };
        debug_assert!(copied.is_ok());
    }

    /// Writes `bytes` from `offset` on.
    ///
    /// # Panics
    /// If they are not all inside.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len(), 1);
        // SAFETY: the destination is inside the mapping, which cannot shrink and holds no Rust object.
        let copied = unsafe { mem::copy(to.as_ptr() as u64, bytes.as_ptr() as u64, bytes.len()) };
        debug_assert!(copied.is_ok());
    }

    /// The byte at `offset`.
    ///
    /// # Panics
    /// If it is not inside.
    #[inline(always)]
    pub fn atomic_u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe { self.at(offset, 1, 1).cast().as_ref() }
    }

    /// The aligned word at `offset`.
    ///
    /// # Panics
    /// If it is not inside, or not aligned.
    #[inline(always)]
    pub fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `atomic_u8`, and aligned.
        unsafe { self.at(offset, 4, 4).cast().as_ref() }
    }

    /// The aligned word at `offset`.
    ///
    /// # Panics
    /// If it is not inside, or not aligned.
    #[inline(always)]
    pub fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `atomic_u8`, and aligned.
        unsafe { self.at(offset, 8, 8).cast().as_ref() }
    }
}

/// Maps the page at `from` of `pages` at `at` too, in the place of what is mapped there.
///
/// # Safety
/// `at` is aligned to a page, and the page there is the caller's to replace.
///
/// # Panics
/// If `from` is not that of a page inside.
pub unsafe fn show_page(pages: &SharedPages, from: usize, at: *mut u8) -> io::Result<()> {
    let page = PAGE_SIZE as usize;
    let source = pages.at(from, page, page);
    // Of a shared mapping, no bytes moved means another mapping of the same memory.
    let flags = MremapFlags::MAYMOVE;
    // SAFETY: the destination is the caller's to replace, and the source stays as it is.
    unsafe { rustix::mm::mremap_fixed(source.as_ptr().cast(), 0, page, flags, at.cast()) }?;
    Ok(())
}

impl Drop for SharedPages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn both_sides_see_the_same_bytes() {
        let (pages, file) = SharedPages::create("test", 2).unwrap();
        assert_eq!(pages.len(), 8192);
        pages.store(4094, &0x1122_3344u32);
        let mut seen = [0; 4];
        rustix::io::pread(&file, &mut seen, 4094).unwrap();
        assert_eq!(u32::from_ne_bytes(seen), 0x1122_3344);
        rustix::io::pwrite(&file, &[5, 0, 0, 0], 8).unwrap();
        assert_eq!(pages.load::<u32>(8), 5);
        assert_eq!(pages.atomic_u8(8).load(Relaxed), 5);
        pages.atomic_u32(8).store(77, Relaxed);
        assert_eq!(pages.load::<u64>(8), 77);
        assert_eq!(pages.atomic_u64(8).load(Relaxed), 77);
    }

    #[test]
    fn a_page_can_be_in_two_mappings() {
        let (ring, _) = SharedPages::create("ring", 3).unwrap();
        let (mut pages, file) = SharedPages::create("pages", 3).unwrap();
        pages.store(8192, &1u32);
        pages.overlay(8192, &ring, 4096).unwrap();
        ring.store(4100, &7u32);
        assert_eq!((pages.load::<u32>(8192), pages.load::<u32>(8196)), (0, 7));
        pages.store(8192, &5u32);
        pages.store(4096, &6u32);
        assert_eq!((ring.load::<u32>(4096), ring.load::<u32>(8192)), (5, 0));
        // What was there is hidden, not gone.
        let mut seen = [0; 4];
        rustix::io::pread(&file, &mut seen, 8192).unwrap();
        assert_eq!(seen, [1, 0, 0, 0]);
        drop(pages);
        assert_eq!(ring.load::<u32>(4096), 5);
    }

    #[test]
    fn the_client_cannot_resize_them() {
        let (_pages, file) = SharedPages::create("test", 1).unwrap();
        assert_eq!(rustix::fs::ftruncate(&file, 0), Err(rustix::io::Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&file, 8192), Err(rustix::io::Errno::PERM));
    }

    #[test]
    #[should_panic]
    fn outside_is_refused() {
        SharedPages::create("test", 1).unwrap().0.load::<u32>(4093);
    }
}
