//! The parent's side: starting a child, giving it work, and getting the results back.

use super::child;
use crate::native::VectorState;
use crate::native::xsave::{PointerWidth, XFEATURES, XSAVE_SIZE};
use crate::shared::SharedPages;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The kernel's selectors for 64-bit code, 32-bit code and data.
pub const CODE64: u64 = 0x33;
pub const CODE32: u64 = 0x23;
pub const DATA: u64 = 0x2b;

/// General registers in the encoding's order, and the rest that is not vector state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Registers {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// The bases of FS and GS, where `ds` is zero.
    pub fs_base: u64,
    pub gs_base: u64,
    /// CS, which decides the mode.
    pub cs: u64,
    /// DS, ES, FS and GS: zero, [`DATA`], or one of the child's segments.
    pub ds: u64,
    pub ss: u64,
}

impl Default for Registers {
    /// 64-bit mode, and zeroes.
    fn default() -> Registers {
        Registers {
            gpr: [0; 16],
            rip: 0,
            rflags: 0,
            fs_base: 0,
            gs_base: 0,
            cs: CODE64,
            ds: 0,
            ss: DATA,
        }
    }
}

/// The exception that ended the code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Trap {
    pub vector: u64,
    /// The error code, zero for exceptions that have none.
    pub error: u64,
    /// CR2; of meaning after a page fault only.
    pub cr2: u64,
}

/// How a window may be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    Read,
    Write,
    Execute,
}

/// Where some pages of the memory appear to the code.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub address: u64,
    /// The first page of the memory, and how many there are.
    pub page: usize,
    pub pages: usize,
    pub rights: Rights,
}

/// A 16-bit segment in the child's local descriptor table.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub base: u32,
    /// The last offset.
    pub limit: u32,
    pub kind: SegmentKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    Code,
    Data,
}

impl Segment {
    /// The selector of the child's segment number `n`.
    pub const fn selector(n: u64) -> u64 {
        n << 3 | 7
    }
}

/// The page through which parent and child exchange the state.
#[repr(C, align(64))]
pub(super) struct Mailbox {
    pub(super) registers: Registers,
    pub(super) trap: Trap,
    /// Whether the kernel gave the child its segments.
    pub(super) has_segments: u64,
    /// An XSAVE image in the standard format.
    pub(super) image: [u8; XSAVE_SIZE],
}

const _: () = assert!(size_of::<Mailbox>() <= 4096);

/// The child is gone, or did not come back in time; this [`Direct`] is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the code ended its process, or did not end")
    }
}

impl std::error::Error for Lost {}

/// How long code may run. Some hypervisors make whoever locks across two cache lines wait for seconds.
const PATIENCE: Timespec = Timespec {
    tv_sec: 300,
    tv_nsec: 0,
};
/// Room for a signal frame with every register there is.
const STACK: usize = 128 << 10;

/// A child process that executes code; see the module.
#[derive(Debug)]
pub struct Direct {
    memory: SharedPages,
    mailbox: SharedPages,
    commands: OwnedFd,
    reports: OwnedFd,
    child: Pid,
}

impl Direct {
    /// Starts a child with `pages` pages of memory, seen through `windows`, and with `segments`, if the kernel has those
    /// (see [`Direct::has_segments`]).
    pub fn spawn(pages: usize, windows: &[Window], segments: &[Segment]) -> io::Result<Direct> {
        let (memory, memory_file) = SharedPages::create("ring3-direct-memory", pages)?;
        let (mailbox, _) = SharedPages::create("ring3-direct-mailbox", 1)?;
        let (to_child, commands) = pipe_with(PipeFlags::CLOEXEC)?;
        let (reports, from_child) = pipe_with(PipeFlags::CLOEXEC)?;
        let stack = Stack::new()?;
        let Some(at) = NonNull::new(mailbox.address().0 as *mut Mailbox) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let plan = child::Plan {
            mailbox: at,
            memory: memory_file.as_raw_fd(),
            commands: to_child.as_raw_fd(),
            reports: from_child.as_raw_fd(),
            stack: stack.0.as_ptr() as u64,
            stack_size: STACK,
            windows,
            segments,
        };
        // SAFETY: the mailbox is a `Mailbox` long, mapped in the child too, and outlives it as a shared mapping; the
        // stack is mapped, and the child has its own copy of it.
        let child = unsafe { child::fork(&plan) }?;
        let direct = Direct {
            memory,
            mailbox,
            commands,
            reports,
            child,
        };
        drop((to_child, from_child));
        direct.wait().map_err(io::Error::other)?;
        Ok(direct)
    }

    /// Whether 16-bit code can run: kernels may leave out what that takes.
    pub fn has_segments(&self) -> bool {
        self.mailbox.load::<u64>(offset_of!(Mailbox, has_segments)) != 0
    }

    /// The memory, as the code finds and leaves it.
    pub fn memory(&self) -> &SharedPages {
        &self.memory
    }

    /// Executes the code at `registers.rip` until its first exception, whose kind it returns. RIP is then where the
    /// exception says: at a faulting instruction, behind an INT3.
    ///
    /// This is safe whatever the code is: it runs in another process, which shares with this one only memory that is never
    /// trusted (the mailbox and [`Direct::memory`]) and may make no system call of consequence.
    pub fn run(&mut self, registers: &mut Registers, vector: &mut VectorState) -> Result<Trap, Lost> {
        let mut image = [0; XSAVE_SIZE];
        vector.to_xsave(XFEATURES, &mut image, PointerWidth::Quad);
        self.mailbox.store(offset_of!(Mailbox, registers), registers);
        self.mailbox.write(offset_of!(Mailbox, image), &image);
        rustix::io::write(&self.commands, &[1]).map_err(|_| Lost)?;
        self.wait()?;
        *registers = self.mailbox.load(offset_of!(Mailbox, registers));
        self.mailbox.read(offset_of!(Mailbox, image), &mut image);
        vector
            .from_xsave(XFEATURES, &image, PointerWidth::Quad)
            .map_err(|_| Lost)?;
        Ok(self.mailbox.load(offset_of!(Mailbox, trap)))
    }

    fn wait(&self) -> Result<(), Lost> {
        let mut fds = [PollFd::from_borrowed_fd(self.reports.as_fd(), PollFlags::IN)];
        loop {
            match poll(&mut fds, Some(&PATIENCE)) {
                Ok(0) => return Err(Lost),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(Lost),
            }
        }
        match rustix::io::read(&self.reports, &mut [0; 1]) {
            Ok(1) => Ok(()),
            _ => Err(Lost),
        }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        let _ = kill_process(self.child, Signal::KILL);
        let _ = waitpid(Some(self.child), WaitOptions::empty());
    }
}

/// The child's signal stack: made here, because the child should not have to.
struct Stack(NonNull<u8>);

impl Stack {
    fn new() -> io::Result<Stack> {
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let at =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), STACK, rights, MapFlags::PRIVATE) }?;
        NonNull::new(at.cast())
            .map(Stack)
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and in this process nothing was ever put there.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), STACK) };
    }
}
