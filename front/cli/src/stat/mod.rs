//! `ring3 stat`: what VMs on ring3 do, read off the boards of their processes ([`ring3_client::board`]).
//!
//! Looking costs the processes nothing, and they do not notice. Not seen are those of other users, those that do not let
//! themselves be looked at, and clients that have closed the descriptor, which they know nothing of.

mod sample;
mod table;

use anyhow::{Result, bail, ensure};
use clap::Args;
use sample::Sample;
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "\
Example:
  ring3 stat --once $(pidof qemu-system-x86_64)

Rates are over the time since the table before; with --once, numbers are since the VM was made.
CPU% is the process's time on processors, GUEST% the vCPU's in guest code, HALT% its time halted. MIPS is a dash where instructions \
are not counted: translated ones are only if RING3_STATS is set. With --json, each line is an object with all statistics that \
KVM_GET_STATS_FD has of one VM or vCPU, since it was made, and the process's time on processors in nanoseconds.")]
pub struct Options {
    /// Print once and exit: numbers since each VM was made
    #[arg(long)]
    once: bool,
    /// Print an object of JSON for each VM and vCPU on a line of its own
    #[arg(long)]
    json: bool,
    /// Seconds between tables
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0)]
    interval: f64,
    /// Only these processes
    #[arg(value_name = "PID")]
    processes: Vec<u32>,
}

/// Prints until it is interrupted, or nobody reads it, or none of the processes named is left; fails if none has a VM.
pub fn stat(options: &Options) -> Result<()> {
    ensure!(
        (0.01..=86400.0).contains(&options.interval),
        "--interval is {}; it may be from 0.01 s to a day",
        options.interval
    );
    let mut before: Option<Sample> = None;
    loop {
        let now = Sample::take(&options.processes);
        if now.is_empty() && !options.processes.is_empty() {
            match before {
                None => bail!("none of these processes has a VM on ring3 that can be seen"),
                Some(_) => return Ok(()),
            }
        }
        let text = match (&before, options.json, options.once) {
            (_, true, _) => now.json(),
            (_, _, true) => table::totals(&now),
            (None, ..) => String::new(),
            (Some(before), ..) => table::rates(before, &now),
        };
        if show(&text, options).is_err() || options.once {
            return Ok(());
        }
        before = Some(now);
        thread::sleep(Duration::from_secs_f64(options.interval));
    }
}

fn show(text: &str, options: &Options) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if !options.once && !options.json && !text.is_empty() && out.is_terminal() {
        // To the corner, and nothing below.
        out.write_all(b"\x1b[H\x1b[J")?;
    }
    out.write_all(text.as_bytes())?;
    out.flush()
}
