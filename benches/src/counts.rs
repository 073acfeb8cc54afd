//! How many guest instructions ring3 executes: pairs of runs that differ only in the sh-loop.

use std::path::Path;

use anyhow::{Context, Result};
use ring3_guest::guest::patience;
use ring3_guest::{Accel, Guest, Process, places};
use serde::{Deserialize, Serialize};

use crate::guest::machine;
use crate::programs::Programs;

/// Two runs of ring3 that differ only in the sh-loop.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Count {
    pub boot: Stats,
    pub boot_and_sh_loop: Stats,
}

/// What ring3 writes to the file that `RING3_STATS` names: what was executed, and the time spent in guest mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub guest_instructions: u64,
    pub guest_ns: u64,
}

impl Count {
    /// What sh-loop took: what the second run took more than the first.
    pub fn sh_loop(&self) -> Option<Stats> {
        let more = |of: fn(&Stats) -> u64| {
            of(&self.boot_and_sh_loop)
                .checked_sub(of(&self.boot))
                .filter(|more| *more > 0)
        };
        Some(Stats {
            guest_instructions: more(|stats| stats.guest_instructions)?,
            guest_ns: more(|stats| stats.guest_ns)?,
        })
    }
}

/// One pair.
pub fn pair(programs: &Programs) -> Result<Count> {
    Ok(Count {
        boot: counted(programs, "")?,
        boot_and_sh_loop: counted(programs, "work:sh-loop")?,
    })
}

/// One run of ring3, which writes its account.
fn counted(programs: &Programs, tests: &str) -> Result<Stats> {
    let file = places::target().join("bench/stats.json");
    let _ = std::fs::remove_file(&file);
    let mut command = machine(programs, Accel::Ring3, tests).command(&programs.assets)?;
    command.env("RING3_STATS", &file);
    let mut guest = Guest {
        process: Process::start(command)?,
    };
    guest.process.expect("guest: poweroff", patience(600))?;
    guest.process.wait_success(patience(60))?;
    read_stats(&file)
}

fn read_stats(file: &Path) -> Result<Stats> {
    let text = std::fs::read_to_string(file).context("ring3 wrote no account")?;
    serde_json::from_str(&text).context("reading what RING3_STATS wrote")
}

#[cfg(test)]
mod tests {
    use super::{Count, Stats};

    #[test]
    fn the_loop_is_the_difference() {
        let stats = |guest_instructions, guest_ns| Stats {
            guest_instructions,
            guest_ns,
        };
        let count = |boot_and_sh_loop| Count {
            boot: stats(10, 5),
            boot_and_sh_loop,
        };
        assert_eq!(count(stats(35, 9)).sh_loop(), Some(stats(25, 4)));
        assert_eq!(count(stats(9, 9)).sh_loop(), None);
        assert_eq!(count(stats(35, 5)).sh_loop(), None);
    }
}
