//! The client's signals.
//!
//! Every signal that the client handles reaches [`on_signal`], on a stack of ours, as do the signals by which system calls and faults are
//! caught. If it interrupted the client, the client goes on in its handler, on a frame as the kernel would have made it
//! ([`frame`]). If it interrupted ring3, it waits until the client is to go on ([`deliver`]); a system call that may take long is left
//! for it, as the kernel does.
//!
//! * [`actions`]: what the client asked to be done.
//! * [`calls`]: its system calls about signals.

pub mod actions;
pub mod calls;
mod frame;

pub use frame::{format, reset};

use crate::catch;
use crate::cpuid::{self, Whose};
use crate::entry::{self, INTERRUPTED, Resume};
use crate::sites;
use crate::thread::*;
use frame::{Interrupted, State};
use ring3_host::signal::{Action, FAULTS, Handled, SigSet, front};
use std::sync::atomic::Ordering::Relaxed;

pub const SIGSYS: SigSet = SigSet::of(libc::SIGSYS);

/// What the kernel is told to block for a client that wants to block `mask`: never what ring3 lives by.
pub fn for_kernel(mask: u64) -> u64 {
    SigSet(mask).without(FAULTS).without(SIGSYS).0
}

const SIG_DFL: u64 = 0;
const SIG_IGN: u64 = 1;

/// A signal of the client's, or one that ring3 lives by. Runs on the thread's stack for signals, with ring3's thread-local storage, all
/// signals blocked but faults.
///
/// # Safety
/// [`entry`]'s handler calls it, with what the kernel passed, and the value that FS had.
pub unsafe extern "C" fn on_signal(
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
    thread: &'static Thread,
    fs: u64,
) -> Resume {
    // SAFETY: the kernel passes both, valid until we return, and to us alone.
    let (code, uc) = unsafe { ((*info).si_code, &mut *context) };
    let rip = uc.uc_mcontext.gregs[libc::REG_RIP as usize] as u64;
    let by_instruction = FAULTS.has(signal) && code > 0;
    let in_client = thread.state.load(Relaxed) == AT_CLIENT
        && !entry::entering().contains(&rip)
        && !entry::leaving().contains(&rip);
    if in_client {
        thread.client_fs.set(fs);
        if signal == libc::SIGSYS && catch::is_call(code) {
            return catch::enter(uc, thread);
        }
        if by_instruction && (sites::met(signal, uc) || cpuid::answer(signal, code, uc, Whose::Client)) {
            return Resume::AsWas;
        }
        // SAFETY: the kernel's siginfo, whole.
        let info = unsafe { &*info.cast::<Info>() };
        return on_client(signal, info, uc, thread, by_instruction);
    }
    if by_instruction {
        // SAFETY: as given.
        if unsafe { own_fault(signal, info, context) } == Handled::No {
            default_action(signal, None);
        }
        return Resume::AsWas;
    }
    // SAFETY: the kernel's siginfo, whole.
    keep(signal, unsafe { &*info.cast::<Info>() }, uc, thread);
    if entry::calling().contains(&rip) && thread.pending.load(Relaxed) != 0 {
        uc.uc_mcontext.gregs[libc::REG_RIP as usize] = entry::not_called() as i64;
    }
    if !entry::leaving().contains(&rip) {
        return Resume::AsWas;
    }
    thread.state.store(AT_HOST, Relaxed);
    let registers = &mut uc.uc_mcontext.gregs;
    registers[libc::REG_RIP as usize] = entry::leave() as i64;
    registers[libc::REG_RDI as usize] = std::ptr::from_ref(thread) as i64;
    registers[libc::REG_RSP as usize] = thread.host_stack.get() as i64;
    registers[libc::REG_EFL as usize] = 2;
    Resume::Host
}

/// An instruction of ring3's raised a signal.
///
/// # Safety
/// Both are what the kernel passed to its handler.
unsafe fn own_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) -> Handled {
    // SAFETY: valid until the handler returns, and the handler's alone.
    let (code, uc) = unsafe { ((*info).si_code, &mut *context) };
    if cpuid::answer(signal, code, uc, Whose::Ring3) {
        return Handled::Yes;
    }
    // SAFETY: as given.
    unsafe { front::fault(signal, info, context) }
}

/// A signal on one of ring3's own threads: they block all but faults.
///
/// # Safety
/// As for [`on_signal`].
pub unsafe extern "C" fn on_foreign_signal(
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
) {
    // SAFETY: as given.
    let by_instruction = FAULTS.has(signal) && unsafe { (*info).si_code } > 0;
    // SAFETY: as given.
    if by_instruction && unsafe { own_fault(signal, info, context) } == Handled::Yes {
        return;
    }
    default_action(signal, None);
}

/// Has the kernel do what it does by default. An instruction that raised the signal does it again; one that was sent is sent again.
pub fn default_action(signal: i32, sent: Option<&Info>) {
    actions::set_in_kernel(signal, SIG_DFL);
    if let Some(info) = sent {
        queue_to_self(signal, info);
    }
}

/// Sends the thread a signal, with all that came with it. It must be blocked.
fn queue_to_self(signal: i32, info: &Info) -> bool {
    // SAFETY: the kernel only reads the 128 bytes.
    unsafe {
        let (pid, tid) = (libc::getpid(), libc::gettid());
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, signal, info.as_ptr()) == 0
    }
}

fn mask_in(context: &mut libc::ucontext_t) -> &mut u64 {
    // SAFETY: the kernel's mask is the first eight bytes of the C library's larger one.
    unsafe { &mut *std::ptr::from_mut(&mut context.uc_sigmask).cast::<u64>() }
}

/// The client was interrupted, and goes on in its handler.
fn on_client(
    signal: i32,
    info: &Info,
    uc: &mut libc::ucontext_t,
    thread: &Thread,
    by_instruction: bool,
) -> Resume {
    let action = thread.process().actions.of(signal);
    let blocked = SigSet(thread.mask.load(Relaxed)).has(signal);
    match action.handler {
        // Sent, and blocked or ignored as far as the client knows: a signal that ring3 does not let the kernel block or ignore.
        SIG_IGN if !by_instruction => return Resume::AsWas,
        _ if blocked && !by_instruction => {
            hide(thread, signal, info);
            return Resume::AsWas;
        }
        SIG_DFL | SIG_IGN => {
            default_action(
                signal,
                (!by_instruction || signal == libc::SIGTRAP).then_some(info),
            );
            return Resume::AsWas;
        }
        _ if blocked => {
            default_action(signal, None);
            return Resume::AsWas;
        }
        _ => {}
    }
    let mut registers: Registers = uc.uc_mcontext.gregs.map(|word| word as u64);
    let extended = State::of_kernel(uc.uc_mcontext.fpregs.cast());
    let was = Interrupted {
        registers: &registers,
        // SAFETY: the kernel wrote it there.
        extended: unsafe { extended.bytes() },
        mask: thread.mask.load(Relaxed),
    };
    match frame::push(thread, signal, info, &action, &was) {
        Ok(entered) => registers = entered,
        Err(_) => {
            default_action(libc::SIGSEGV, None);
            // The client goes on where it was, and faults if it was a fault; a frame that does not fit ends it in any case.
            raise_fatal(libc::SIGSEGV);
            return Resume::AsWas;
        }
    }
    // SAFETY: the kernel wrote it there, and reads it when we return.
    unsafe { extended.reset() };
    uc.uc_mcontext.gregs = registers.map(|word| word as i64);
    *mask_in(uc) = for_kernel(thread.mask.load(Relaxed));
    after_handler_chosen(signal, &action, thread);
    Resume::Client
}

fn after_handler_chosen(signal: i32, action: &Action, thread: &Thread) {
    if action.flags & libc::SA_RESETHAND as u32 as u64 != 0 {
        thread.process().actions.reset(signal);
    }
}

/// Ends the process by a signal, as the kernel does where a handler cannot be called.
pub fn raise_fatal(signal: i32) {
    actions::set_in_kernel(signal, SIG_DFL);
    // SAFETY: plain calls on sets of our own.
    unsafe {
        let mask = !SigSet::of(signal).0;
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &mask, 0usize, 8usize);
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal);
    }
}

/// Ring3 was interrupted: the signal waits, blocked.
fn keep(signal: i32, info: &Info, uc: &mut libc::ucontext_t, thread: &Thread) {
    let bit = SigSet::of(signal).0;
    let blocked = match thread.waits.load(Relaxed) {
        0 => thread.mask.load(Relaxed),
        _ => thread.wait_mask.load(Relaxed),
    };
    let twice = thread.pending.load(Relaxed) & bit != 0;
    if for_kernel(bit) == 0 {
        match (blocked & bit != 0, twice) {
            (true, _) => return hide(thread, signal, info),
            (false, true) => {}
            (false, false) => post(thread, signal, info),
        }
    } else {
        *mask_in(uc) |= bit;
        if blocked & bit != 0 {
            // Let in by the mask of a vCPU's run, it ends that, and is pending after it.
            queue_to_self(signal, info);
            return front::kick();
        }
        if twice {
            queue_to_self(signal, info);
        } else {
            post(thread, signal, info);
        }
    }
    front::due();
}

/// A signal waits that the client blocks, and ring3 does not. They do not queue.
fn hide(thread: &Thread, signal: i32, info: &Info) {
    thread.infos[signal as usize].set(*info);
    thread.hidden.fetch_or(SigSet::of(signal).0, Relaxed);
}

/// Lets in what is hidden, and the client blocks no longer.
pub fn show(thread: &Thread) {
    let due = thread.hidden.load(Relaxed) & !thread.mask.load(Relaxed);
    if due != 0 {
        thread.hidden.fetch_and(!due, Relaxed);
        thread.pending.fetch_or(due, Relaxed);
    }
}

/// Has a signal wait for the client to go on, as if it had come.
pub fn post(thread: &Thread, signal: i32, info: &Info) {
    thread.infos[signal as usize].set(*info);
    thread.pending.fetch_or(SigSet::of(signal).0, Relaxed);
}

/// Before the client goes on: the handlers of what waits are put in its way.
pub extern "C" fn deliver(thread: &'static Thread) {
    block_all();
    let mut interrupted = match thread.restart.replace(NO_CALL) {
        NO_CALL => None,
        number => Some(number),
    };
    loop {
        let pending = thread.pending.load(Relaxed);
        if pending == 0 {
            break;
        }
        let signal = pending.trailing_zeros() as i32 + 1;
        thread.pending.fetch_and(!SigSet::of(signal).0, Relaxed);
        let info = thread.infos[signal as usize].get();
        let action = thread.process().actions.of(signal);
        if action.handler <= SIG_IGN {
            // It was taken back meanwhile.
            if action.handler == SIG_DFL {
                default_action(signal, Some(&info));
            }
            continue;
        }
        if let Some(number) = interrupted.take() {
            if action.flags & libc::SA_RESTART as u64 != 0 && !calls::never_restarts(number) {
                again(thread, number);
            } else {
                thread.set_register(REG_RAX, -i64::from(libc::EINTR) as u64);
            }
        }
        if push(thread, signal, &info, &action).is_err() {
            raise_fatal(libc::SIGSEGV);
        }
        after_handler_chosen(signal, &action, thread);
    }
    if let Some(number) = interrupted {
        again(thread, number);
    }
    front::done();
    set_kernel_mask(for_kernel(thread.mask.load(Relaxed)));
}

/// Bytes of a SYSCALL instruction, which is there behind each way into ring3.
const SYSCALL: u64 = 2;

/// The client makes its call again.
fn again(thread: &Thread, number: u64) {
    thread.set_register(REG_RAX, number);
    thread.set_register(REG_RIP, thread.register(REG_RIP) - SYSCALL);
}

/// The dispatcher made a call that ended as by [`INTERRUPTED`]: whether it is made again is known when the signal is delivered.
pub fn interrupted(thread: &Thread, number: u64) {
    const { assert!(INTERRUPTED == -512) };
    thread.restart.set(number);
}

fn push(
    thread: &Thread,
    signal: i32,
    info: &Info,
    action: &Action,
) -> Result<(), ring3_host::mem::HostFault> {
    let (registers, extended, mask) = match thread.exit.get() {
        Exit::Frame => frame::in_frame(thread),
        _ => {
            format(&thread.extended);
            let state = State::of_thread(&thread.extended);
            (thread.registers(), state, thread.mask.load(Relaxed))
        }
    };
    let was = Interrupted {
        registers: &registers,
        // SAFETY: it is the thread's own, in one of its buffers.
        extended: unsafe { extended.bytes() },
        mask,
    };
    let entered = frame::push(thread, signal, info, action, &was)?;
    thread.set_registers(&entered);
    frame::reset(&thread.extended);
    thread.exit.set(Exit::Return);
    Ok(())
}

/// Blocks all that may be blocked, and says what the kernel blocked before.
pub fn block_all() -> u64 {
    set_kernel_mask(for_kernel(u64::MAX))
}

/// Sets what the kernel blocks on this thread, and says what it did before.
pub fn set_kernel_mask(mask: u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: both are words of ours.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &mask,
            &mut old,
            8usize,
        )
    };
    old
}
