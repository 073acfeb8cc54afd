//! The system calls about signals, made directly. The wrappers elsewhere go through `rustix`.

use rustix::io::Errno;
use std::arch::{asm, global_asm};

/// A set of signals as the kernel has it: signal `n` is bit `n - 1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct SigSet(pub u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: SigSet = SigSet(0);

    /// The set of one signal.
    pub const fn of(signal: i32) -> SigSet {
        SigSet(1 << ((signal - 1) & 63))
    }

    /// Whether `signal` is in it.
    pub const fn has(self, signal: i32) -> bool {
        self.0 & Self::of(signal).0 != 0
    }

    /// Either set.
    pub const fn with(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }

    /// This set less the other.
    pub const fn without(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }

    /// Both sets' common part.
    pub const fn common(self, other: SigSet) -> SigSet {
        SigSet(self.0 & other.0)
    }

    /// Whether no signal is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The kernel's `struct sigaction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KernelAction {
    /// The handler's address, or 0 for the default action, 1 to ignore.
    pub handler: u64,
    /// `SA_` flags.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// What is blocked while it runs.
    pub mask: SigSet,
}

pub(crate) const SIG_DFL: u64 = 0;
pub(crate) const SIG_IGN: u64 = 1;
pub(crate) const SA_SIGINFO: u64 = 4;
pub(crate) const SA_RESTORER: u64 = 0x0400_0000;
pub(crate) const SA_ONSTACK: u64 = 0x0800_0000;

pub(crate) const SA_NODEFER: u64 = 0x4000_0000;
pub(crate) const SA_RESETHAND: u64 = 0x8000_0000;

/// Which change [`sigprocmask`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MaskHow {
    Block = 0,
    Unblock = 1,
    Set = 2,
}

// Where handlers return to. Unwinders know a signal frame by exactly these two instructions.
global_asm!(
    ".pushsection .text.ring3_restorer,\"ax\",@progbits",
    ".balign 16",
    ".hidden ring3_restorer",
    ".globl ring3_restorer",
    ".type ring3_restorer,@function",
    "nop",
    "ring3_restorer:",
    "mov rax, 15",
    "syscall",
    ".size ring3_restorer, . - ring3_restorer",
    ".popsection",
);

unsafe extern "C" {
    fn ring3_restorer();
}

pub(crate) fn restorer() -> u64 {
    ring3_restorer as *const () as u64
}

/// # Safety
/// As for the system call.
unsafe fn syscall4(number: u64, a: u64, b: u64, c: u64, d: u64) -> Result<u64, Errno> {
    let result: i64;
    // SAFETY: by contract; the kernel clobbers RCX and R11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as i64 => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    if (-4095..0).contains(&result) {
        Err(Errno::from_raw_os_error(-result as i32))
    } else {
        Ok(result as u64)
    }
}

/// Compares two things of this process: zero if they are the same.
fn kcmp(kind: u64, a: u64, b: u64) -> Result<u64, Errno> {
    const KCMP: i64 = 312;
    let pid = rustix::process::getpid().as_raw_nonzero().get() as u64;
    let result: i64;
    // SAFETY: the call only compares, and reads a few numbers of the caller's; the kernel clobbers RCX and R11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") KCMP => result,
            in("rdi") pid,
            in("rsi") pid,
            in("rdx") kind,
            in("r10") a,
            in("r8") b,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    u64::try_from(result).map_err(|_| Errno::from_raw_os_error(-result as i32))
}

/// Whether the page at an address, which begins one, is in memory; an error where nothing is mapped.
pub(crate) fn mincore(page: u64) -> Result<bool, Errno> {
    let mut here = 0u8;
    // SAFETY: the kernel writes one byte, for the one page that it is asked about.
    unsafe { syscall4(27, page, 4096, std::ptr::from_mut(&mut here) as u64, 0) }?;
    Ok(here & 1 != 0)
}

/// Whether two descriptors of this process stand for the same open file; `None` where the kernel does not say.
pub(crate) fn same_file(a: i32, b: i32) -> Option<bool> {
    const KCMP_FILE: u64 = 0;
    match kcmp(KCMP_FILE, a as u32 as u64, b as u32 as u64) {
        Ok(order) => Some(order == 0),
        Err(Errno::BADF) => Some(false),
        Err(_) => None,
    }
}

/// Whether the `nth` file that an epoll instance watches under `number` is that of `fd`; ENOENT if there is none.
pub(crate) fn epoll_watches(epoll: i32, number: i32, nth: u32, fd: i32) -> Result<bool, Errno> {
    const KCMP_EPOLL_TFD: u64 = 7;
    let slot = [epoll as u32, number as u32, nth];
    kcmp(KCMP_EPOLL_TFD, fd as u32 as u64, slot.as_ptr() as u64).map(|order| order == 0)
}

/// Reads and, with `new`, replaces what `signal` does.
///
/// # Safety
/// A handler must be a function that may run at any moment, with a restorer.
pub(crate) unsafe fn sigaction(signal: i32, new: Option<&KernelAction>) -> Result<KernelAction, Errno> {
    let mut old = KernelAction::default();
    let new = new.map_or(0, |new| std::ptr::from_ref(new) as u64);
    // SAFETY: both pointers are valid or null; the action is sound by contract.
    unsafe {
        syscall4(
            13,
            signal as u32 as u64,
            new,
            std::ptr::from_mut(&mut old) as u64,
            8,
        )
    }?;
    Ok(old)
}

/// Changes which signals the calling thread blocks, and says which it blocked.
pub(crate) fn sigprocmask(how: MaskHow, set: SigSet) -> SigSet {
    let mut old = SigSet::EMPTY;
    let (new, was) = (
        std::ptr::from_ref(&set) as u64,
        std::ptr::from_mut(&mut old) as u64,
    );
    // SAFETY: both pointers are valid. It cannot fail with these arguments.
    let _ = unsafe { syscall4(14, how as u64, new, was, 8) };
    old
}

/// Sends `signal` to the calling thread with `info`, a `siginfo_t`.
///
/// # Safety
/// `info` points to 128 bytes.
pub(crate) unsafe fn queue_to_self(signal: i32, info: *const libc::siginfo_t) -> Result<(), Errno> {
    let pid = rustix::process::getpid().as_raw_nonzero().get() as u32;
    let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    // SAFETY: by contract.
    unsafe { syscall4(297, pid.into(), tid.into(), signal as u32 as u64, info as u64) }.map(drop)
}

/// The state components that the process may give to guests; none where the kernel does not say.
pub(crate) fn permitted_to_guests() -> u64 {
    const ARCH_PRCTL: u64 = 158;
    const GET_XCOMP_GUEST_PERM: u64 = 0x1024;
    let mut mask = 0u64;
    let to = std::ptr::from_mut(&mut mask) as u64;
    // SAFETY: the kernel writes eight bytes, which are here.
    match unsafe { syscall4(ARCH_PRCTL, GET_XCOMP_GUEST_PERM, to, 0, 0) } {
        Ok(_) => mask,
        Err(_) => 0,
    }
}
