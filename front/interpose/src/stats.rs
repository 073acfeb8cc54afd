//! What the process's guests did, in the file that `RING3_STATS` names.

use ring3_kvm::vcpu::stats::process_totals;
use std::ffi::OsString;
use std::io;

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
    let (instructions, ns, exits) = (totals.guest_instructions, totals.guest_ns, totals.exits);
    let account =
        format!("{{\"guest_instructions\": {instructions}, \"guest_ns\": {ns}, \"exits\": {exits}}}\n");
    std::fs::write(path, account)
}
