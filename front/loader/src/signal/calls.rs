//! The client's system calls about signals.

use super::{for_kernel, frame, set_kernel_mask};
use crate::calls::rows::IO_PGETEVENTS;
use crate::calls::{Call, Outcome, done, failed};
use crate::thread::*;
use ring3_host::mem::HostFault;
use ring3_host::signal::{Action, SigSet, UNBLOCKABLE};
use ring3_host::user::UserPtr;
use std::sync::atomic::Ordering::Relaxed;

/// What the kernel makes of an address that is none.
pub fn fault(_: HostFault) -> i32 {
    libc::EFAULT
}

fn size(bytes: u64) -> Result<(), i32> {
    if bytes == 8 { Ok(()) } else { Err(libc::EINVAL) }
}

/// rt_sigaction.
pub fn sigaction(thread: &Thread, call: &Call) -> Outcome {
    let [signal, new, old, len, ..] = call.arguments;
    let change = || {
        size(len)?;
        let signal = signal as i32;
        if !(1..=64).contains(&signal) || new != 0 && UNBLOCKABLE.has(signal) {
            return Err(libc::EINVAL);
        }
        let actions = &thread.process().actions;
        let was = actions.of(signal);
        if new != 0 {
            let [handler, flags, restorer, mask] = UserPtr::new(new).read::<[u64; 4]>().map_err(fault)?;
            let new = Action {
                handler,
                flags,
                restorer,
                mask: SigSet(mask).without(UNBLOCKABLE),
            };
            let mask = super::block_all();
            actions.set(signal, &new);
            set_kernel_mask(mask);
        }
        if old != 0 {
            let words = [was.handler, was.flags, was.restorer, was.mask.0];
            UserPtr::new(old).write(&words).map_err(fault)?;
        }
        Ok(0)
    };
    done(change())
}

/// rt_sigprocmask.
pub fn sigprocmask(thread: &Thread, call: &Call) -> Outcome {
    let [how, new, old, len, ..] = call.arguments;
    let change = || {
        size(len)?;
        let was = thread.mask.load(Relaxed);
        if new != 0 {
            let set: u64 = UserPtr::new(new).read().map_err(fault)?;
            let mask = match how as i32 {
                libc::SIG_BLOCK => was | set,
                libc::SIG_UNBLOCK => was & !set,
                libc::SIG_SETMASK => set,
                _ => return Err(libc::EINVAL),
            };
            set_mask(thread, mask);
        }
        if old != 0 {
            UserPtr::new(old).write(&was).map_err(fault)?;
        }
        Ok(0)
    };
    done(change())
}

/// Changes what the client blocks.
pub fn set_mask(thread: &Thread, mask: u64) {
    let mask = SigSet(mask).without(UNBLOCKABLE).0;
    thread.mask.store(mask, Relaxed);
    set_kernel_mask(for_kernel(mask));
    super::show(thread);
}

/// rt_sigpending.
pub fn sigpending(thread: &Thread, call: &Call) -> Outcome {
    let pass = call.pass(thread);
    if let Outcome::Value(0) = pass {
        let hidden = thread.hidden.load(Relaxed) & thread.mask.load(Relaxed);
        let to = UserPtr::new(call.arguments[0]);
        if hidden != 0 && call.arguments[1] == 8 {
            return done(
                to.read::<u64>()
                    .and_then(|set| to.write(&(set | hidden)))
                    .map(|()| 0)
                    .map_err(fault),
            );
        }
    }
    pass
}

/// sigaltstack.
pub fn sigaltstack(thread: &Thread, call: &Call) -> Outcome {
    let [new, old, ..] = call.arguments;
    let change = || {
        let was = frame::signal_stack(thread, thread.register(REG_RSP));
        if new != 0 {
            let [at, flags, size] = UserPtr::new(new).read::<[u64; 3]>().map_err(fault)?;
            // Four bytes of the word are the flags, the others nothing.
            let flags = flags & 0xffff_ffff;
            if was[1] & libc::SS_ONSTACK as u64 != 0 {
                return Err(libc::EPERM);
            }
            let disarm = flags & (1 << 31);
            let set = match (flags & !(1 << 31)) as i32 {
                libc::SS_DISABLE => [0, libc::SS_DISABLE as u64, 0],
                0 | libc::SS_ONSTACK if size < MINIMUM => return Err(libc::ENOMEM),
                0 | libc::SS_ONSTACK => [at, disarm, size],
                _ => return Err(libc::EINVAL),
            };
            thread.signal_stack.set(set);
        }
        if old != 0 {
            UserPtr::new(old).write(&was).map_err(fault)?;
        }
        Ok(0)
    };
    done(change())
}

/// As Linux has it where the processor needs no more.
const MINIMUM: u64 = 2048;

/// rt_sigreturn.
pub fn sigreturn(thread: &Thread, _: &Call) -> Outcome {
    match frame::returned_from(thread) {
        Ok(()) => {
            super::show(thread);
            Outcome::Frame
        }
        Err(_) => {
            super::raise_fatal(libc::SIGSEGV);
            Outcome::Frame
        }
    }
}

/// A call that blocks what `mask` points to while it waits. The kernel may block what ring3 lives by, too: nothing faults there.
fn waiting(thread: &Thread, call: &Call, mask: u64) -> Outcome {
    let Ok(mask) = UserPtr::new(mask).read::<u64>() else {
        return failed(libc::EFAULT);
    };
    thread
        .wait_mask
        .store(SigSet(mask).without(UNBLOCKABLE).0, Relaxed);
    thread.waits.store(1, Relaxed);
    let outcome = call.pass(thread);
    thread.waits.store(0, Relaxed);
    outcome
}

/// rt_sigsuspend.
pub fn sigsuspend(thread: &Thread, call: &Call) -> Outcome {
    waiting(thread, call, call.arguments[0])
}

/// ppoll, whose mask may be missing.
pub fn ppoll(thread: &Thread, call: &Call) -> Outcome {
    wait_unless_null(thread, call, call.arguments[3])
}

/// epoll_pwait and epoll_pwait2.
pub fn epoll_pwait(thread: &Thread, call: &Call) -> Outcome {
    wait_unless_null(thread, call, call.arguments[4])
}

/// pselect6 and io_pgetevents, whose mask is behind another pointer.
pub fn pselect(thread: &Thread, call: &Call) -> Outcome {
    match call.arguments[5] {
        0 => call.pass(thread),
        pair => match UserPtr::new(pair).read::<u64>() {
            Ok(mask) => wait_unless_null(thread, call, mask),
            Err(_) => failed(libc::EFAULT),
        },
    }
}

fn wait_unless_null(thread: &Thread, call: &Call, mask: u64) -> Outcome {
    match mask {
        0 => call.pass(thread),
        _ => waiting(thread, call, mask),
    }
}

/// Whether a call that a handler interrupts is never made again, whatever the client asked for that handler.
pub fn never_restarts(number: u64) -> bool {
    matches!(
        number as i64,
        libc::SYS_pause
            | libc::SYS_rt_sigsuspend
            | libc::SYS_rt_sigtimedwait
            | libc::SYS_poll
            | libc::SYS_ppoll
            | libc::SYS_select
            | libc::SYS_pselect6
            | libc::SYS_epoll_wait
            | libc::SYS_epoll_pwait
            | libc::SYS_epoll_pwait2
            | libc::SYS_nanosleep
            | libc::SYS_clock_nanosleep
            | libc::SYS_semop
            | libc::SYS_semtimedop
            | libc::SYS_msgsnd
            | libc::SYS_msgrcv
            | libc::SYS_io_getevents
            | IO_PGETEVENTS
    )
}
