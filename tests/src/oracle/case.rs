//! One case: an instruction, and a state for it to work on.

use super::forms::Form;
use super::layout::{self, CODE_PAGES, PAGE};
use super::operands::{self, Encoded};
use super::{Machine, place, prepare, save, values};
use fastrand::Rng;

/// A random instruction of the form.
pub fn instruction(rng: &mut Rng, form: &Form) -> Option<Encoded> {
    operands::instruction(rng, form)
}

/// A state for the instruction, made upon `memory`.
pub fn machine(rng: &mut Rng, encoded: &Encoded, mut memory: Vec<u8>) -> Machine {
    memory[..CODE_PAGES * PAGE as usize].fill(0xcc);
    let start = encoded.rip - encoded.prelude.len() as u64;
    if let Some(at) = layout::offset(start) {
        let code = encoded.prelude.iter().chain(&encoded.bytes);
        memory[at..]
            .iter_mut()
            .zip(code)
            .for_each(|(to, byte)| *to = *byte);
    }
    let mut machine = values::machine(rng, memory, encoded.mode);
    machine.registers.rip = start - encoded.mode.base();
    prepare::before(rng, encoded, &mut machine);
    let size = encoded.instr.memory_size().size() as u64;
    let mut lies = None;
    if let Some(operand) = encoded.memory {
        let wanted = if save::is_extended(&encoded.instr) {
            save::area(rng)
        } else {
            place::target(rng, size.max(1))
        };
        let at = operand.aim(rng, &mut machine, encoded.instr.memory_segment(), wanted);
        values::refill(rng, &mut machine.memory, at);
        lies = Some(at);
    }
    prepare::after(rng, encoded, &mut machine, lies);
    for register in &mut machine.registers.gpr {
        *register &= encoded.mode.mask();
    }
    machine
}
