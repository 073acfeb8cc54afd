//! The process's table of descriptors that are ours.
//!
//! An object is known by the identity of its memfd (device, inode), and cached by descriptor number. Every `ioctl`,
//! `read` and `close` of the client asks here first, so a number that is not ours is turned away by two loads. The table
//! counts the numbers that stand for each object; when the last is closed the object goes, as with the kernel's.
//!
//! Mappings of a vCPU's pages outlive its descriptors, but do not keep the vCPU alive as they do in Linux.
//!
//! # Forks
//!
//! A forked child gets a table of its own ([`Files::forked`]), with an entry for each number that is ours: `/dev/kvm`
//! works there, what belongs to a VM does not. The parent's table stays in the child's memory untouched, since a thread
//! that only the parent has may hold any of its locks. That is why a number's kind can be told without a lock.

use crate::errno::Errno;
use crate::file::{File, FileKind};
use ring3_host::fd::{self, FdId};
use ring3_host::signal;
use ring3_uapi::ioctl::KVM_CREATE_VCPU;
use std::collections::HashMap;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

/// Numbers in one lazily made part of the table.
const PART: usize = 1024;
/// Linux lets nobody have more descriptors than this by default (`fs.nr_open`).
const PARTS: usize = 1024;

/// The state of a number that is not ours; the others are those of [`FileKind`].
const NOT_OURS: u8 = 0;

struct Entry {
    state: AtomicU8,
    file: RwLock<Option<Arc<dyn File>>>,
}

type Part = Box<[Entry]>;

struct Object {
    file: Arc<dyn File>,
    /// Numbers that stand for it.
    fds: Vec<RawFd>,
}

/// The table. [`Files::process`] is the one every client of the process shares.
pub struct Files {
    parts: Box<[OnceLock<Part>]>,
    /// Never held while a file is dropped: a file's drop may close descriptors, which comes back here.
    objects: Mutex<HashMap<FdId, Object>>,
    /// Set once anything was ever installed: a process that never opens `/dev/kvm` pays one load.
    used: AtomicBool,
    /// In a forked child, the table that is in force.
    next: OnceLock<Box<Files>>,
}

impl Default for Files {
    fn default() -> Files {
        Files::new()
    }
}

impl Files {
    pub fn new() -> Files {
        Files {
            parts: (0..PARTS).map(|_| OnceLock::new()).collect(),
            objects: Mutex::new(HashMap::new()),
            used: AtomicBool::new(false),
            next: OnceLock::new(),
        }
    }

    /// The process's table.
    pub fn process() -> &'static Files {
        static FILES: OnceLock<Files> = OnceLock::new();
        FILES.get_or_init(Files::new).newest()
    }

    /// This table, or the one that a fork put in its place.
    pub(crate) fn newest(&self) -> &Files {
        let mut files = self;
        while let Some(next) = files.next.get() {
            files = next;
        }
        files
    }

    /// Whether `fd` is ours, by the cache alone.
    #[inline]
    pub fn is_ours(&self, fd: RawFd) -> bool {
        self.used.load(Ordering::Relaxed)
            && self
                .entry(fd)
                .is_some_and(|entry| entry.state.load(Ordering::Acquire) != NOT_OURS)
    }

    /// The kind of file that `fd` stands for, by the cache alone. Takes no lock.
    pub fn kind(&self, fd: RawFd) -> Option<FileKind> {
        if !self.used.load(Ordering::Relaxed) {
            return None;
        }
        kind_of(self.entry(fd)?)
    }

    /// What `fd` stands for, by the cache alone.
    #[inline]
    pub fn get(&self, fd: RawFd) -> Option<Arc<dyn File>> {
        if !self.is_ours(fd) {
            return None;
        }
        read(&self.entry(fd)?.file).clone()
    }

    /// What `fd` stands for, by asking the kernel what it is: for a number that came by a way nobody saw (a received
    /// descriptor, a direct system call). Corrects the cache.
    pub fn identify(&self, fd: RawFd) -> Option<Arc<dyn File>> {
        if !self.used.load(Ordering::Relaxed) {
            return None;
        }
        loop {
            let id = fd::identity_of_raw(fd).ok();
            let found = id.and_then(|id| self.objects().get(&id).map(|object| Arc::clone(&object.file)));
            match (&found, id) {
                (Some(file), Some(id)) if !self.get(fd).is_some_and(|cached| Arc::ptr_eq(&cached, file)) => {
                    self.closed(fd);
                    self.note(fd, id, Arc::clone(file));
                    // Another thread may have closed it before it was noted: then nobody else would forget it.
                    if fd::identity_of_raw(fd).ok() != Some(id) {
                        continue;
                    }
                }
                (None, _) if self.is_ours(fd) => self.closed(fd),
                _ => {}
            }
            return found;
        }
    }

    /// The ioctl system call on a descriptor that is ours. A panic costs the client the VM, not the process.
    pub fn ioctl(&self, file: &Arc<dyn File>, request: u32, arg: u64) -> Result<i64, Errno> {
        if file.kind() == FileKind::Vm && request == KVM_CREATE_VCPU {
            // Handlers installed behind our back, before there is a KVM_RUN to interrupt.
            signal::activate();
        }
        std::panic::catch_unwind(AssertUnwindSafe(|| file.ioctl(request, arg))).unwrap_or_else(|_| {
            file.broken();
            Err(Errno::EIO)
        })
    }

    /// Makes `memfd`, which nobody else uses, stand for `file`; the client gets the number.
    pub fn install(&self, file: Arc<dyn File>, memfd: OwnedFd) -> Result<RawFd, Errno> {
        let id = fd::identity(&memfd)?;
        let number = memfd.into_raw_fd();
        self.used.store(true, Ordering::SeqCst);
        // If the table knew the number, it was closed by a way nobody saw.
        self.closed(number);
        self.note(number, id, file);
        Ok(number)
    }

    /// `new` now stands for what `old` does (dup, dup2, dup3, F_DUPFD). What `new` stood for before is closed.
    pub fn duped(&self, old: RawFd, new: RawFd) {
        if old == new {
            return;
        }
        self.closed(new);
        if self.is_ours(old) {
            self.identify(new);
        }
    }

    /// `fd` is about to be closed, or just was. Frees the object if this was its last number.
    pub fn closed(&self, fd: RawFd) {
        if !self.is_ours(fd) {
            return;
        }
        let Some(entry) = self.entry(fd) else { return };
        entry.state.store(NOT_OURS, Ordering::Release);
        // Both are dropped at the end, after the table's lock.
        let _cached = entry.file.write().unwrap_or_else(PoisonError::into_inner).take();
        let mut objects = self.objects();
        let id = ids_of(&objects, fd).next();
        let _gone = id.and_then(|id| without(&mut objects, id, fd));
        drop(objects);
    }

    /// All numbers from `first` to `last` are about to be closed (`close_range`).
    pub fn closed_range(&self, first: RawFd, last: RawFd) {
        let mut fds: Vec<RawFd> = self
            .objects()
            .values()
            .flat_map(|object| object.fds.clone())
            .collect();
        fds.retain(|fd| (first..=last).contains(fd));
        fds.into_iter().for_each(|fd| self.closed(fd));
    }

    /// In a forked child, once: puts a table in force where `make` says what a number of this kind stands for. This one
    /// is not locked, and nothing of it is dropped.
    pub fn forked(&self, make: impl Fn(FileKind) -> Arc<dyn File>) {
        let files = Files::new();
        let parts = self.parts.iter().enumerate();
        for (at, part) in parts.filter_map(|(i, part)| Some((i * PART, part.get()?))) {
            for (i, entry) in part.iter().enumerate() {
                let fd = (at + i) as RawFd;
                let Some(kind) = kind_of(entry) else { continue };
                if let Ok(id) = fd::identity_of_raw(fd) {
                    files.note(fd, id, make(kind));
                }
            }
        }
        files
            .used
            .store(self.used.load(Ordering::Relaxed), Ordering::SeqCst);
        // If there is one already, it is this child's.
        let _ = self.next.set(Box::new(files));
    }

    fn objects(&self) -> MutexGuard<'_, HashMap<FdId, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, fd: RawFd, id: FdId, file: Arc<dyn File>) {
        let Some(entry) = self.entry_or_make(fd) else {
            return;
        };
        let mut objects = self.objects();
        // A number stands for one object only, whatever threads that do not know of each other do.
        let mut _gone = Vec::new();
        for other in ids_of(&objects, fd)
            .filter(|other| *other != id)
            .collect::<Vec<_>>()
        {
            _gone.extend(without(&mut objects, other, fd));
        }
        let object = objects.entry(id).or_insert_with(|| Object {
            file: Arc::clone(&file),
            fds: Vec::new(),
        });
        if !object.fds.contains(&fd) {
            object.fds.push(fd);
        }
        let state = file.kind() as u8;
        let before = entry
            .file
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(file);
        entry.state.store(state, Ordering::Release);
        drop(objects);
        drop(before);
    }

    #[inline]
    fn entry(&self, fd: RawFd) -> Option<&Entry> {
        let fd = usize::try_from(fd).ok()?;
        self.parts.get(fd / PART)?.get()?.get(fd % PART)
    }

    fn entry_or_make(&self, fd: RawFd) -> Option<&Entry> {
        let fd = usize::try_from(fd).ok()?;
        let part = self.parts.get(fd / PART)?.get_or_init(|| {
            let empty = || Entry {
                state: AtomicU8::new(NOT_OURS),
                file: RwLock::new(None),
            };
            (0..PART).map(|_| empty()).collect()
        });
        part.get(fd % PART)
    }
}

/// The objects that a number stands for.
fn ids_of(objects: &HashMap<FdId, Object>, fd: RawFd) -> impl Iterator<Item = FdId> {
    let found = objects.iter().filter(move |(_, object)| object.fds.contains(&fd));
    found.map(|(id, _)| *id)
}

/// Takes a number from an object, which is returned if it has no other.
fn without(objects: &mut HashMap<FdId, Object>, id: FdId, fd: RawFd) -> Option<Object> {
    let object = objects.get_mut(&id)?;
    object.fds.retain(|&other| other != fd);
    if object.fds.is_empty() {
        objects.remove(&id)
    } else {
        None
    }
}

fn kind_of(entry: &Entry) -> Option<FileKind> {
    let state = entry.state.load(Ordering::Acquire);
    FileKind::ALL.into_iter().find(|kind| *kind as u8 == state)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
