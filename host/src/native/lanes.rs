//! Which bytes of its memory operand an instruction touches: fault suppression by opmask registers and sign bits.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::VectorState;

/// How the accessed bytes follow from registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lanes {
    All,
    /// Element i if bit i of the opmask register is set.
    Opmask {
        k: u8,
        size: u8,
    },
    /// The operand is repeated to fill `lanes` elements (broadcasts): an element if the bit of any of its copies is set.
    Repeated {
        k: u8,
        size: u8,
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
            Self::Repeated { k, size, lanes } => {
                let mask = vector.k[usize::from(k & 7)] & low_bits(lanes.into());
                let period = (operand / usize::from(size.max(1))).max(1);
                spread(operand, size, |i| {
                    (i..64).step_by(period).any(|n| mask >> n & 1 != 0)
                })
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

/// How the accessed bytes of an operand of `size` follow from registers.
pub(super) fn lanes(instr: &Instruction, size: usize) -> Lanes {
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
    let name = format!("{:?}", instr.mnemonic());
    let element = mask_element(&name, instr);
    let vector_size = (0..instr.op_count())
        .filter(|&i| instr.op_kind(i) == OpKind::Register && instr.op_register(i).is_vector_register())
        .map(|i| instr.op_register(i).size())
        .max()
        .unwrap_or(64);
    if is_packed(instr) {
        return Lanes::Packed {
            k,
            size: element as u8,
            lanes: (size / element) as u8,
        };
    }
    if reads_all(&name, instr) {
        return Lanes::All;
    }
    if instr.is_broadcast() || name.contains("broadcast") {
        return Lanes::Repeated {
            k,
            size: element as u8,
            lanes: broadcast_lanes(instr).unwrap_or(vector_size / element).min(64) as u8,
        };
    }
    Lanes::Opmask {
        k,
        size: element as u8,
    }
}

/// Compressing stores and expanding loads.
pub(super) fn is_packed(instr: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        instr.mnemonic(),
        Vcompressps
            | Vcompresspd
            | Vpcompressb
            | Vpcompressw
            | Vpcompressd
            | Vpcompressq
            | Vexpandps
            | Vexpandpd
            | Vpexpandb
            | Vpexpandw
            | Vpexpandd
            | Vpexpandq
    )
}

/// How often an embedded broadcast repeats its element.
fn broadcast_lanes(instr: &Instruction) -> Option<usize> {
    let code = instr.op_code();
    let (whole, element) = (code.memory_size().size(), code.broadcast_memory_size().size());
    (instr.is_broadcast() && element != 0).then(|| whole / element)
}

/// Masked forms that access their whole operand whatever the mask (the manual's exception types with the suffix NF, "no
/// fault suppression", and the shuffles, whose lanes are not the memory elements).
fn reads_all(name: &str, instr: &Instruction) -> bool {
    const STEMS: [&str; 23] = [
        "Valign",
        "Vcvtne2ps2bf16",
        "Vdbpsadbw",
        "Vpack",
        "Vpalignr",
        "Vperm",
        "Vpmaddubsw",
        "Vpmaddwd",
        "Vpmultishift",
        "Vpsadbw",
        "Vpshufd",
        "Vpshufhw",
        "Vpshuflw",
        "Vpunpck",
        "Vshuf",
        "Vunpck",
        "Vinsert",
        "Vextract",
        "Vpconflict",
        "Vgf2p8affine",
        "Vmovddup",
        "Vmovshdup",
        "Vmovsldup",
    ];
    let shift_by_count = ["Vpsll", "Vpsrl", "Vpsra"].iter().any(|s| name.starts_with(s))
        && !name.starts_with("Vpsllv")
        && !name.starts_with("Vpsrlv")
        && !name.starts_with("Vpsrav");
    shift_by_count && instr.op_kind(1) == OpKind::Register
        || name == "Vpshufb"
        || STEMS.iter().any(|s| name.starts_with(s))
}

/// The size of what one mask bit stands for, which is not always the element that memory is described by.
fn mask_element(name: &str, instr: &Instruction) -> usize {
    let code = instr.op_code();
    if code.can_broadcast() {
        code.broadcast_memory_size().size()
    } else if name.contains("32x") || name.ends_with("csh") {
        // The latter's is a complex number, of two halves.
        4
    } else if name.contains("64x") {
        8
    } else {
        instr.memory_size().element_size().max(1)
    }
}
