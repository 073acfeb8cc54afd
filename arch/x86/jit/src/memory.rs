//! Memory for translated code: written through one mapping of a memfd, executed through another, so that no page is
//! ever writable and executable at one address.
//!
//! Beside it, within reach of relative addresses: words through which code jumps to other pages, so that such a jump can be
//! redirected without a change of code. And the shadow stack, on which translated code runs.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ptr::NonNull;

/// Bytes of code that one vCPU's translations may fill before all are dropped. Pages never touched cost nothing.
pub const SIZE: usize = 64 << 20;
const HALF: usize = SIZE / 2;
/// Words to jump through.
const WORDS: usize = 1 << 18;
/// The shadow stack: what calls may fill, and room below for handlers of signals that arrive meanwhile. The lowest page
/// is never mapped.
const SHADOW_DEPTH: usize = 128 << 10;
const SHADOW_SIZE: usize = 1 << 20;
const PAGE: usize = 4096;

struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn of(at: *mut core::ffi::c_void, len: usize) -> rustix::io::Result<Mapping> {
        let at = NonNull::new(at.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Mapping { at, len })
    }

    fn shared(fd: &rustix::fd::OwnedFd, prot: ProtFlags) -> rustix::io::Result<Mapping> {
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory that anything else knows.
        let at = unsafe { mmap(std::ptr::null_mut(), SIZE, prot, MapFlags::SHARED, fd, 0)? };
        Mapping::of(at, SIZE)
    }

    fn anonymous(len: usize, prot: ProtFlags) -> rustix::io::Result<Mapping> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: as above.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), len, prot, flags)? };
        Mapping::of(at, len)
    }

    fn address(&self) -> u64 {
        self.at.as_ptr() as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, `len` long; its owner lives as long as anything that uses it.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// The memory and how much of it is filled.
pub struct CodeMemory {
    write: Mapping,
    /// Executable, and behind it the words.
    execute: Mapping,
    /// How much of either half is filled: with what is executed often, and with what is not.
    used: usize,
    cold: usize,
    words: usize,
}

// SAFETY: what is written is reached only through `&mut self`; nothing depends on the thread.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    pub fn new() -> rustix::io::Result<CodeMemory> {
        let fd = memfd_create("ring3-code", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, SIZE as u64)?;
        let write = Mapping::shared(&fd, ProtFlags::READ | ProtFlags::WRITE)?;
        let execute = Mapping::anonymous(SIZE + 8 * WORDS, ProtFlags::READ | ProtFlags::WRITE)?;
        // SAFETY: replaces the first part of a mapping of ours that nothing refers to yet.
        unsafe {
            mmap(
                execute.at.as_ptr().cast(),
                SIZE,
                ProtFlags::READ | ProtFlags::EXEC,
                MapFlags::SHARED | MapFlags::FIXED,
                &fd,
                0,
            )?;
        }
        Ok(CodeMemory {
            write,
            execute,
            used: 0,
            cold: 0,
            words: 0,
        })
    }

    /// The address that the next code will have.
    pub fn next(&self) -> u64 {
        self.start() + self.used as u64
    }

    /// The address of the first code.
    pub fn start(&self) -> u64 {
        self.execute.address()
    }

    /// The address that the next cold code will have.
    pub fn next_cold(&self) -> u64 {
        self.start() + (HALF + self.cold) as u64
    }

    /// Adds code, made for [`CodeMemory::next`]; `None` if there is no room left.
    pub fn add(&mut self, code: &[u8]) -> Option<u64> {
        let end = self.used.checked_add(code.len()).filter(|end| *end <= HALF)?;
        let at = self.next();
        self.put(self.used, code);
        self.used = end.next_multiple_of(16).min(HALF);
        Some(at)
    }

    /// Adds code, made for [`CodeMemory::next_cold`]; `None` if there is no room left.
    pub fn add_cold(&mut self, code: &[u8]) -> Option<u64> {
        let end = self.cold.checked_add(code.len()).filter(|end| *end <= HALF)?;
        let at = self.next_cold();
        self.put(HALF + self.cold, code);
        self.cold = end;
        Some(at)
    }

    fn put(&mut self, offset: usize, code: &[u8]) {
        // SAFETY: the callers checked that these bytes lie inside the writable mapping, where nothing was put yet.
        unsafe {
            let to = self.write.at.as_ptr().add(offset);
            to.copy_from_nonoverlapping(code.as_ptr(), code.len());
        }
    }

    /// Makes the jump whose distance is at this address go to `target`. Only the thread that executes this memory may, between two
    /// stays in it.
    pub fn patch(&mut self, site: u64, target: u64) {
        let offset = site.wrapping_sub(self.start()) as usize;
        if offset > SIZE - 4 {
            return;
        }
        let distance = target.wrapping_sub(site + 4) as u32;
        // SAFETY: four bytes inside the writable mapping.
        unsafe {
            let to = self.write.at.as_ptr().add(offset);
            to.copy_from_nonoverlapping(distance.to_le_bytes().as_ptr(), 4);
        }
    }

    /// The number of the next word.
    pub fn next_word(&self) -> usize {
        self.words
    }

    /// Where a word is.
    pub fn word(&self, number: usize) -> u64 {
        self.start() + (SIZE + 8 * number) as u64
    }

    /// Takes the next `count` words; false if there are none left.
    pub fn take_words(&mut self, count: usize) -> bool {
        let enough = self.words + count <= WORDS;
        self.words += if enough { count } else { 0 };
        enough
    }

    /// Sets a word that was taken. Only the thread that executes this memory may, between two stays in it.
    pub fn set_word(&mut self, number: usize, value: u64) {
        if number < self.words {
            // SAFETY: one of the words behind the code, which are writable; aligned.
            unsafe {
                let at = self.execute.at.as_ptr().add(SIZE + 8 * number);
                at.cast::<u64>().write(value);
            }
        }
    }

    /// Forgets all code from this address on, and all words.
    pub fn truncate(&mut self, address: u64) {
        self.used = (address.wrapping_sub(self.start()) as usize).min(self.used);
        self.cold = 0;
        self.words = 0;
    }
}

/// The stack that translated code runs on: only return addresses are pushed there, paired with the guest's own.
pub struct ShadowStack(Mapping);

// SAFETY: only the thread that runs the vCPU uses the memory.
unsafe impl Send for ShadowStack {}

impl ShadowStack {
    pub fn new() -> rustix::io::Result<ShadowStack> {
        let stack = Mapping::anonymous(SHADOW_SIZE, ProtFlags::READ | ProtFlags::WRITE)?;
        // SAFETY: the lowest page of a mapping of ours, where nothing lies.
        unsafe { rustix::mm::mprotect(stack.at.as_ptr().cast(), PAGE, rustix::mm::MprotectFlags::empty())? };
        Ok(ShadowStack(stack))
    }

    /// Puts at the bottom, from where on calls push, the code that a return goes to which has no call.
    pub fn set_bottom(&mut self, code: u64) {
        // SAFETY: within the mapping, which is writable there; aligned.
        unsafe {
            let at = self.0.at.as_ptr().add(SHADOW_SIZE - 16);
            at.cast::<u64>().write(code);
        }
    }

    /// The stack pointer with nothing but the bottom on it: a multiple of 16.
    pub fn top(&self) -> u64 {
        self.0.address() + SHADOW_SIZE as u64 - 16
    }

    /// The lowest stack pointer that a call may begin with.
    pub fn limit(&self) -> u64 {
        self.top() - SHADOW_DEPTH as u64
    }
}
