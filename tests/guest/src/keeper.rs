//! A guest that is busy keeping things (`programs/keeper.c`), and what may be done to it meanwhile: snapshots of its state,
//! and moves to another QEMU.
//!
//! It says in numbered lines that nothing is lost; over a move the lines of both consoles together have to be complete.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::cpio::Archive;
use crate::guest::patience;
use crate::qmp::Qmp;
use crate::{Assets, Guest, Machine, places, programs};

/// The word with which it tells of a loss.
const LOST: &str = "LOST";
/// Between two of its lines.
const LINE: Duration = Duration::from_millis(200);

/// Assets whose initramfs has the keeper, in `dir`.
pub fn assets(assets: &Assets, dir: &Path) -> Result<Assets> {
    let program = dir.join("keeper");
    let source = places::workspace().join("tests/guest/programs/keeper.c");
    programs::compile(&[source], &program)?;
    let mut archive = Archive::new();
    archive.file("work/keeper", 0o755, &std::fs::read(&program)?);
    programs::pack(assets, archive, &dir.join("keeper.cpio"))
}

/// A QEMU with a keeper in it.
pub struct Keeper {
    machine: Machine,
    assets: Assets,
    dir: PathBuf,
    guest: Guest,
    qmp: Qmp,
    /// How many QEMUs there were.
    moves: u32,
    /// What the consoles of those before this one said.
    past: String,
}

/// How long one move took, and how long nobody ran meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    pub total: Duration,
    pub down: Duration,
}

impl Keeper {
    /// Boots `machine` and has it keep things; sockets and snapshots are in `dir`.
    pub fn start(mut machine: Machine, plain: &Assets, dir: &Path) -> Result<Keeper> {
        let assets = assets(plain, dir)?;
        let snapshots = dir.join("snapshots.qcow2");
        make_image(&snapshots)?;
        machine.snapshots = Some(snapshots);
        let (guest, qmp) = begin(&mut machine, &assets, dir, 0)?;
        let mut keeper = Keeper {
            machine,
            assets,
            dir: dir.to_path_buf(),
            guest,
            qmp,
            moves: 0,
            past: String::new(),
        };
        keeper.begin_keeping()?;
        Ok(keeper)
    }

    /// QEMU's monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    pub fn guest(&mut self) -> &mut Guest {
        &mut self.guest
    }

    /// Waits for so many new lines of the keeper's.
    pub fn goes_on(&mut self, lines: u32) -> Result<()> {
        for _ in 0..lines {
            let console = &self.guest.process.console;
            let seen = console.expect_any(&["keeper: ", LOST], patience(60))?;
            let rest = console.rest_of_line(patience(60))?;
            ensure!(
                seen.index == 0 && !rest.contains(LOST),
                "the guest lost something:\n{}",
                console.tail()
            );
        }
        Ok(())
    }

    /// Saves the state, lets the guest go on for a while, and has it be as it was.
    pub fn save_and_load(&mut self) -> Result<()> {
        for (command, lines) in [("savevm state", 2), ("loadvm state", 2)] {
            let said = self.qmp.human(command)?;
            ensure!(said.trim().is_empty(), "{command}: {said}");
            self.guest.process.console.skip();
            self.goes_on(lines)?;
        }
        // The numbers of its lines went back.
        self.past.clear();
        self.guest.process.console.clear();
        self.goes_on(1)
    }

    /// Resets the machine, and has the guest keep things again.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp.execute("system_reset")?;
        self.qmp.event("RESET")?;
        // The lines begin anew.
        self.past.clear();
        self.guest.process.console.clear();
        self.begin_keeping()
    }

    /// Waits for the shell, and starts the program.
    fn begin_keeping(&mut self) -> Result<()> {
        self.guest.booted()?;
        self.guest.shell()?;
        let threads = 2 * self.machine.cpus;
        self.guest.process.send(&format!("/work/keeper {threads}\n"))?;
        self.goes_on(3)
    }

    /// Moves the guest to another QEMU while it runs.
    pub fn migrate(&mut self) -> Result<Moved> {
        let socket = self.dir.join(format!("move{}", self.moves + 1));
        let mut machine = self.machine.clone();
        machine.incoming = Some(socket.clone());
        let (guest, qmp) = begin(&mut machine, &self.assets, &self.dir, self.moves + 1)?;
        let started = Instant::now();
        let uri = format!("unix:{}", socket.display());
        self.qmp.command("migrate", json!({ "uri": uri }))?;
        let down = self.moved()?;
        let total = started.elapsed();
        // What the old one still had to print is printed; it runs no more.
        self.qmp.execute("quit")?;
        self.guest.process.wait_success(patience(30))?;
        self.past.push_str(&self.guest.process.console.text());
        self.guest = guest;
        self.qmp = qmp;
        self.moves += 1;
        self.goes_on(2)?;
        complete(&format!("{}{}", self.past, self.guest.process.console.text()))?;
        Ok(Moved { total, down })
    }

    /// Waits for a migration to end, and says how long the guest stood still.
    fn moved(&mut self) -> Result<Duration> {
        let deadline = Instant::now() + patience(120);
        loop {
            let state = self.qmp.execute("query-migrate")?;
            match state["status"].as_str() {
                Some("completed") => {
                    return Ok(Duration::from_millis(state["downtime"].as_u64().unwrap_or(0)));
                }
                Some("failed" | "cancelled") => bail!("the migration failed: {state}"),
                _ if Instant::now() >= deadline => bail!("the migration does not end: {state}"),
                _ => std::thread::sleep(LINE / 4),
            }
        }
    }
}

/// Starts the nth QEMU.
fn begin(machine: &mut Machine, assets: &Assets, dir: &Path, nth: u32) -> Result<(Guest, Qmp)> {
    let socket = dir.join(format!("qmp{nth}"));
    machine.qmp = Some(socket.clone());
    let guest = Guest::start(machine, assets)?;
    let qmp = Qmp::connect(&socket, patience(60)).with_context(|| guest.process.console.tail())?;
    Ok((guest, qmp))
}

/// A place for savevm's snapshots.
fn make_image(path: &Path) -> Result<()> {
    let program = places::need("qemu-img", "qemu-utils")?;
    let status = Command::new(program)
        .args(["create", "-q", "-f", "qcow2"])
        .arg(path)
        .arg("64M")
        .status()
        .context("starting qemu-img")?;
    ensure!(status.success(), "qemu-img could not make {}", path.display());
    Ok(())
}

/// Whether the lines of a keeper's are all there, in order, from whichever is the first; what the last says is not known yet.
fn complete(text: &str) -> Result<()> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut next = None;
    for line in whole.lines() {
        let Some(rest) = line.trim().strip_prefix("keeper: ") else {
            continue;
        };
        let found: Option<u32> = rest.split(' ').next().and_then(|number| number.parse().ok());
        let wanted = next.or(found);
        ensure!(
            found.is_some() && found == wanted,
            "line {wanted:?} is missing or broken: {line:?}"
        );
        next = found.map(|number| number + 1);
    }
    ensure!(next.is_some(), "it said nothing");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::complete;

    #[test]
    fn a_missing_or_broken_line_is_noticed() {
        let lines = "boot\r\nkeeper: 0 at 1 ms\r\nkeeper: 1 at 2 ms\r\nkeeper: 2 ";
        assert!(complete(lines).is_ok());
        assert!(complete(&format!("{lines}at 3 ms\nkeeper: 3 at 4 ms\n")).is_ok());
        assert!(complete(&format!("{lines}at 3 ms\nkeeper: 4 at 4 ms\n")).is_err());
        assert!(complete("ms\nkeeper: 7 at\nkeeper: 8 at\nkeeper: 9").is_ok());
        assert!(complete("keeper: 0\nkeeper: 1a\n").is_err());
        assert!(complete("").is_err());
    }
}
