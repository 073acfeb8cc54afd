//! Registers as instructions name and use them.

use crate::emit::Width;
use iced_x86::{CodeSize, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};

/// The processor's number of a general register.
pub fn number(register: Register) -> usize {
    register.full_register().number()
}

/// How wide addresses are in the code that an instruction is of.
pub fn width(instr: &Instruction) -> Width {
    match instr.code_size() {
        CodeSize::Code32 => Width::Four,
        _ => Width::Eight,
    }
}

/// The displacement of the memory operand as a distance.
pub fn displacement(instr: &Instruction) -> i64 {
    let displacement = instr.memory_displacement64();
    match width(instr) {
        Width::Four => i64::from(displacement as i32),
        Width::Eight => displacement as i64,
    }
}

/// Whether the memory operand is in a segment that begins at zero and may be written.
pub fn is_in_flat_segment(instr: &Instruction) -> bool {
    match instr.memory_segment() {
        Register::FS | Register::GS => false,
        Register::CS => width(instr) == Width::Eight,
        _ => true,
    }
}

/// The general register of that number and width.
pub fn sized(number: usize, size: usize) -> Register {
    let n = number as u32;
    match size {
        8 => Register::RAX + n,
        4 => Register::EAX + n,
        2 => Register::AX + n,
        _ if n < 4 => Register::AL + n,
        _ => Register::SPL + (n - 4),
    }
}

/// AH or its kin: another register where an instruction has a REX prefix.
pub fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::BH | Register::CH | Register::DH
    )
}

/// The registers that are operands.
pub fn operands(instr: &Instruction) -> impl Iterator<Item = Register> {
    (0..instr.op_count())
        .filter(|k| instr.op_kind(*k) == OpKind::Register)
        .map(|k| instr.op_register(k))
}

pub fn is_written(access: OpAccess) -> bool {
    !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None)
}

/// The general registers that an instruction uses in any way, and those that it writes.
pub fn used_and_written(instr: &Instruction, info: &mut InstructionInfoFactory) -> ([bool; 16], [bool; 16]) {
    let (mut used, mut written) = ([false; 16], [false; 16]);
    for register in info.info(instr).used_registers() {
        if register.register().is_gpr() {
            let number = number(register.register());
            used[number] = true;
            written[number] |= is_written(register.access());
        }
    }
    (used, written)
}
