//! Counts of what retires, kept only while someone wants to know: the ground of performance counters.
//!
//! While the meter is on, blocks are interpreted one instruction at a time, and each instruction is counted before it is executed:
//! one that reads the meter finds itself counted, one that faults is taken back. When the count of instructions reaches the
//! alarm, the run loop leaves at the end of the block.

/// What retired at some privilege.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    pub instructions: u64,
    /// Instructions that set RIP, whether they did or not.
    pub branches: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    pub on: bool,
    /// The number of instructions at which the run loop leaves.
    pub alarm: u64,
    /// At level 0.
    pub kernel: Retired,
    /// At the other levels.
    pub user: Retired,
}

impl Meter {
    /// Instructions of any privilege.
    pub fn instructions(&self) -> u64 {
        self.kernel.instructions.wrapping_add(self.user.instructions)
    }

    /// Whether the alarm is due.
    pub fn is_due(&self) -> bool {
        self.on && self.instructions() >= self.alarm
    }

    /// The counts of a privilege level.
    pub fn at(&mut self, cpl: u8) -> &mut Retired {
        if cpl == 0 {
            &mut self.kernel
        } else {
            &mut self.user
        }
    }
}
