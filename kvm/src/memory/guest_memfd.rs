//! guest_memfd: memory for private pages, which the client can free but not see, or for all pages of a slot.
//!
//! The file is one of ours ([`ring3_host::memory_file`]), and freeing pages of it (a hole punched by `fallocate`) is the kernel's work:
//! a mapping of ours goes on being that of the file, so nobody needs to hear of it. A slot maps its part when it is made.
//!
//! Not as in Linux: without the preload library to refuse it, a file that may be mapped can also be read, mapped privately, and mapped
//! before its pages are shared; what else is refused may be so with another error number.

use super::Memory;
use super::code::SlotCode;
use crate::arch::Arch;
use crate::errno::Errno;
use crate::file::{File, FileKind};
use crate::files::Files;
use crate::vm::Life;
use ring3_host::addr::PAGE_SIZE;
use ring3_host::fd;
use ring3_host::mem::{HostPage, HostRegion};
use ring3_host::memory_file::{ClientMay, FileMapping, MemoryFile};
use ring3_uapi::{GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, KvmCreateGuestMemfd};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A guest_memfd of a VM.
#[derive(Debug)]
pub struct GuestMemfd {
    file: MemoryFile,
    flags: u64,
    /// Which VM's it is.
    owner: u64,
    /// Its last descriptor is closed: slots have lost it.
    released: AtomicBool,
    /// Which of its pages slots have: from, up to.
    bound: Mutex<Vec<(u64, u64)>>,
}

impl GuestMemfd {
    /// Whether the client may map it.
    pub fn may_be_mapped(&self) -> bool {
        self.flags & GUEST_MEMFD_FLAG_MMAP != 0
    }

    /// Whether its pages are the client's too, rather than private.
    pub fn is_shared(&self) -> bool {
        self.flags & GUEST_MEMFD_FLAG_INIT_SHARED != 0
    }

    /// Bytes of it.
    pub fn size(&self) -> u64 {
        self.file.size()
    }

    fn bound(&self) -> MutexGuard<'_, Vec<(u64, u64)>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bind(&self, first: u64, end: u64) -> Result<(), Errno> {
        let mut bound = self.bound();
        if bound
            .iter()
            .any(|&(other, other_end)| other < end && first < other_end)
        {
            return Err(Errno::EEXIST);
        }
        bound.push((first, end));
        Ok(())
    }

    fn unbind(&self, first: u64) {
        self.bound().retain(|&(other, _)| other != first);
    }
}

/// A slot's part of a guest_memfd.
#[derive(Debug)]
pub(super) struct Binding {
    memfd: Arc<GuestMemfd>,
    first: u64,
    mapping: FileMapping,
    code: SlotCode,
}

impl Binding {
    /// Whether all pages of the slot are in it, those that are not private included.
    pub fn is_all(&self) -> bool {
        self.memfd.may_be_mapped()
    }

    pub fn region(&self) -> &HostRegion {
        self.mapping.region()
    }

    pub fn code(&self) -> &SlotCode {
        &self.code
    }

    /// The page, as long as there is a descriptor of the file.
    #[inline]
    pub fn page(&self, index: u64) -> Option<HostPage> {
        if self.memfd.released.load(SeqCst) {
            return None;
        }
        self.region().page(index)
    }

    /// The slot is gone, or was never made.
    pub fn unbind(&self) {
        self.memfd.unbind(self.first);
    }
}

impl Memory {
    /// Which flags KVM_CREATE_GUEST_MEMFD takes.
    pub(crate) fn guest_memfd_flags(&self) -> u64 {
        if self.has_private() {
            GUEST_MEMFD_FLAG_MMAP
        } else {
            GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED
        }
    }

    fn create_guest_memfd(&self, args: &KvmCreateGuestMemfd) -> Result<GuestMemfd, Errno> {
        let fits = args.size != 0 && i64::try_from(args.size).is_ok() && args.size.is_multiple_of(PAGE_SIZE);
        if args.flags & !self.guest_memfd_flags() != 0 || !fits {
            return Err(Errno::EINVAL);
        }
        Ok(GuestMemfd {
            file: MemoryFile::create("kvm-gmem", args.size)?,
            flags: args.flags,
            owner: self.id,
            released: AtomicBool::new(false),
            bound: Mutex::default(),
        })
    }

    /// The VM's guest_memfd that a descriptor stands for.
    pub(super) fn guest_memfd(&self, fd: RawFd) -> Result<Arc<GuestMemfd>, Errno> {
        let files = Files::process();
        let file = files.get(fd).or_else(|| files.identify(fd));
        let Some(file) = file else {
            fd::identity_of_raw(fd).map_err(|_| Errno::EBADF)?;
            return Err(Errno::EINVAL);
        };
        let memfd = file.guest_memfd().filter(|memfd| memfd.owner == self.id);
        memfd.cloned().ok_or(Errno::EINVAL)
    }

    /// Gives a new slot the part of a guest_memfd that it asks for.
    pub(super) fn bind(&self, memfd: &Arc<GuestMemfd>, offset: u64, size: u64) -> Result<Binding, Errno> {
        let end = offset.checked_add(size).filter(|end| *end <= memfd.size());
        let (first, end) = (offset / PAGE_SIZE, end.ok_or(Errno::EINVAL)? / PAGE_SIZE);
        let mapping = memfd.file.map(offset, size)?;
        let code = self.code.of(mapping.region())?;
        memfd.bind(first, end)?;
        Ok(Binding {
            memfd: Arc::clone(memfd),
            first,
            mapping,
            code,
        })
    }

    /// The last descriptor is closed: nobody reaches its pages any more.
    fn release(&self, memfd: &GuestMemfd) {
        let _changes = self.changes.lock();
        memfd.released.store(true, SeqCst);
        if !memfd.bound().is_empty() {
            self.flush_all(crate::vcpu::Request::TLB_FLUSH);
        }
    }
}

/// What stands behind a descriptor.
struct GuestMemfdFile<A: Arch> {
    memfd: Arc<GuestMemfd>,
    life: Arc<Life<A>>,
}

impl<A: Arch> File for GuestMemfdFile<A> {
    fn kind(&self) -> FileKind {
        FileKind::GuestMemfd
    }

    fn ioctl(&self, _: u32, _: u64) -> Result<i64, Errno> {
        Err(Errno::ENOTTY)
    }

    fn guest_memfd(&self) -> Option<&Arc<GuestMemfd>> {
        Some(&self.memfd)
    }
}

impl<A: Arch> Drop for GuestMemfdFile<A> {
    fn drop(&mut self) {
        self.life.vm().memory().release(&self.memfd);
    }
}

/// KVM_CREATE_GUEST_MEMFD.
pub(crate) fn create<A: Arch>(life: &Arc<Life<A>>, args: &KvmCreateGuestMemfd) -> Result<i64, Errno> {
    let memfd = Arc::new(life.vm().memory().create_guest_memfd(args)?);
    let may = if memfd.may_be_mapped() {
        ClientMay::Map
    } else {
        ClientMay::Free
    };
    let fd = memfd.file.client_fd(may)?;
    let file = GuestMemfdFile {
        memfd,
        life: Arc::clone(life),
    };
    Ok(i64::from(Files::process().install(Arc::new(file), fd)?))
}
