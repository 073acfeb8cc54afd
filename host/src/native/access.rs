//! What a native step does with its memory operand: size, direction, alignment, and for masked forms which bytes.

use iced_x86::{EncodingKind, Instruction, InstructionInfo, Mnemonic, OpAccess, OpKind, Register};

use super::VectorState;
use super::allow::StateClass;

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

/// How the accessed bytes follow from registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lanes {
    All,
    /// Element i if bit i of the opmask register is set.
    Opmask {
        k: u8,
        size: u8,
    },
    /// The whole operand if any of the first `lanes` bits of the opmask register is set (broadcasts).
    AnyOpmask {
        k: u8,
        lanes: u8,
    },
    /// As many leading elements as there are bits set among the first `lanes` (compress and expand).
    Packed {
        k: u8,
        size: u8,
        lanes: u8,
    },
    /// Element i if the top bit of element i of a vector register is set.
    Signs {
        register: u8,
        size: u8,
    },
    /// Byte i if the top bit of byte i of an MMX register is set.
    MmxSigns {
        register: u8,
    },
}

impl Lanes {
    /// A bit for each accessed byte.
    pub(super) fn bytes(self, operand: usize, vector: &VectorState) -> u64 {
        let all = low_bits(operand);
        match self {
            Self::All => all,
            Self::Opmask { k, size } => spread(operand, size, |i| {
                vector.k[usize::from(k & 7)] >> (i & 63) & 1 != 0
            }),
            Self::AnyOpmask { k, lanes } => {
                if vector.k[usize::from(k & 7)] & low_bits(lanes.into()) != 0 {
                    all
                } else {
                    0
                }
            }
            Self::Packed { k, size, lanes } => {
                let count = (vector.k[usize::from(k & 7)] & low_bits(lanes.into())).count_ones();
                all & low_bits(count as usize * usize::from(size))
            }
            Self::Signs { register, size } => spread(operand, size, |i| {
                let bits = usize::from(size) * 8;
                vector.zmm[usize::from(register & 31)].lane(size.into(), i) >> (bits - 1) & 1 != 0
            }),
            Self::MmxSigns { register } => {
                let value = vector.x87.mmx(register.into());
                spread(operand, 1, |i| value >> (i * 8 + 7) & 1 != 0)
            }
        }
    }
}

fn low_bits(n: usize) -> u64 {
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

fn spread(operand: usize, size: u8, enabled: impl Fn(usize) -> bool) -> u64 {
    let size = usize::from(size.max(1));
    let element = low_bits(size);
    (0..operand.min(64) / size)
        .filter(|&i| enabled(i))
        .fold(0, |bytes, i| bytes | element << (i * size))
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
    let direction = match info.op_access(op) {
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
    let size = if counts_shift(instr) { 8 } else { size };
    let lanes = lanes(instr, size);
    if lanes != Lanes::All && size > 64 {
        return Err(());
    }
    Ok(Some(MemoryOperand {
        size: size as u8,
        direction,
        alignment: alignment(instr, class, size),
        relaxed: matches!(class, StateClass::Sse | StateClass::MmxSse) && !is_aligned_move(instr.mnemonic()),
        checked: checked(instr, lanes, size),
        lanes,
    }))
}

/// Does the memory operand say by how much a whole vector is shifted? AMD's processors read only the half that counts,
/// as a misaligned operand at a page's end shows.
fn counts_shift(instr: &Instruction) -> bool {
    use Mnemonic::*;
    is_amd()
        && instr.memory_size().size() == 16
        && instr.op_kind(instr.op_count() - 1) == OpKind::Memory
        && matches!(
            instr.mnemonic(),
            Psllw | Pslld | Psllq | Psrlw | Psrld | Psrlq | Psraw | Psrad
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

/// What the alignment check wants: the size of what is accessed at once, 16 bytes at most.
fn checked(instr: &Instruction, lanes: Lanes, size: usize) -> u8 {
    match lanes {
        // No byte of these is accessed with another.
        Lanes::Signs { .. } | Lanes::MmxSigns { .. } => 1,
        Lanes::Opmask { size, .. } | Lanes::Packed { size, .. } => size,
        Lanes::All | Lanes::AnyOpmask { .. } => match size {
            1 | 2 | 4 | 8 => size as u8,
            10 => 8,
            14 | 94 => 2,
            28 | 108 => 4,
            _ if instr.mnemonic() == Mnemonic::Cmpxchg16b => 1,
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
            Sha1rnds4 | Sha1nexte | Sha1msg1 | Sha1msg2 | Sha256rnds2 | Sha256msg1 | Sha256msg2 if is_amd() => 1,
            // A shift's count is part of an operand as long as the others.
            _ if size >= 8 && instr.memory_size().size() == 16 && matches!(class, StateClass::Sse | StateClass::MmxSse) => 16,
            _ => 1,
        },
        _ => match instr.mnemonic() {
            Vmovaps | Vmovapd | Vmovdqa | Vmovdqa32 | Vmovdqa64 | Vmovntps | Vmovntpd | Vmovntdq
            | Vmovntdqa => size as u8,
            _ => 1,
        },
    }
}

fn lanes(instr: &Instruction, size: usize) -> Lanes {
    use Mnemonic::*;
    match instr.mnemonic() {
        Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq => {
            let wide = matches!(instr.mnemonic(), Vmaskmovpd | Vpmaskmovq);
            let register = instr.op1_register().number() as u8;
            return Lanes::Signs {
                register,
                size: if wide { 8 } else { 4 },
            };
        }
        Maskmovdqu | Vmaskmovdqu => {
            return Lanes::Signs {
                register: instr.op2_register().number() as u8,
                size: 1,
            };
        }
        Maskmovq => {
            return Lanes::MmxSigns {
                register: instr.op2_register().number() as u8,
            };
        }
        _ => {}
    }
    if instr.op_mask() == Register::None || instr.op_mask() == Register::K0 {
        return Lanes::All;
    }
    let k = instr.op_mask().number() as u8;
    let element = instr.memory_size().element_size().max(1);
    let name = format!("{:?}", instr.mnemonic());
    let vector_size = (0..instr.op_count())
        .filter(|&i| instr.op_kind(i) == OpKind::Register && instr.op_register(i).is_vector_register())
        .map(|i| instr.op_register(i).size())
        .max()
        .unwrap_or(64);
    if name.starts_with("Vpcompress") || name.starts_with("Vcompress") || name.contains("expand") {
        return Lanes::Packed {
            k,
            size: element as u8,
            lanes: (size / element) as u8,
        };
    }
    if instr.is_broadcast() || name.contains("broadcast") {
        return Lanes::AnyOpmask {
            k,
            lanes: broadcast_lanes(instr)
                .unwrap_or(vector_size / element)
                .min(64) as u8,
        };
    }
    if reads_all(&name, instr) {
        return Lanes::All;
    }
    Lanes::Opmask {
        k,
        size: mask_element(&name, element) as u8,
    }
}

/// How often an embedded broadcast repeats its element.
fn broadcast_lanes(instr: &Instruction) -> Option<usize> {
    let code = instr.op_code();
    let (whole, element) = (
        code.memory_size().size(),
        code.broadcast_memory_size().size(),
    );
    (instr.is_broadcast() && element != 0).then(|| whole / element)
}

/// Masked forms that access their whole operand whatever the mask (the manual's exception types with the suffix NF, "no
/// fault suppression", and the shuffles, whose lanes are not the memory elements).
fn reads_all(name: &str, instr: &Instruction) -> bool {
    const STEMS: [&str; 22] = [
        "Valign",
        "Vdbpsadbw",
        "Vpack",
        "Vpalignr",
        "Vperm",
        "Vpmaddubsw",
        "Vpmaddwd",
        "Vpmultishift",
        "Vpsadbw",
        "Vpshufb",
        "Vpshufd",
        "Vpshufhw",
        "Vpshuflw",
        "Vpunpck",
        "Vshuf",
        "Vunpck",
        "Vinsert",
        "Vpconflict",
        "Vgf2p8",
        "Vmovddup",
        "Vmovshdup",
        "Vmovsldup",
    ];
    let shift_by_count = ["Vpsll", "Vpsrl", "Vpsra"].iter().any(|s| name.starts_with(s))
        && !name.starts_with("Vpsllv")
        && !name.starts_with("Vpsrlv")
        && !name.starts_with("Vpsrav");
    shift_by_count && instr.op_kind(1) == OpKind::Register || STEMS.iter().any(|s| name.starts_with(s))
}

/// The size of what one mask bit stands for, where that is not the element that memory is described by.
fn mask_element(name: &str, element: usize) -> usize {
    if name.starts_with("Vpdp") || name.starts_with("Vdpbf16") {
        4
    } else {
        element
    }
}
