//! Signals: turning faults of our own accesses into values.

use crate::extable;
use crate::sys::{self, KernelAction, SA_NODEFER, SA_ONSTACK, SA_RESTORER, SA_SIGINFO, SigSet};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const FAULTS: [i32; 2] = [libc::SIGSEGV, libc::SIGBUS];

static CHAINED: [[AtomicU64; 4]; 2] = [const { [const { AtomicU64::new(0) }; 4] }; 2];

/// Makes faults at the instructions of the exception table continue at their fixups. May be called any number of times.
pub fn install_fault_handlers() {
    static ONCE: Once = Once::new();
    if ONCE.is_completed() {
        return;
    }
    ONCE.call_once(|| {
        for (signal, chained) in FAULTS.into_iter().zip(&CHAINED) {
            let new = KernelAction {
                handler: on_fault as *const () as u64,
                flags: SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTORER,
                restorer: sys::restorer(),
                mask: SigSet::EMPTY,
            };
            // SAFETY: `on_fault` is async-signal-safe.
            if let Ok(old) = unsafe { sys::sigaction(signal, Some(&new)) } {
                let words = [old.handler, old.flags, old.restorer, old.mask.0];
                chained
                    .iter()
                    .zip(words)
                    .for_each(|(to, word)| to.store(word, Relaxed));
            }
        }
    });
}

extern "C" fn on_fault(signal: i32, _info: *const libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel passes a valid context.
    let rip = unsafe { &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize] };
    if let Some(fixup) = extable::fixup(*rip as u64) {
        *rip = fixup as i64;
        return;
    }
    for (which, chained) in FAULTS.into_iter().zip(&CHAINED) {
        if which == signal {
            let word = |i: usize| chained[i].load(Relaxed);
            let old = KernelAction {
                handler: word(0),
                flags: word(1),
                restorer: word(2),
                mask: SigSet(word(3)),
            };
            // SAFETY: it was in force before.
            let _ = unsafe { sys::sigaction(signal, Some(&old)) };
        }
    }
}
