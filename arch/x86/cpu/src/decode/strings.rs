//! Picks handlers for the string instructions.

use crate::by_size;
use crate::core::Mode;
use crate::decode::segment_slot;
use crate::exec::strings::{cmps, lods, movs, scas, stos};
use crate::op::{Handler, Op, OpFlags};
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

pub fn select(instr: &Instruction, _mode: &Mode, op: &mut Op) -> Option<Handler> {
    if !instr.is_string_instruction() {
        return None;
    }
    let size = instr.memory_size().size() as u8;
    let handler = match instr.mnemonic() {
        M::Movsb | M::Movsw | M::Movsd | M::Movsq => by_size!(size, movs),
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => by_size!(size, stos),
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => by_size!(size, lods),
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => by_size!(size, cmps),
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => by_size!(size, scas),
        _ => return None,
    }?;
    op.size = size;
    for n in 0..instr.op_count() {
        let (address, source) = match instr.op_kind(n) {
            OpKind::MemorySegSI => (2, true),
            OpKind::MemorySegESI => (4, true),
            OpKind::MemorySegRSI => (8, true),
            OpKind::MemoryESDI => (2, false),
            OpKind::MemoryESEDI => (4, false),
            OpKind::MemoryESRDI => (8, false),
            _ => continue,
        };
        op.address_size = address;
        if source {
            op.seg = segment_slot(instr.memory_segment());
        }
    }
    if instr.memory_segment() == Register::None {
        op.seg = 3;
    }
    // MOVS, STOS and LODS repeat alike under either prefix.
    if op.flags.has(OpFlags::REPNE)
        && !matches!(
            instr.mnemonic(),
            M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq | M::Scasb | M::Scasw | M::Scasd | M::Scasq
        )
    {
        op.flags.0 = op.flags.0 & !OpFlags::REPNE | OpFlags::REP;
    }
    Some(handler)
}
