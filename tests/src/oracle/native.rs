//! The host CPU.

use super::layout::{PAGES, SEGMENTS, WINDOWS};
use super::{Executor, Lost, Machine, Trap};
use ring3_host::testing::Direct;
use std::io;

/// Executes code on the host CPU, in a child process.
pub struct Native(Direct);

impl Native {
    pub fn new() -> io::Result<Native> {
        Direct::spawn(PAGES, &WINDOWS, &SEGMENTS).map(Native)
    }

    /// Whether the kernel lets 16-bit code run.
    pub fn has_short_mode(&self) -> bool {
        self.0.has_segments()
    }
}

impl Executor for Native {
    fn name(&self) -> &'static str {
        "host"
    }

    fn run(&mut self, machine: &mut Machine) -> Result<Trap, Lost> {
        self.0.memory().write(0, &machine.memory);
        let trap = self.0.run(&mut machine.registers, &mut machine.vector)?;
        self.0.memory().read(0, &mut machine.memory);
        Ok(trap)
    }
}
