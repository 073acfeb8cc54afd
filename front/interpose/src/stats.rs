//! What the process's guests did, in the file that `RING3_STATS` names.

use ring3_kvm::stats::{Totals, forget, process_totals};
use std::ffi::OsString;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether this is a forked child.
static CHILD: AtomicBool = AtomicBool::new(false);

/// In a forked child: what the parent's guests did is the parent's to tell.
pub(crate) fn forked() {
    CHILD.store(true, Relaxed);
    forget();
}

/// Where the account is wanted, if it is.
pub fn wanted() -> Option<OsString> {
    std::env::var_os("RING3_STATS").filter(|path| !path.is_empty())
}

/// Writes the sums over all VMs so far as a JSON object. Does nothing in a process that had none.
pub fn write() -> io::Result<()> {
    let Some(path) = wanted() else { return Ok(()) };
    if super::files().is_none() || ring3_host::process::is_forked_child() {
        return Ok(());
    }
    let totals = process_totals();
    if CHILD.load(Relaxed) && totals == Totals::default() {
        return Ok(());
    }
    let (instructions, ns, exits) = (totals.guest_instructions, totals.guest_ns, totals.exits);
    let account =
        format!("{{\"guest_instructions\": {instructions}, \"guest_ns\": {ns}, \"exits\": {exits}}}\n");
    std::fs::write(path, account)
}
