//! Numbers that we count in and that others read through a descriptor: a file whose contents change by themselves.
//!
//! Until somebody asks for a descriptor the numbers are in memory of our own. The file then takes that memory's place, and can only
//! be read: what a descriptor cannot write, no other way of opening the file lets be written either.

use crate::addr::PAGE_SIZE;
use crate::fd::{self, KeptFd};
use crate::shared::SharedPages;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

/// Pages that are a file's from the first, among our own descriptors, for whoever may look at those. Nobody else writes them.
#[derive(Debug)]
pub struct PostedPages {
    pages: SharedPages,
    _file: KeptFd,
}

impl PostedPages {
    /// So many zeroed pages; the file has this name. Pages never touched cost nothing. EFBIG where the process may not make
    /// files that large (the kernel would send it a signal).
    pub fn new(name: &str, pages: usize) -> io::Result<PostedPages> {
        let len = pages as u64 * PAGE_SIZE;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
        if limit.is_some_and(|limit| limit < len) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(name, flags)?;
        rustix::fs::ftruncate(&file, len)?;
        let (rights, len) = (ProtFlags::READ | ProtFlags::WRITE, len as usize);
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, rights, MapFlags::SHARED, &file, 0) }?;
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: just mapped, by us alone, as long as the file is; the seals keep it so long.
        let pages = unsafe { SharedPages::adopt(at, len) };
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(PostedPages {
            pages,
            _file: KeptFd::new(file)?,
        })
    }

    pub fn pages(&self) -> &SharedPages {
        &self.pages
    }
}

/// The numbers, and what else is in the file.
#[derive(Debug)]
pub struct ShownPages {
    pages: SharedPages,
    /// Bytes of the file.
    len: usize,
    file: Mutex<Option<KeptFd>>,
}

impl ShownPages {
    /// With these contents, not yet a file.
    pub fn new(contents: &[u8]) -> io::Result<ShownPages> {
        let len = contents.len().max(1).next_multiple_of(PAGE_SIZE as usize);
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let at = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, rights, MapFlags::PRIVATE) }?;
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: just mapped, by us alone.
        let pages = unsafe { SharedPages::adopt(at, len) };
        pages.write(0, contents);
        Ok(ShownPages {
            pages,
            len: contents.len(),
            file: Mutex::new(None),
        })
    }

    /// The aligned number at `offset`.
    ///
    /// # Panics
    /// If it is not inside, or not aligned.
    #[inline(always)]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        self.pages.atomic_u64(offset)
    }

    /// A descriptor of its own position that reads the file. What is counted while the first one is made may be lost, so the
    /// caller keeps the counters still.
    pub fn open(&self, name: &str) -> io::Result<OwnedFd> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match file.take().filter(|kept| kept.get().is_some()) {
            Some(kept) => kept,
            None => self.make(name)?,
        };
        let number = kept.get().ok_or(io::ErrorKind::NotFound)?;
        let again = rustix::fs::open(
            format!("/proc/self/fd/{}", number.as_raw_fd()),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let opened = match again {
            Ok(again) if fd::identity(&again)? == kept.id() => again,
            // Without /proc its position is shared, and writing fails otherwise than by EBADF.
            _ => fd::dup_for_client(number)?,
        };
        *file = Some(kept);
        Ok(opened)
    }

    /// The file, in the place of our own memory.
    fn make(&self, name: &str) -> io::Result<KeptFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(name, flags)?;
        let mut contents = vec![0; self.len];
        self.pages.read(0, &mut contents);
        rustix::io::pwrite(&file, &contents, 0)?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        let at = self.pages.address().0 as *mut _;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: the pages are this object's own, all access to them is atomic, and the file has the same contents.
        unsafe { rustix::mm::mmap(at, self.pages.len(), rights, flags, &file, 0) }?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        KeptFd::new(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{Errno, pread, read, write};
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn a_reader_sees_what_is_counted_and_writes_nothing() {
        let mut contents = [0; 20];
        contents[0] = 5;
        let shown = ShownPages::new(&contents).unwrap();
        shown.word(8).store(7, Relaxed);
        let (a, b) = (shown.open("a").unwrap(), shown.open("b").unwrap());
        let mut bytes = [0; 32];
        assert_eq!(read(&a, &mut bytes), Ok(20));
        assert_eq!((bytes[0], bytes[8]), (5, 7));
        assert_eq!(read(&a, &mut bytes), Ok(0), "it ends there");
        shown.word(8).fetch_add(1, Relaxed);
        assert_eq!(read(&b, &mut bytes), Ok(20), "each has its own place");
        assert_eq!(bytes[8], 8);
        assert_eq!(write(&a, &[1]), Err(Errno::BADF));
        let path = format!("/proc/self/fd/{}", a.as_raw_fd());
        if let Ok(again) = rustix::fs::open(path, OFlags::RDWR, Mode::empty()) {
            assert_eq!(write(&again, &[1]), Err(Errno::PERM));
            assert_eq!(rustix::fs::ftruncate(&again, 0), Err(Errno::PERM));
        }
    }

    #[test]
    fn posted_pages_are_read_through_the_links_of_the_process() {
        let posted = PostedPages::new("posted", 2).unwrap();
        let file = posted._file.get().unwrap().as_raw_fd();
        posted.pages().atomic_u64(4096).store(9, Relaxed);
        let path = format!("/proc/self/fd/{file}");
        let link = rustix::fs::readlink(path.as_str(), Vec::new()).unwrap();
        assert_eq!(link.as_bytes(), b"/memfd:posted (deleted)");
        let again = rustix::fs::open(path.as_str(), OFlags::RDWR, Mode::empty()).unwrap();
        let mut word = [0; 8];
        pread(&again, &mut word, 4096).unwrap();
        assert_eq!(u64::from_ne_bytes(word), 9);
        assert_eq!(write(&again, &[1]), Err(Errno::PERM));
        // The client closed it and has the number for something else: that stays open.
        let other = std::fs::File::open("/proc/self/stat").unwrap();
        let mut number = std::mem::ManuallyDrop::new(crate::fd::adopt_raw(file).unwrap());
        rustix::io::dup2(&other, &mut number).unwrap();
        drop(posted);
        drop(crate::fd::adopt_raw(file).expect("it is still open"));
    }

    #[test]
    fn a_kept_descriptor_that_is_gone_is_made_again() {
        let shown = ShownPages::new(&[0; 16]).unwrap();
        drop(shown.open("a").unwrap());
        let kept = shown
            .file
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .get()
            .unwrap()
            .as_raw_fd();
        // As `closefrom` does.
        drop(crate::fd::adopt_raw(kept));
        shown.word(8).store(3, Relaxed);
        let again = shown.open("a").unwrap();
        let mut word = [0; 8];
        pread(&again, &mut word, 8).unwrap();
        assert_eq!(u64::from_ne_bytes(word), 3);
    }
}
