//! Picks handlers for system instructions: privilege, segments, descriptor tables, control registers, MSRs, ports,
//! interrupts and far control flow.

use crate::core::Mode;
use crate::op::{Handler, Op};
use iced_x86::Instruction;

pub fn select(_instr: &Instruction, _mode: &Mode, _op: &mut Op) -> Option<Handler> {
    None
}
