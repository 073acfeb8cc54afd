//! A thread of the client's: its registers while ring3 works for it, its signals, and what else Linux keeps per thread that the
//! kernel beneath must not be told.
//!
//! The thread itself and the handlers that interrupt it share this; no other thread does. What handlers touch is in cells and atomic
//! words, each written whole.

use crate::process::Process;
use crate::seccomp::Filters;
use std::cell::{Cell, UnsafeCell};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// Indices of the general registers, in the order in which the kernel's signal frames have them.
pub use libc::{
    REG_CSGSFS, REG_EFL, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RAX,
    REG_RBP, REG_RBX, REG_RCX, REG_RDI, REG_RDX, REG_RIP, REG_RSI, REG_RSP,
};

/// The registers of a signal frame.
pub type Registers = [u64; 23];

/// Whose code runs, as far as signals are concerned.
pub const AT_CLIENT: u8 = 0;
pub const AT_HOST: u8 = 1;

/// What the kernel does with system calls; as `SYSCALL_DISPATCH_FILTER_*`.
pub const ALLOW: u8 = 0;
pub const BLOCK: u8 = 1;

/// No system call's number.
pub const NO_CALL: u64 = u64::MAX;

/// How the client goes on; what the dispatcher returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Exit {
    /// Behind its system call, with the registers that are kept here.
    Return = 0,
    /// With what is in the signal frame.
    Frame = 1,
    /// Not at all: the thread ends.
    Leave = 2,
}

/// Vector and floating-point state, as XSAVE writes it and a signal frame has it.
#[repr(C, align(64))]
pub struct Extended(pub UnsafeCell<[u8; Extended::SIZE]>);

impl Extended {
    /// Room for all but what the kernel hands out on request.
    pub const SIZE: usize = 4096;
}

/// A signal frame, for the kernel to return from.
#[repr(C, align(64))]
pub struct Frame(pub UnsafeCell<[u8; Frame::SIZE]>);

impl Frame {
    /// Of the frames of all processors, with everything in them.
    pub const SIZE: usize = 16 << 10;
}

/// A siginfo as it came, 128 bytes.
pub type Info = [u64; 16];

#[repr(C)]
pub struct Thread {
    pub extended: Extended,
    /// Where the client is, while ring3 works for it.
    pub registers: [Cell<u64>; 23],
    /// The thread itself, for who has it from the GS base.
    pub this: Cell<*const Thread>,
    /// Whether the call that is being served was caught by a signal.
    pub caught: Cell<bool>,
    /// The client's thread-local storage, and ring3's.
    pub client_fs: Cell<u64>,
    pub host_fs: Cell<u64>,
    /// Where ring3's stack begins.
    pub host_stack: Cell<u64>,
    /// Signals that wait for the client to go on, by number: bit `n - 1`.
    pub pending: AtomicU64,
    pub state: AtomicU8,
    pub selector: AtomicU8,
    pub exit: Cell<Exit>,
    /// What the kernel returns from, if `exit` says so.
    pub frame: Frame,
    /// The signals that the client believes it blocks.
    pub mask: AtomicU64,
    /// Those that it blocks while it waits in a call that changes that for so long, if it does.
    pub wait_mask: AtomicU64,
    pub waits: AtomicU8,
    /// Signals that came while the client blocked them, and ring3 did not.
    pub hidden: AtomicU64,
    /// What came with each of the pending and the hidden signals.
    pub infos: [Cell<Info>; 65],
    /// The client's own signal stack: address, flags, size.
    pub signal_stack: Cell<[u64; 3]>,
    /// The number of the client's system call that was interrupted before it began, and may be made again; [`NO_CALL`] if none was.
    pub restart: Cell<u64>,
    /// Which word to clear, and wake, when the thread ends.
    pub clear_at_exit: Cell<u64>,
    pub robust_list: Cell<u64>,
    /// The client's registration for restartable sequences: address, length, signature; no address if there is none.
    pub sequences: Cell<[u64; 3]>,
    pub process: Cell<*const Process>,
    /// Its number, once it has begun.
    pub tid: AtomicU32,
    /// Whether `filters` says anything.
    pub filtered: AtomicU8,
    /// The one part that other threads may change.
    pub filters: Mutex<Filters>,
}

impl Thread {
    /// Begins a thread of `process` in an area that is all zeroes.
    ///
    /// # Safety
    /// The area is the caller's alone.
    pub unsafe fn begin(area: *mut Thread, process: &'static Process, filters: Filters) -> &'static Thread {
        let filtered = u8::from(!matches!(filters, Filters::None));
        // SAFETY: it is the caller's; what is not written here may be zero.
        unsafe {
            (&raw mut (*area).exit).write(Cell::new(Exit::Return));
            (&raw mut (*area).restart).write(Cell::new(NO_CALL));
            (&raw mut (*area).process).write(Cell::new(process));
            (&raw mut (*area).filters).write(Mutex::new(filters));
            (&raw mut (*area).filtered).write(AtomicU8::new(filtered));
            (&raw mut (*area).signal_stack).write(Cell::new([0, libc::SS_DISABLE as u64, 0]));
            (&raw mut (*area).state).write(AtomicU8::new(AT_HOST));
            &*area
        }
    }

    /// One general register.
    pub fn register(&self, index: i32) -> u64 {
        self.registers[index as usize].get()
    }

    pub fn set_register(&self, index: i32, value: u64) {
        self.registers[index as usize].set(value);
    }

    /// All of them.
    pub fn registers(&self) -> Registers {
        std::array::from_fn(|index| self.registers[index].get())
    }

    pub fn set_registers(&self, all: &Registers) {
        self.registers
            .iter()
            .zip(all)
            .for_each(|(register, value)| register.set(*value));
    }

    /// The process that the thread is of. A child of `vfork` has one of its own.
    pub fn process(&self) -> &'static Process {
        // SAFETY: set by `begin`, to one that outlives the thread.
        unsafe { &*self.process.get() }
    }
}
