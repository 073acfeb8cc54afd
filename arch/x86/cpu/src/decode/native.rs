//! Picks the handler for forms that the host CPU executes itself.

use crate::Core;
use crate::op::{Handler, Op};
use iced_x86::Instruction;

pub fn select(_core: &mut Core, _instr: &Instruction, _op: &mut Op) -> Option<Handler> {
    None
}
