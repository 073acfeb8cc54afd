//! Picks the handler for forms that the host CPU executes itself: vector, x87 and the rarer integer instructions.

use super::segment_slot;
use crate::Core;
use crate::exec::native;
use crate::op::{Handler, Op, OpFlags};
use crate::state::{FS, RDI, ZERO_SLOT};
use iced_x86::{Instruction, Mnemonic as M, OpKind};
use ring3_host::native::StateClass;
use ring3_host::native::gather::Indexed;

/// Fills `op.imm` with the number of the step in `core.native`, which grows by one, and `op.dst` and `op.src` with the
/// two bytes of an x87 opcode.
pub fn select(core: &mut Core, instr: &Instruction, bytes: &[u8], op: &mut Op) -> Option<Handler> {
    if let Some(indexed) = Indexed::of(instr) {
        if indexed.registers_collide() {
            return None;
        }
        op.imm = core.indexed.len() as u64;
        op.size = indexed.element;
        core.indexed.push(indexed);
        return Some(native::indexed);
    }
    match instr.mnemonic() {
        M::Emms | M::Femms => {}
        _ => implicit_operand(core, instr, op),
    }
    let step = ring3_host::native::compile(instr).ok()?;
    op.imm = core.native.len() as u64;
    if step.info().class == StateClass::X87 {
        [op.dst, op.src] = x87_opcode(bytes)?;
    }
    let memory = step.info().memory.is_some();
    core.native.push(step);
    Some(if memory {
        native::with_memory
    } else {
        native::registers_only
    })
}

/// The opcode as FOP shows it: the low three bits of the first byte, then ModRM.
fn x87_opcode(bytes: &[u8]) -> Option<[u8; 2]> {
    // No prefix looks like an escape opcode.
    let at = bytes.iter().position(|byte| byte & 0xf8 == 0xd8)?;
    Some([bytes[at] & 7, *bytes.get(at + 1)?])
}

/// MASKMOVQ and its kin name their memory operand by rDI alone.
fn implicit_operand(core: &Core, instr: &Instruction, op: &mut Op) {
    for n in 0..instr.op_count() {
        op.address_size = match instr.op_kind(n) {
            OpKind::MemorySegDI => 2,
            OpKind::MemorySegEDI => 4,
            OpKind::MemorySegRDI => 8,
            _ => continue,
        };
        op.base = RDI as u8;
        op.index = ZERO_SLOT;
        op.disp = 0;
        op.seg = segment_slot(instr.memory_segment());
        op.flags.0 |= OpFlags::MEMORY;
        if core.mode.code_bits == 64 && op.address_size == 8 && usize::from(op.seg) < FS {
            op.flags.0 |= OpFlags::FLAT;
        }
    }
}
