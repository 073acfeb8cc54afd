//! Which large state components the process may give to guests: programs ask Linux for them, and Linux remembers.

use crate::sys;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// The components in `wanted` that may be given. A kernel that does not know the question permits none: it has refused the
/// program, too.
pub fn permitted(wanted: u64) -> u64 {
    // What was permitted once remains so, and a program's system calls may be filtered later.
    static KNOWN: AtomicU64 = AtomicU64::new(0);
    if KNOWN.load(Relaxed) & wanted != wanted {
        KNOWN.fetch_or(sys::permitted_to_guests(), Relaxed);
    }
    KNOWN.load(Relaxed) & wanted
}
