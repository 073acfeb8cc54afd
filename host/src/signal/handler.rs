//! The handler that the kernel knows.
//!
//! Everything here runs in signal context: it takes no lock that a thread with signals enabled may hold, allocates
//! nothing, and leaves `errno` alone.

use super::{FAULTS, actions, scope};
use crate::extable;
use crate::sys::{self, KernelAction, MaskHow, SA_NODEFER, SA_RESETHAND, SIG_DFL, SIG_IGN, SigSet};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// A fault of this thread's, as a hook sees it.
#[derive(Debug)]
pub struct Fault<'a> {
    signal: i32,
    info: &'a libc::siginfo_t,
    context: &'a mut libc::ucontext_t,
}

impl Fault<'_> {
    /// SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGTRAP.
    pub fn signal(&self) -> i32 {
        self.signal
    }

    /// The kernel's reason, `si_code`.
    pub fn code(&self) -> i32 {
        self.info.si_code
    }

    /// The address that faulted, where the signal has one.
    pub fn address(&self) -> u64 {
        // SAFETY: for a fault, the kernel fills this member.
        unsafe { self.info.si_addr() as u64 }
    }

    /// Number of the processor's exception.
    pub fn vector(&self) -> u64 {
        self.register(libc::REG_TRAPNO)
    }

    /// The processor's error code.
    pub fn error(&self) -> u64 {
        self.register(libc::REG_ERR)
    }

    /// Where it happened.
    pub fn rip(&self) -> u64 {
        self.register(libc::REG_RIP)
    }

    /// Makes the thread continue elsewhere. The hook vouches that it can.
    pub fn set_rip(&mut self, rip: u64) {
        self.context.uc_mcontext.gregs[libc::REG_RIP as usize] = rip as i64;
    }

    /// A general register at the fault, by its `REG_` index of `<ucontext.h>`.
    pub fn register(&self, index: i32) -> u64 {
        self.context.uc_mcontext.gregs[index as usize] as u64
    }

    /// Changes what a general register holds when the thread continues.
    pub fn set_register(&mut self, index: i32, value: u64) {
        self.context.uc_mcontext.gregs[index as usize] = value as i64;
    }
}

/// Whether a hook dealt with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// The thread goes on as the context now says.
    Yes,
    /// The fault is somebody else's.
    No,
}

/// What is asked about faults that the exception table does not know.
type Hook = fn(&mut Fault<'_>) -> Handled;

static HOOKS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Has `hook` asked about each fault of the process that is not in the exception table, before the client. It runs in
/// signal context. Adding one again changes nothing; a fifth is refused.
pub fn add_fault_hook(hook: Hook) -> Result<(), Hook> {
    actions::install_fault_handlers();
    let word = hook as *const () as u64;
    for slot in &HOOKS {
        match slot.compare_exchange(0, word, Release, Acquire) {
            Ok(_) => return Ok(()),
            Err(there) if there == word => return Ok(()),
            Err(_) => {}
        }
    }
    Err(hook)
}

fn ask_hooks(fault: &mut Fault<'_>) -> Handled {
    for slot in &HOOKS {
        let word = slot.load(Acquire);
        if word == 0 {
            break;
        }
        // SAFETY: only `add_fault_hook` writes the slots, and it writes functions of this type.
        let hook = unsafe { std::mem::transmute::<*const (), Hook>(word as *const ()) };
        if hook(fault) == Handled::Yes {
            return Handled::Yes;
        }
    }
    Handled::No
}

/// What the kernel calls for each signal that the client handles, and for faults.
///
/// The client's handler may unwind or jump out of here: nothing needs cleaning up when it is called.
pub(super) extern "C-unwind" fn trampoline(
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
) {
    // SAFETY: the kernel passes both, valid until we return, and to us alone.
    let (code, uc) = unsafe { ((*info).si_code, &mut *context) };
    if FAULTS.has(signal) {
        // A positive code is the kernel's own: the instruction did it. Others are sent, as any signal is.
        if code > 0 {
            // SAFETY: as above; nobody writes it.
            if own_fault(signal, unsafe { &*info }, uc) == Handled::Yes {
                return;
            }
        }
    } else {
        scope::note_signal();
        if defer(signal, info, uc) {
            return;
        }
    }
    call_client(signal, info, context, code);
}

/// An instruction of this thread's raised a signal: if it is one of ours, it continues at its fixup, or as a hook says.
pub(super) fn own_fault(signal: i32, info: &libc::siginfo_t, context: &mut libc::ucontext_t) -> Handled {
    let mut fault = Fault {
        signal,
        info,
        context,
    };
    if let Some(fixup) = extable::fixup(fault.rip()) {
        fault.set_rip(fixup);
        return Handled::Yes;
    }
    ask_hooks(&mut fault)
}

/// While ring3 is at work on the thread, leaves the signal pending and blocked. Says whether it did.
fn defer(signal: i32, info: *const libc::siginfo_t, context: &mut libc::ucontext_t) -> bool {
    let Some(later) = scope::deferral(signal) else {
        return false;
    };
    // SAFETY: the kernel's own siginfo, whole. While this handler runs the signal may or may not be blocked
    // (SA_NODEFER), so block it first: it must not come back here.
    let queued = unsafe {
        sys::sigprocmask(MaskHow::Block, SigSet::of(signal));
        sys::queue_to_self(signal, info)
    };
    if queued.is_err() {
        // No room in the queue. Better now than never.
        sys::sigprocmask(MaskHow::Unblock, SigSet::of(signal));
        return false;
    }
    let mask = mask_in(context);
    mask.0 |= SigSet::of(signal).0;
    scope::note_deferred(signal, later);
    true
}

/// The mask that the thread gets back when the handler returns.
fn mask_in(context: &mut libc::ucontext_t) -> &mut SigSet {
    // SAFETY: the kernel's mask is the first eight bytes of the C library's larger one.
    unsafe { &mut *std::ptr::from_mut(&mut context.uc_sigmask).cast::<SigSet>() }
}

fn call_client(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t, code: i32) {
    let action = actions::of_client(signal);
    let by_instruction = FAULTS.has(signal) && code > 0;
    match action.handler {
        SIG_IGN if !by_instruction => return,
        SIG_DFL | SIG_IGN => return default_action(signal, info, by_instruction),
        _ => {}
    }
    if action.flags & SA_RESETHAND != 0 && !actions::reset_once(signal) {
        return default_action(signal, info, by_instruction);
    }
    if FAULTS.has(signal) {
        block_as_asked(signal, &action);
    }
    type Handler = extern "C-unwind" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t);
    // SAFETY: the client gave the address of a handler. One that takes only the signal ignores the rest.
    let handler = unsafe { std::mem::transmute::<*const (), Handler>(action.handler as *const ()) };
    handler(signal, info, context);
}

/// The kernel did not block anything for a fault's handler; the client may have asked for it.
fn block_as_asked(signal: i32, action: &KernelAction) {
    let itself = if action.flags & SA_NODEFER == 0 {
        SigSet::of(signal)
    } else {
        SigSet::EMPTY
    };
    let set = action.mask.with(itself);
    if !set.is_empty() {
        // Undone by the kernel when the handler returns.
        sys::sigprocmask(MaskHow::Block, set);
    }
}

/// Lets the kernel do what it does by default.
fn default_action(signal: i32, info: *const libc::siginfo_t, by_instruction: bool) {
    const IGNORED: SigSet = SigSet::of(libc::SIGCHLD)
        .with(SigSet::of(libc::SIGURG))
        .with(SigSet::of(libc::SIGWINCH))
        .with(SigSet::of(libc::SIGCONT));
    if IGNORED.has(signal) {
        return;
    }
    actions::default_in_kernel(signal);
    // The instruction faults again once we return, with the registers as they were; but a trap is past its
    // instruction, and what was sent has to be sent again.
    if !by_instruction || signal == libc::SIGTRAP {
        // SAFETY: the kernel's own siginfo, whole.
        let _ = unsafe { sys::queue_to_self(signal, info) };
    }
}

/// One word of the state that handlers and the code they interrupt share on a thread.
pub(super) fn add(word: &AtomicU64, bits: u64) {
    // On one thread only: no lock prefix needed, but a handler may interrupt, so never a torn update by parts.
    word.fetch_or(bits, Relaxed);
}
