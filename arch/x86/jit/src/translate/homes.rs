//! Instructions that work on a displaced register where its home is, in memory.

use crate::context::home;
use crate::emit::Reg;
use iced_x86::{Code, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register};

/// The instruction with its register operand `k` replaced by the home of the guest register `guest`, if there is such a
/// form and it does the same. `written` says whether it writes the operand.
pub(super) fn at_home(instr: &Instruction, k: u32, guest: usize, written: bool) -> Option<Instruction> {
    let size = instr.op_register(k).size();
    // A 32-bit result clears the upper half, and a narrower one would be read wider soon, which is slow.
    if written && size != 8 || !is_suitable(instr) {
        return None;
    }
    let (mut instr, k) = if may_be_memory(instr.code(), k) {
        (*instr, k)
    } else {
        turned(instr, k)?
    };
    instr.set_op_kind(k, OpKind::Memory);
    instr.set_memory_base(Register::None);
    instr.set_memory_index(Register::None);
    instr.set_memory_index_scale(1);
    instr.set_memory_displacement64(home(Reg(guest as u8)) as u64);
    instr.set_memory_displ_size(8);
    instr.set_segment_prefix(Register::GS);
    Some(instr)
}

/// Only general registers, and nothing that is different with memory.
fn is_suitable(instr: &Instruction) -> bool {
    let registers = (0..instr.op_count()).all(|k| match instr.op_kind(k) {
        OpKind::Register => instr.op_register(k).is_gpr(),
        kind => kind != OpKind::Memory,
    });
    let by_register = instr.op1_kind() == OpKind::Register;
    registers
        && match instr.mnemonic() {
            // Locked, or they reach beyond the operand.
            Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Cmpxchg => false,
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => !by_register,
            _ => true,
        }
}

fn may_be_memory(code: Code, k: u32) -> bool {
    use OpCodeOperandKind as K;
    matches!(
        code.op_code().op_kind(k),
        K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem
    )
}

/// The same instruction with the operand where memory may be, and its number there.
fn turned(instr: &Instruction, k: u32) -> Option<(Instruction, u32)> {
    use Code as C;
    let mut turned = *instr;
    if instr.mnemonic() == Mnemonic::Test && k == 1 {
        turned.set_op0_register(instr.op1_register());
        turned.set_op1_register(instr.op0_register());
        return Some((turned, 0));
    }
    let pairs = [
        (C::Mov_r64_rm64, C::Mov_rm64_r64),
        (C::Mov_r32_rm32, C::Mov_rm32_r32),
        (C::Add_r64_rm64, C::Add_rm64_r64),
        (C::Add_r32_rm32, C::Add_rm32_r32),
        (C::Or_r64_rm64, C::Or_rm64_r64),
        (C::Or_r32_rm32, C::Or_rm32_r32),
        (C::Adc_r64_rm64, C::Adc_rm64_r64),
        (C::Adc_r32_rm32, C::Adc_rm32_r32),
        (C::Sbb_r64_rm64, C::Sbb_rm64_r64),
        (C::Sbb_r32_rm32, C::Sbb_rm32_r32),
        (C::And_r64_rm64, C::And_rm64_r64),
        (C::And_r32_rm32, C::And_rm32_r32),
        (C::Sub_r64_rm64, C::Sub_rm64_r64),
        (C::Sub_r32_rm32, C::Sub_rm32_r32),
        (C::Xor_r64_rm64, C::Xor_rm64_r64),
        (C::Xor_r32_rm32, C::Xor_rm32_r32),
        (C::Cmp_r64_rm64, C::Cmp_rm64_r64),
        (C::Cmp_r32_rm32, C::Cmp_rm32_r32),
        (C::Cmp_r8_rm8, C::Cmp_rm8_r8),
    ];
    let code = instr.code();
    let other = pairs.iter().find_map(|(a, b)| match code {
        code if code == *a => Some(*b),
        code if code == *b => Some(*a),
        _ => None,
    })?;
    turned.set_code(other);
    may_be_memory(other, k).then_some((turned, k))
}
