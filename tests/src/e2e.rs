//! What the end-to-end tests share: the accelerator under test, the guest's assets, and a turn on the machine.
//!
//! The accelerator is `RING3_E2E_ACCEL` (`ring3` unless set; `tcg` shows that a test itself is right).

mod echo;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
pub use echo::Echo;
use ring3_guest::machine::Network;
use ring3_guest::{Accel, Assets, Guest, Machine, places};

/// Everything one test needs; dropping it passes the turn on.
pub struct Bench {
    pub accel: Accel,
    pub assets: Assets,
    /// For disks and sockets; removed with the bench.
    pub dir: tempfile::TempDir,
    _turn: File,
}

impl Bench {
    pub fn new() -> Result<Self> {
        let assets = Assets::get().context("fetching the guest's kernel and busybox")?;
        Ok(Self {
            accel: Accel::from_environment()?,
            assets,
            dir: tempfile::tempdir()?,
            _turn: take_turn()?,
        })
    }

    /// The plain machine for the accelerator under test.
    pub fn machine(&self) -> Machine {
        Machine::new(self.accel)
    }

    /// A machine of two processors that tests them, its disk and its network.
    pub fn machine_with_devices(&self, disk: &Path, echo: &Echo) -> Machine {
        let mut machine = self
            .machine()
            .word("test", "smp,blk,net")
            .word("port", &echo.port.to_string());
        machine.cpus = 2;
        machine.disk = Some(disk.to_path_buf());
        machine.network = Network::User;
        machine
    }

    pub fn start(&self, machine: &Machine) -> Result<Guest> {
        Guest::start(machine, &self.assets)
    }

    /// Whether the accelerator is ring3; if not, says that the calling test is skipped.
    pub fn needs_ring3(&self, what: &str) -> bool {
        if self.accel == Accel::Ring3 {
            return true;
        }
        eprintln!(
            "skipped: {what} is about ring3 itself, and RING3_E2E_ACCEL is {}",
            self.accel.name()
        );
        false
    }
}

/// Guests with two processors on two cores leave nothing for a second test: at most one guest for two cores
/// runs at a time, whatever the test runner's own parallelism is.
fn take_turn() -> Result<File> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let dir = places::target().join("assets");
    let turns: Vec<File> = (0..(cores / 2).max(1))
        .map(|index| File::create(dir.join(format!("turn{index}"))))
        .collect::<std::io::Result<_>>()?;
    loop {
        for turn in &turns {
            if turn.try_lock().is_ok() {
                return Ok(turn.try_clone()?);
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
