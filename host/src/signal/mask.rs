//! The client's signal masks.
//!
//! A fault whose signal is blocked ends the process, and faults are how accesses to missing client memory are found.
//! So a client that blocks everything blocks everything else, and is told what it wants to hear.

use super::{FAULTS, scope};
use crate::sys::{self, MaskHow, SigSet};

/// How a mask changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskChange {
    /// `SIG_BLOCK`: these too.
    Block(SigSet),
    /// `SIG_UNBLOCK`: these no longer.
    Unblock(SigSet),
    /// `SIG_SETMASK`: exactly these.
    Set(SigSet),
    /// None: only ask.
    Keep,
}

/// The client's `pthread_sigmask`: what the calling thread blocked, as the client sees it, before the change.
pub fn client_sigmask(change: MaskChange) -> SigSet {
    let hidden = scope::hidden();
    let (how, set) = match change {
        MaskChange::Block(set) => (MaskHow::Block, set),
        MaskChange::Unblock(set) => (MaskHow::Unblock, set),
        MaskChange::Set(set) => (MaskHow::Set, set),
        MaskChange::Keep => (MaskHow::Block, SigSet::EMPTY),
    };
    scope::set_hidden(match change {
        MaskChange::Block(set) => hidden.with(set),
        MaskChange::Unblock(set) => hidden.without(set),
        MaskChange::Set(set) => set,
        MaskChange::Keep => hidden,
    });
    let kernel = if how == MaskHow::Unblock {
        set
    } else {
        set.without(FAULTS)
    };
    sys::sigprocmask(how, kernel).with(hidden)
}
