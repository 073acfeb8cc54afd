//! What each signal does, as the client sees it.
//!
//! The kernel knows whether a signal is handled at all; for those that are, it knows only our own handler, and the
//! client's action stands in a table here. The table is read by handlers, which wait for nobody.

use super::cell::ActionCell;
use super::handler::trampoline;
use super::{ALL, FAULTS, UNTOUCHED, front};
use crate::sys::{
    self, KernelAction, MaskHow, SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTORER, SA_SIGINFO, SIG_DFL,
    SIG_IGN, SigSet,
};
use rustix::io::Errno;
use std::sync::Once;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32};

static ACTIVE: AtomicBool = AtomicBool::new(false);
static FAULTS_OWNED: AtomicBool = AtomicBool::new(false);
static TABLE: [ActionCell; 65] = [const { ActionCell::new() }; 65];

/// Held while the table changes, with all signals blocked, so that no handler waits for the thread it interrupts.
struct TableLock {
    mask: SigSet,
}

/// The process that holds the lock, zero for none.
static OWNER: AtomicU32 = AtomicU32::new(0);

impl TableLock {
    fn take() -> TableLock {
        let mask = sys::sigprocmask(MaskHow::Set, SigSet(u64::MAX));
        let me = rustix::process::getpid().as_raw_nonzero().get() as u32;
        loop {
            match OWNER.compare_exchange(0, me, Acquire, Relaxed) {
                Ok(_) => return TableLock { mask },
                // Held across a fork by a thread of the parent's, which will never let go here.
                Err(other) if other != me => {
                    if OWNER.compare_exchange(other, me, Acquire, Relaxed).is_ok() {
                        return TableLock { mask };
                    }
                }
                Err(_) => std::hint::spin_loop(),
            }
        }
    }
}

impl Drop for TableLock {
    fn drop(&mut self) {
        OWNER.store(0, Release);
        sys::sigprocmask(MaskHow::Set, self.mask);
    }
}

/// The client's action for a signal that our handler got.
pub(super) fn of_client(signal: i32) -> KernelAction {
    usize::try_from(signal)
        .ok()
        .and_then(|n| TABLE.get(n))
        .map_or(KernelAction::default(), ActionCell::read)
}

/// Takes back a handler that was to run once. Says whether this call did; another thread may have been faster.
pub(super) fn reset_once(signal: i32) -> bool {
    let Some(slot) = usize::try_from(signal).ok().and_then(|n| TABLE.get(n)) else {
        return false;
    };
    let _lock = TableLock::take();
    let mut action = slot.words();
    if action.handler == SIG_DFL {
        return false;
    }
    action.handler = SIG_DFL;
    slot.write(&action);
    if !owned_fault(signal) {
        default_in_kernel(signal);
    }
    true
}

/// Gives the signal its default action in the kernel.
pub(super) fn default_in_kernel(signal: i32) {
    // SAFETY: no handler is involved.
    let _ = unsafe { sys::sigaction(signal, Some(&KernelAction::default())) };
}

fn owned_fault(signal: i32) -> bool {
    FAULTS.has(signal) && FAULTS_OWNED.load(Relaxed)
}

fn ours(action: &KernelAction) -> bool {
    action.handler == trampoline as *const () as u64
}

/// What the kernel is told for an action of the client's that is a handler.
fn front(signal: i32, client: &KernelAction) -> KernelAction {
    let flags = if FAULTS.has(signal) {
        // Faults nest (the client's handler may touch what we catch); its mask is applied where it is called.
        SA_ONSTACK | SA_NODEFER
    } else {
        client.flags & !SA_RESETHAND
    };
    let mask = if FAULTS.has(signal) {
        SigSet::EMPTY
    } else {
        client.mask.without(FAULTS)
    };
    KernelAction {
        handler: trampoline as *const () as u64,
        flags: flags | SA_SIGINFO | SA_RESTORER,
        restorer: sys::restorer(),
        mask,
    }
}

/// Puts our handler in front of whatever `signal` does now.
fn put_in_front(signal: i32, now: &KernelAction, _lock: &TableLock) {
    TABLE[signal as usize].write(now);
    // SAFETY: our handler may run at any moment, and `now` is what ran before.
    let _ = unsafe { sys::sigaction(signal, Some(&front(signal, now))) };
}

/// Makes faults at the instructions of the exception table continue at their fixups. May be called any number of
/// times; all but the first cost nothing.
#[inline]
pub fn install_fault_handlers() {
    if !FAULTS_OWNED.load(Relaxed) {
        own_faults();
    }
}

#[cold]
fn own_faults() {
    if front::is_there() {
        return FAULTS_OWNED.store(true, Release);
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let lock = TableLock::take();
        for signal in ALL.filter(|signal| FAULTS.has(*signal)) {
            // SAFETY: it only asks.
            match unsafe { sys::sigaction(signal, None) } {
                Ok(now) if !ours(&now) => put_in_front(signal, &now, &lock),
                _ => {}
            }
        }
        FAULTS_OWNED.store(true, Release);
    });
}

/// Puts our handler in front of every handler of the client's, now and from now on (see [`client_sigaction`]). May be
/// called again, to catch handlers installed behind our back.
pub fn activate() {
    install_fault_handlers();
    ACTIVE.store(true, Release);
    if front::is_there() {
        return;
    }
    let lock = TableLock::take();
    for signal in ALL.filter(|signal| !UNTOUCHED.has(*signal)) {
        // SAFETY: it only asks.
        let Ok(now) = (unsafe { sys::sigaction(signal, None) }) else {
            continue;
        };
        if !ours(&now) && (now.handler > SIG_IGN || FAULTS.has(signal)) {
            put_in_front(signal, &now, &lock);
        }
    }
}

/// Whether [`activate`] was called. Until then, the client's calls about signals go straight to the kernel.
#[inline]
pub fn is_active() -> bool {
    ACTIVE.load(Relaxed)
}

/// Puts our handler in front of the default action of `signal`, if that would end the process: while a run mask lets
/// the signal in that the thread blocks, it must interrupt, not kill.
pub(super) fn hold_default(signal: i32) {
    if front::hold(signal) {
        return;
    }
    let lock = TableLock::take();
    // SAFETY: it only asks.
    if let Ok(now) = unsafe { sys::sigaction(signal, None) }
        && now.handler == SIG_DFL
    {
        put_in_front(signal, &now, &lock);
    }
}

/// The client's `sigaction`: reads and, with `new`, replaces what `signal` does. Errors are the kernel's.
pub fn client_sigaction(signal: i32, new: Option<&KernelAction>) -> Result<KernelAction, Errno> {
    if !ALL.contains(&signal) || (new.is_some() && UNTOUCHED.has(signal)) {
        return Err(Errno::INVAL);
    }
    let _lock = TableLock::take();
    // SAFETY: it only asks.
    let now = unsafe { sys::sigaction(signal, None) }?;
    let slot = &TABLE[signal as usize];
    let old = if ours(&now) { slot.words() } else { now };
    let Some(new) = new else { return Ok(old) };
    let new = KernelAction {
        flags: new.flags | SA_RESTORER,
        restorer: sys::restorer(),
        ..*new
    };
    if new.handler > SIG_IGN || owned_fault(signal) {
        slot.write(&new);
        // SAFETY: our handler may run at any moment.
        unsafe { sys::sigaction(signal, Some(&front(signal, &new))) }?;
    } else {
        // SAFETY: no handler is involved.
        unsafe { sys::sigaction(signal, Some(&new)) }?;
    }
    Ok(old)
}
