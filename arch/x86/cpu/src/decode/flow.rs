//! Picks handlers for near control flow.

use super::integer::{condition_number, one_operand};
use crate::core::Mode;
use crate::exec::branch;
use crate::op::{Handler, Op, OpFlags};
use iced_x86::{Instruction, Mnemonic as M, OpKind};

fn jcc_handler(condition: u64) -> Handler {
    use branch::jcc;
    match condition {
        0 => jcc::<0>,
        1 => jcc::<1>,
        2 => jcc::<2>,
        3 => jcc::<3>,
        4 => jcc::<4>,
        5 => jcc::<5>,
        6 => jcc::<6>,
        7 => jcc::<7>,
        8 => jcc::<8>,
        9 => jcc::<9>,
        10 => jcc::<10>,
        11 => jcc::<11>,
        12 => jcc::<12>,
        13 => jcc::<13>,
        14 => jcc::<14>,
        _ => jcc::<15>,
    }
}

/// Near control flow. A direct target becomes relative to the block: to RIP at the block's start.
pub fn select(instr: &Instruction, mode: &Mode, op: &mut Op) -> Option<Handler> {
    let direct = match instr.op0_kind() {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        OpKind::NearBranch64 => 8,
        _ => 0,
    };
    if direct != 0 {
        let base = instr.ip().wrapping_sub(u64::from(op.start));
        op.imm = instr.near_branch_target().wrapping_sub(base);
        op.size = direct;
    }
    if let Some(address) = counter_size(instr) {
        op.address_size = address;
        op.src = match instr.mnemonic() {
            M::Loopne => 0,
            M::Loope => 1,
            M::Loop => 2,
            _ => 3,
        };
        return Some(branch::counted);
    }
    if instr.is_jcc_short_or_near() {
        return condition_number(instr).map(jcc_handler);
    }
    let indirect_size = |op: &mut Op| -> Option<()> {
        one_operand(instr, op)?;
        if op.flags.has(OpFlags::MEMORY) && mode.code_bits == 64 && op.size != 2 {
            op.size = 8;
        }
        Some(())
    };
    match instr.mnemonic() {
        M::Jmp if direct != 0 => Some(branch::jmp),
        M::Call if direct != 0 => Some(branch::call),
        M::Jmp if instr.is_jmp_near_indirect() => indirect_size(op).map(|()| branch::jmp_indirect as Handler),
        M::Call if instr.is_call_near_indirect() => {
            indirect_size(op).map(|()| branch::call_indirect as Handler)
        }
        M::Ret => {
            op.size = return_width(instr, mode);
            if instr.op_count() == 1 {
                op.imm = instr.immediate(0) & 0xffff;
            }
            Some(branch::ret)
        }
        _ => None,
    }
}

/// Width of the instruction pointer that a near return pops.
fn return_width(instr: &Instruction, mode: &Mode) -> u8 {
    use iced_x86::Code as C;
    match instr.code() {
        C::Retnw | C::Retnw_imm16 => 2,
        C::Retnd | C::Retnd_imm16 => 4,
        C::Retnq | C::Retnq_imm16 => 8,
        _ => mode.code_bits / 8,
    }
}

/// The counter's width of LOOPcc and JrCXZ.
fn counter_size(instr: &Instruction) -> Option<u8> {
    if !(instr.is_jcx_short() || instr.is_loop() || instr.is_loopcc()) {
        return None;
    }
    Some((instr.op_code().address_size() / 8) as u8)
}

#[cfg(test)]
mod tests {
    use super::counter_size;
    use crate::decode::instruction;

    #[test]
    fn counters_are_as_wide_as_addresses() {
        // With and without an address-size prefix; JrCXZ, LOOP, LOOPE, LOOPNE.
        for opcode in [0xe3, 0xe2, 0xe1, 0xe0] {
            for (bits, plain, prefixed) in [(16, 2, 4), (32, 4, 2), (64, 8, 4)] {
                let size = |bytes: &[u8]| counter_size(&instruction(bytes, 0, bits).0);
                assert_eq!(size(&[opcode, 0]), Some(plain), "{opcode:#x} in {bits} bits");
                assert_eq!(
                    size(&[0x67, opcode, 0]),
                    Some(prefixed),
                    "67 {opcode:#x} in {bits} bits"
                );
            }
        }
        assert_eq!(counter_size(&instruction(&[0xeb, 0], 0, 64).0), None);
    }
}
