//! Picks handlers for AMX.

use crate::exec::amx;
use crate::op::{Handler, Op};
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

pub fn select(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    match instr.mnemonic() {
        M::Ldtilecfg => Some(amx::ldtilecfg),
        M::Sttilecfg => Some(amx::sttilecfg),
        M::Tilerelease => Some(amx::tilerelease),
        M::Tilezero => with_tile(instr, 0, op, amx::tilezero),
        M::Tileloadd | M::Tileloaddt1 => with_tile(instr, 0, op, amx::tileload),
        M::Tilestored => with_tile(instr, 1, op, amx::tilestored),
        _ => dot_product(instr, op),
    }
}

/// The number of a tile operand.
fn tile(instr: &Instruction, n: u32) -> Option<u8> {
    let register = instr.op_register(n);
    let is_tile = instr.op_kind(n) == OpKind::Register && register.is_tmm();
    is_tile.then_some((register as u8).wrapping_sub(Register::TMM0 as u8))
}

fn with_tile(instr: &Instruction, n: u32, op: &mut Op, handler: Handler) -> Option<Handler> {
    op.dst = tile(instr, n)?;
    Some(handler)
}

fn dot_product(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    op.imm = match instr.mnemonic() {
        M::Tdpbssd => 0,
        M::Tdpbsud => 1,
        M::Tdpbusd => 2,
        M::Tdpbuud => 3,
        M::Tdpbf16ps => 4,
        _ => return None,
    };
    op.dst = tile(instr, 0)?;
    op.src = tile(instr, 1)?;
    op.size = tile(instr, 2)?;
    Some(amx::dot_product)
}
