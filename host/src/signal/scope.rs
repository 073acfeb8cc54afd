//! What a thread is at, so that a signal knows what to do with it.

use super::handler::add;
use super::{FAULTS, UNTOUCHED, actions};
use crate::sys::{self, MaskHow, SigSet};
use std::marker::PhantomData;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, compiler_fence};

/// Shared by a thread and the handlers that interrupt it; by no other thread.
struct Thread {
    /// Nested pieces of work of ring3's.
    depth: AtomicU32,
    /// Pending signals to let in once the work is done.
    deferred: AtomicU64,
    /// Whether a handler of the client's waits, by another's account (see [`super::front`]).
    due: AtomicBool,
    /// The word that makes the vCPU on this thread leave, or null.
    kick: AtomicPtr<AtomicU32>,
    kick_bits: AtomicU32,
    /// Under a run mask: the signals that the thread blocked before.
    held: AtomicU64,
    /// Fault signals that the client believes it blocks here.
    hidden: AtomicU64,
    /// Whether fault signals are known to be deliverable here.
    open: AtomicBool,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            depth: AtomicU32::new(0),
            deferred: AtomicU64::new(0),
            due: AtomicBool::new(false),
            kick: AtomicPtr::new(std::ptr::null_mut()),
            kick_bits: AtomicU32::new(0),
            held: AtomicU64::new(0),
            hidden: AtomicU64::new(0),
            open: AtomicBool::new(false),
        }
    };
}

/// While one is alive, ring3 is at work on the thread, perhaps with locks held: the client's handlers wait.
///
/// Whoever takes calls from a client makes one before anything else and drops it after everything else.
#[derive(Debug)]
pub struct Shield {
    /// Belongs to the thread.
    _thread: PhantomData<*const ()>,
}

impl Shield {
    /// Begins a piece of work. They nest.
    #[inline]
    pub fn enter() -> Shield {
        THREAD.with(|t| {
            t.depth.store(t.depth.load(Relaxed) + 1, Relaxed);
            compiler_fence(SeqCst);
            if !t.open.load(Relaxed) {
                open_faults(t);
            }
        });
        Shield { _thread: PhantomData }
    }
}

impl Drop for Shield {
    #[inline]
    fn drop(&mut self) {
        THREAD.with(|t| {
            compiler_fence(SeqCst);
            let depth = t.depth.load(Relaxed) - 1;
            t.depth.store(depth, Relaxed);
            compiler_fence(SeqCst);
            if depth == 0 && t.deferred.load(Relaxed) != 0 {
                let_in(t);
            }
        });
    }
}

/// Lets the signals in that waited. Their handlers run before this returns, if it returns.
#[cold]
fn let_in(t: &Thread) {
    let set = SigSet(t.deferred.swap(0, Relaxed));
    sys::sigprocmask(MaskHow::Unblock, set);
}

/// A thread that blocks a fault's signal is killed by the fault; so it does not.
#[cold]
fn open_faults(t: &Thread) {
    let was = sys::sigprocmask(MaskHow::Unblock, FAULTS);
    add(&t.hidden, was.common(FAULTS).0);
    t.open.store(true, Relaxed);
}

/// While one is alive, a vCPU runs on the thread: any handler of the client's that is due sets bits in its kick word.
///
/// The handler itself runs when the scope, and the outermost [`Shield`], end.
#[derive(Debug)]
pub struct RunScope<'a> {
    /// The thread's mask to return to, and what was held before, under a run mask.
    restore: Option<SigSet>,
    _kick: PhantomData<&'a AtomicU32>,
    _shield: Shield,
}

impl<'a> RunScope<'a> {
    /// Begins a run. `mask`, if any, replaces the thread's signal mask while it lasts: a signal that it lets in, and
    /// the thread does not, ends the run but stays pending.
    ///
    /// Runs do not nest on a thread. A signal that already waits for the work around the run to end counts.
    #[inline]
    pub fn enter(kick: &'a AtomicU32, bits: u32, mask: Option<SigSet>) -> RunScope<'a> {
        let shield = Shield::enter();
        THREAD.with(|t| {
            t.kick_bits.store(bits, Relaxed);
            compiler_fence(SeqCst);
            t.kick.store(std::ptr::from_ref(kick).cast_mut(), Relaxed);
            compiler_fence(SeqCst);
            // What came since the call began is waiting for this run to end, so it ends.
            if t.deferred.load(Relaxed) != 0 || t.due.load(Relaxed) {
                kick.fetch_or(bits, SeqCst);
            }
        });
        let restore = mask.map(apply_run_mask);
        RunScope {
            restore,
            _kick: PhantomData,
            _shield: shield,
        }
    }
}

impl Drop for RunScope<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(mask) = self.restore {
            lift_run_mask(mask);
        }
        THREAD.with(|t| {
            compiler_fence(SeqCst);
            t.kick.store(std::ptr::null_mut(), Relaxed);
            compiler_fence(SeqCst);
        });
    }
}

fn apply_run_mask(mask: SigSet) -> SigSet {
    let all = SigSet(u64::MAX);
    // Nothing may come in between reading the mask and knowing which signals it held.
    let before = sys::sigprocmask(MaskHow::Set, all.without(FAULTS));
    let mask = mask.without(FAULTS);
    let let_in = before.without(mask).without(UNTOUCHED).without(FAULTS);
    if !let_in.is_empty() {
        super::ALL
            .filter(|signal| let_in.has(*signal))
            .for_each(actions::hold_default);
    }
    THREAD.with(|t| t.held.store(before.without(FAULTS).0, Relaxed));
    compiler_fence(SeqCst);
    // What is deferred already, by work around this run, stays so.
    let waiting = THREAD.with(|t| SigSet(t.deferred.load(Relaxed)));
    sys::sigprocmask(MaskHow::Set, mask.with(waiting));
    before
}

fn lift_run_mask(before: SigSet) {
    let waiting = THREAD.with(|t| SigSet(t.deferred.load(Relaxed)));
    sys::sigprocmask(MaskHow::Set, before.with(waiting));
    THREAD.with(|t| t.held.store(0, Relaxed));
}

/// Sets whether a handler of the client's waits that is not among the deferred.
pub(super) fn set_due(due: bool) {
    THREAD.with(|t| t.due.store(due, Relaxed));
}

/// A handler of the client's is due: the vCPU on this thread, if any, is to leave.
pub(super) fn note_signal() {
    THREAD.with(|t| {
        let kick = t.kick.load(Relaxed);
        if !kick.is_null() {
            // SAFETY: the RunScope that stored it borrows the word, and clears it before it ends.
            unsafe { &*kick }.fetch_or(t.kick_bits.load(Relaxed), SeqCst);
        }
    });
}

/// When a signal that came during ring3's work is let in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Later {
    /// When the work is done.
    AfterWork,
    /// When the client unblocks it, which it blocks outside the run.
    WhenUnblocked,
}

/// Whether, and until when, `signal` has to wait.
pub(super) fn deferral(signal: i32) -> Option<Later> {
    THREAD.with(|t| {
        if t.depth.load(Relaxed) == 0 {
            None
        } else if SigSet(t.held.load(Relaxed)).has(signal) {
            Some(Later::WhenUnblocked)
        } else {
            Some(Later::AfterWork)
        }
    })
}

/// `signal` was made to wait.
pub(super) fn note_deferred(signal: i32, until: Later) {
    if until == Later::AfterWork {
        THREAD.with(|t| add(&t.deferred, SigSet::of(signal).0));
    }
}

/// Which fault signals the client believes it blocks here.
pub(super) fn hidden() -> SigSet {
    THREAD.with(|t| SigSet(t.hidden.load(Relaxed)))
}

/// Sets what [`hidden`] says.
pub(super) fn set_hidden(set: SigSet) {
    THREAD.with(|t| t.hidden.store(set.common(FAULTS).0, Relaxed));
}
