//! Executable memory for thunks: written through one mapping of a memfd, executed through another, so that no page is
//! ever writable and executable at one address.
//!
//! Chunks are append-only and counted: a step holds its chunk, and the last step to go unmaps it.

use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{Pid, getpid};

pub(super) const CHUNK: usize = 256 << 10;
/// Thunks start on a cache line of their own halves: no false sharing of decode windows, little waste.
const ALIGN: usize = 32;

/// One mapping of the chunk's memfd.
struct Mapping(NonNull<u8>);

impl Mapping {
    fn new(fd: &rustix::fd::OwnedFd, prot: ProtFlags) -> rustix::io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory that anything else knows.
        let at = unsafe { mmap(std::ptr::null_mut(), CHUNK, prot, MapFlags::SHARED, fd, 0)? };
        NonNull::new(at.cast()).map(Self).ok_or(rustix::io::Errno::NOMEM)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours alone, `CHUNK` long, and nothing refers to it any more: the write side is only
        // used inside `Arena::add`, the execute side by steps, each of which holds the `Arc` of its chunk.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), CHUNK) };
    }
}

/// The executable side of a chunk, held by every step whose thunk is in it.
pub(super) struct Chunk(Mapping);

// SAFETY: the mapping is only executed from, and unmapped when the last owner drops; neither depends on the thread.
unsafe impl Send for Chunk {}
// SAFETY: as above; there is no mutation through a shared reference.
unsafe impl Sync for Chunk {}

impl Drop for Chunk {
    fn drop(&mut self) {
        super::traps::forget(self.0.0);
    }
}

/// The chunk being filled.
struct Open {
    chunk: Arc<Chunk>,
    write: Mapping,
    used: usize,
    /// A forked child shares the pages with its parent: it must not append to them.
    owner: Pid,
}

// SAFETY: the write mapping is only reached through `&mut Arena`; it does not depend on the thread.
unsafe impl Send for Open {}

#[derive(Default)]
pub(super) struct Arena {
    open: Option<Open>,
}

impl Arena {
    /// Stores `code`; returns where it can be executed and the chunk to hold as long as it may be.
    pub(super) fn add(&mut self, code: &[u8]) -> rustix::io::Result<(NonNull<u8>, Arc<Chunk>)> {
        if code.len() > CHUNK {
            return Err(rustix::io::Errno::TOOBIG);
        }
        let pid = getpid();
        let usable = self
            .open
            .as_ref()
            .is_some_and(|o| o.owner == pid && CHUNK - o.used >= code.len());
        if !usable {
            self.open = Some(Open::new(pid)?);
        }
        let Some(open) = &mut self.open else {
            return Err(rustix::io::Errno::NOMEM);
        };
        // SAFETY: `used + code.len() <= CHUNK` (checked above, or the chunk is new and the code fits a chunk), so the
        // target lies inside the writable mapping; no thunk already handed out lies at or beyond `used`.
        let entry = unsafe {
            open.write
                .0
                .as_ptr()
                .add(open.used)
                .copy_from_nonoverlapping(code.as_ptr(), code.len());
            open.chunk.0.0.add(open.used)
        };
        open.used = (open.used + code.len()).next_multiple_of(ALIGN).min(CHUNK);
        Ok((entry, Arc::clone(&open.chunk)))
    }
}

impl Open {
    fn new(owner: Pid) -> rustix::io::Result<Self> {
        let fd = memfd_create("ring3-native", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, CHUNK as u64)?;
        let write = Mapping::new(&fd, ProtFlags::READ | ProtFlags::WRITE)?;
        let chunk = Arc::new(Chunk(Mapping::new(&fd, ProtFlags::READ | ProtFlags::EXEC)?));
        super::traps::register(chunk.0.0).map_err(|_| rustix::io::Errno::NOMEM)?;
        Ok(Self {
            chunk,
            write,
            used: 0,
            owner,
        })
    }
}
