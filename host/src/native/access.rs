//! What a native step does with its memory operand: size, direction, alignment, and for masked forms which bytes.

use iced_x86::{EncodingKind, Instruction, InstructionInfo, Mnemonic, OpAccess, OpKind, Register};

use super::allow::StateClass;
use super::lanes::{Lanes, is_packed, lanes};

/// Direction of the memory operand, as the faults of the access are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Read,
    Write,
    ReadWrite,
}

impl Direction {
    pub fn reads(self) -> bool {
        self != Self::Write
    }

    pub fn writes(self) -> bool {
        self != Self::Read
    }
}

/// The memory operand of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOperand {
    /// Bytes, at most 128.
    pub size: u8,
    /// Bytes that must lie inside the segment: more, for operands of which not all is read.
    pub extent: u8,
    pub direction: Direction,
    /// #GP(0) unless the linear address is a multiple of this (1: no check).
    pub alignment: u8,
    /// ... but not while AMD's MXCSR.MM is set.
    pub relaxed: bool,
    /// #AC(0), where alignment is checked, unless the linear address is a multiple of this.
    pub checked: u8,
    /// Which bytes are accessed at all; faults are suppressed for the others.
    pub(super) lanes: Lanes,
}

impl MemoryOperand {
    /// Must [`NativeStep::touched`](super::NativeStep::touched) be asked which bytes to access?
    #[inline]
    pub fn is_masked(&self) -> bool {
        self.lanes != Lanes::All
    }
}

/// The memory operand of an allowed instruction; `Err` if it has none that a step can stand for.
pub(super) fn memory_operand(
    instr: &Instruction,
    info: &InstructionInfo,
    class: StateClass,
) -> Result<Option<MemoryOperand>, ()> {
    let mut found = None;
    for op in 0..instr.op_count() {
        match instr.op_kind(op) {
            OpKind::Memory | OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI
                if found.is_none() =>
            {
                found = Some(op);
            }
            OpKind::Register
            | OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => {}
            _ => return Err(()),
        }
    }
    let Some(op) = found else { return Ok(None) };
    let size = instr.memory_size().size();
    if size == 0 || size > 128 {
        return Err(());
    }
    let mut direction = match info.op_access(op) {
        OpAccess::Read | OpAccess::CondRead => Direction::Read,
        OpAccess::Write | OpAccess::CondWrite => Direction::Write,
        OpAccess::ReadWrite | OpAccess::ReadCondWrite => {
            // A merging-masked store is a read of nothing: the masked bytes are simply not stored.
            if instr.op_mask() == Register::None {
                Direction::ReadWrite
            } else {
                Direction::Write
            }
        }
        _ => return Err(()),
    };
    let size = if reads_half(instr) { 8 } else { size };
    let lanes = lanes(instr, size);
    if lanes == Lanes::All && instr.op_mask() != Register::None && direction == Direction::Write {
        // Every byte must be writable, and some keep what they hold.
        direction = Direction::ReadWrite;
    }
    if lanes != Lanes::All && size > 64 {
        return Err(());
    }
    Ok(Some(MemoryOperand {
        size: size as u8,
        extent: instr.memory_size().size() as u8,
        direction,
        alignment: alignment(instr, class, size),
        relaxed: matches!(class, StateClass::Sse | StateClass::MmxSse) && !is_aligned_move(instr.mnemonic()),
        checked: checked(instr, lanes),
        lanes,
    }))
}

/// Is only the low half of the memory operand of consequence? AMD's processors read no more in the legacy encoding, as a
/// misaligned operand at a page's end shows.
fn reads_half(instr: &Instruction) -> bool {
    use Mnemonic::*;
    is_amd()
        && instr.memory_size().size() == 16
        && instr.op_kind(instr.op_count() - 1) == OpKind::Memory
        && matches!(
            instr.mnemonic(),
            Psllw
                | Pslld
                | Psllq
                | Psrlw
                | Psrld
                | Psrlq
                | Psraw
                | Psrad
                | Punpcklbw
                | Punpcklwd
                | Punpckldq
                | Punpcklqdq
                | Unpcklps
                | Unpcklpd
        )
}

/// Is the host one of AMD's designs?
fn is_amd() -> bool {
    static AMD: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *AMD.get_or_init(|| {
        let r = core::arch::x86_64::__cpuid(0);
        let name: Vec<u8> = [r.ebx, r.edx, r.ecx]
            .iter()
            .flat_map(|r| r.to_le_bytes())
            .collect();
        matches!(&name[..], b"AuthenticAMD" | b"HygonGenuine")
    })
}

/// What the alignment check wants. AMD's processors look at what is accessed at once, 16 bytes at most, and so at single
/// elements under a mask; Intel's look at whole operands, but at none of 16 bytes or more, nor at packed half-precision
/// numbers.
fn checked(instr: &Instruction, lanes: Lanes) -> u8 {
    let amd = is_amd();
    match lanes {
        Lanes::Signs { .. } | Lanes::MmxSigns { .. } => 1,
        Lanes::Opmask { size, .. } | Lanes::Packed { size, .. } | Lanes::Repeated { size, .. } if amd => size,
        Lanes::All if amd && is_packed(instr) && instr.op0_kind() == OpKind::Memory => {
            instr.memory_size().element_size().max(1) as u8
        }
        _ => match instr.memory_size().size() {
            8 if !amd && matches!(instr.mnemonic(), Mnemonic::Vcvtph2ps | Mnemonic::Vcvtps2ph) => 1,
            size @ (1 | 2 | 4 | 8) => size as u8,
            10 => 8,
            14 | 94 => 2,
            28 | 108 => 4,
            _ if !amd || instr.mnemonic() == Mnemonic::Cmpxchg16b => 1,
            _ => 16,
        },
    }
}

/// Moves that want alignment whatever MXCSR.MM says.
fn is_aligned_move(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Movaps | Movapd | Movdqa | Movntps | Movntpd | Movntdq | Movntdqa
    )
}

fn alignment(instr: &Instruction, class: StateClass, size: usize) -> u8 {
    use Mnemonic::*;
    match instr.encoding() {
        EncodingKind::Legacy => match instr.mnemonic() {
            Movups | Movupd | Movdqu | Lddqu | Maskmovdqu | Pcmpestri | Pcmpestri64 | Pcmpestrm
            | Pcmpestrm64 | Pcmpistri | Pcmpistrm => 1,
            Cmpxchg16b => 16,
            Sha1rnds4 | Sha1nexte | Sha1msg1 | Sha1msg2 | Sha256rnds2 | Sha256msg1 | Sha256msg2
                if is_amd() =>
            {
                1
            }
            // Half an operand has to be aligned like a whole one.
            _ if size >= 8
                && instr.memory_size().size() == 16
                && matches!(class, StateClass::Sse | StateClass::MmxSse) =>
            {
                16
            }
            _ => 1,
        },
        _ => match instr.mnemonic() {
            Vmovaps | Vmovapd | Vmovdqa | Vmovdqa32 | Vmovdqa64 | Vmovntps | Vmovntpd | Vmovntdq
            | Vmovntdqa => size as u8,
            _ => 1,
        },
    }
}
