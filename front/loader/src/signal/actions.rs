//! What the client asked to be done with each signal. The kernel knows only which are handled at all, and by [`crate::entry`].

use crate::entry;
use ring3_host::signal::{Action, ActionCell, FAULTS, SigSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SIG_DFL: u64 = 0;
const SIG_IGN: u64 = 1;
const SA_RESTORER: u64 = 0x0400_0000;
/// What only the kernel can do for the client: whether children that stop or end are told of.
const OF_CHILDREN: u64 = (libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT) as u64;

/// A process's actions.
#[derive(Debug)]
pub struct Actions {
    cells: [ActionCell; 65],
    /// Held by who writes, with all signals blocked.
    writing: Mutex<()>,
}

impl Actions {
    /// What the process was started with.
    pub fn of_kernel() -> Actions {
        let actions = Actions {
            cells: [const { ActionCell::new() }; 65],
            writing: Mutex::new(()),
        };
        for signal in 1..=64 {
            let now = kernel(signal, None).unwrap_or_default();
            if now.handler <= SIG_IGN {
                actions.cells[signal as usize].write(&now);
            }
        }
        actions
    }

    /// A copy, for a child that shares memory but not these.
    pub fn copy(&self) -> Actions {
        let copy = Actions {
            cells: [const { ActionCell::new() }; 65],
            writing: Mutex::new(()),
        };
        copy.cells
            .iter()
            .zip(&self.cells)
            .for_each(|(to, from)| to.write(&from.read()));
        copy
    }

    /// Keeps others from changing them.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done with `signal`.
    pub fn of(&self, signal: i32) -> Action {
        usize::try_from(signal)
            .ok()
            .and_then(|signal| self.cells.get(signal))
            .map_or(Action::default(), ActionCell::read)
    }

    /// Replaces what is to be done with a signal that may be handled. The caller has signals blocked.
    pub fn set(&self, signal: i32, new: &Action) {
        let _writing = self.hold();
        if new.handler > SIG_IGN || owned(signal) {
            self.cells[signal as usize].write(new);
            handle_as(signal, new.flags & OF_CHILDREN);
        } else {
            set_in_kernel_as(signal, new.handler, new.flags & OF_CHILDREN);
            self.cells[signal as usize].write(new);
        }
    }

    /// Takes back a handler that was to run once.
    pub fn reset(&self, signal: i32) {
        let mut action = self.of(signal);
        action.handler = SIG_DFL;
        // Other writers are on other threads, and what they write is as good.
        self.cells[signal as usize].write(&action);
        if !owned(signal) {
            set_in_kernel(signal, SIG_DFL);
        }
    }

    /// Makes the kernel do itself what it would do for the client, before another program takes the process's place.
    pub fn leave_to_kernel(&self) {
        for signal in 1..=64 {
            if owned(signal) && self.of(signal).handler == SIG_IGN {
                set_in_kernel(signal, SIG_IGN);
            }
        }
    }

    /// Undoes that.
    pub fn take_from_kernel(&self) {
        own();
    }
}

/// Whether ring3 handles the signal, whatever the client wants.
fn owned(signal: i32) -> bool {
    FAULTS.has(signal) || signal == libc::SIGSYS
}

/// Has the kernel call ring3 for the signals that it lives by.
pub fn own() {
    (1..=64).filter(|signal| owned(*signal)).for_each(handle);
}

/// Has the kernel call ring3 for a signal.
pub fn handle(signal: i32) {
    handle_as(signal, 0);
}

fn handle_as(signal: i32, more: u64) {
    let (handler, restorer) = entry::handler();
    let flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART | libc::SA_NODEFER;
    let action = Action {
        handler,
        flags: flags as u32 as u64 | SA_RESTORER | more,
        restorer,
        mask: SigSet(super::for_kernel(u64::MAX)),
    };
    let _ = kernel(signal, Some(&action));
}

/// The default action, or none.
pub fn set_in_kernel(signal: i32, handler: u64) {
    set_in_kernel_as(signal, handler, 0);
}

fn set_in_kernel_as(signal: i32, handler: u64, flags: u64) {
    let action = Action {
        handler,
        flags,
        ..Action::default()
    };
    let _ = kernel(signal, Some(&action));
}

fn kernel(signal: i32, new: Option<&Action>) -> Option<Action> {
    let mut old = Action::default();
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both are valid or null; the only handler that is ever set is ours.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, &mut old, 8usize) };
    (result == 0).then_some(old)
}
