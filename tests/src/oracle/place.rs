//! Memory operands: how they are written, and where they lie.

use super::layout::{CODE, DATA, DATA_PAGES, PAGE, READ_ONLY};
use super::{CODE64, Machine, Mode, Segment, values};
use fastrand::Rng;
use iced_x86::{Instruction, OpCodeOperandKind as K, OpKind, Register};

/// A memory operand as encoded. The registers that it is made of get their values by [`Operand::aim`].
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    base: Register,
    index: Register,
    scale: u32,
    displacement: u64,
    /// Size of an index in bits, where the index is a vector.
    index_bits: u32,
    /// Address size in bits.
    bits: u32,
    /// The address, where the encoding alone decides it.
    fixed: Option<u64>,
}

/// The first register for a vector of indices, and how wide its elements are, for kinds that have one.
fn vector_index(kind: K) -> Option<(Register, u32)> {
    Some(match kind {
        K::mem_vsib32x => (Register::XMM0, 32),
        K::mem_vsib32y => (Register::YMM0, 32),
        K::mem_vsib32z => (Register::ZMM0, 32),
        K::mem_vsib64x => (Register::XMM0, 64),
        K::mem_vsib64y => (Register::YMM0, 64),
        K::mem_vsib64z => (Register::ZMM0, 64),
        _ => return None,
    })
}

/// Makes operand `n` a memory operand.
pub fn operand(rng: &mut Rng, instr: &mut Instruction, n: u32, kind: K, mode: Mode) -> Option<Operand> {
    instr.set_op_kind(n, OpKind::Memory);
    let vsib = vector_index(kind);
    if mode == Mode::Short && vsib.is_none() && (kind == K::mem_offs || rng.u8(..) < 200) {
        return Some(short_operand(rng, instr, kind));
    }
    let bits = if rng.u8(..) < 24 || mode == Mode::Short {
        32
    } else {
        mode.bits()
    };
    let registers = match mode {
        Mode::Long => 16,
        _ => 8,
    };
    let first = if bits == 64 { Register::RAX } else { Register::EAX };
    let mut op = Operand {
        base: first + rng.u32(..registers),
        index: Register::None,
        scale: 1,
        displacement: 0,
        index_bits: 0,
        bits,
        fixed: None,
    };
    if kind == K::mem_offs {
        op.base = Register::None;
        op.bits = mode.bits();
        op.displacement = target(rng, 8);
        op.fixed = Some(op.displacement);
        instr.set_memory_displ_size(mode.bits() / 8);
        instr.set_memory_displacement64(op.displacement);
        return Some(op);
    }
    match rng.u8(..16) {
        0 if vsib.is_none() && mode == Mode::Long => {
            op.base = Register::RIP;
            op.bits = 64;
            let at = target(rng, 16);
            (op.displacement, op.fixed) = (at, Some(at));
        }
        1 if vsib.is_none() => {
            op.base = Register::None;
            let at = target(rng, 16);
            if mode == Mode::Long {
                op.bits = 64;
            }
            (op.displacement, op.fixed) = (at - mode.base(), Some(at));
        }
        2..=8 => {
            if vsib.is_none() && rng.u8(..) < 40 {
                op.base = Register::None;
            }
            // RSP cannot be an index.
            const NUMBERS: [u32; 15] = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
            let number = NUMBERS[rng.usize(..registers as usize - 1)];
            op.index = first + number;
            op.scale = 1 << rng.u32(0..4);
        }
        _ => {}
    }
    if let Some((vector, index_bits)) = vsib {
        op.index_bits = index_bits;
        let vectors = match mode {
            Mode::Long if rng.bool() => 32,
            Mode::Long => 16,
            _ => 8,
        };
        op.index = vector + rng.u32(..vectors);
        op.scale = 1 << rng.u32(0..4);
    }
    if op.index == op.base {
        op.index = Register::None;
        op.scale = 1;
    }
    let mut size = if op.fixed.is_some() { 4 } else { 0 };
    if op.fixed.is_none() {
        let any = if op.base == Register::None { 3 } else { 0 };
        match rng.u8(any..4) {
            0 => {}
            1 | 2 => {
                op.displacement = rng.i8(..) as i64 as u64;
                size = 1;
            }
            _ => {
                op.displacement = i64::from(rng.i32(..)) as u64;
                size = 4;
            }
        }
    }
    if op.base == Register::RIP || op.base == Register::None {
        size = 8;
    }
    instr.set_memory_base(op.base);
    instr.set_memory_index(op.index);
    instr.set_memory_index_scale(op.scale);
    instr.set_memory_displ_size(if op.bits == 32 && size == 8 { 4 } else { size });
    instr.set_memory_displacement64(if op.bits == 32 {
        op.displacement & 0xffff_ffff
    } else {
        op.displacement
    });
    Some(op)
}

/// A memory operand with 16-bit addressing.
fn short_operand(rng: &mut Rng, instr: &mut Instruction, kind: K) -> Operand {
    let any = rng.u32(..8);
    let (base, index) = match any {
        0 | 1 => (Register::BX, Register::SI + (any & 1)),
        2 | 3 => (Register::BP, Register::SI + (any & 1)),
        4 => (Register::SI, Register::None),
        5 => (Register::DI, Register::None),
        6 => (Register::BP, Register::None),
        _ => (Register::BX, Register::None),
    };
    let mut op = Operand {
        base,
        index,
        scale: 1,
        displacement: rng.u64(..0x1_0000),
        index_bits: 0,
        bits: 16,
        fixed: None,
    };
    let mut size = 2;
    if kind == K::mem_offs || rng.u8(..) < 16 {
        let at = target(rng, 16);
        (op.base, op.index) = (Register::None, Register::None);
        (op.displacement, op.fixed) = (at & 0xffff, Some(at));
    } else {
        match rng.u8(..3) {
            0 => (op.displacement, size) = (0, 0),
            1 => (op.displacement, size) = (rng.i8(..) as u16 as u64, 1),
            _ => {}
        }
    }
    instr.set_memory_base(op.base);
    instr.set_memory_index(op.index);
    instr.set_memory_displ_size(size);
    instr.set_memory_displacement64(op.displacement);
    op
}

/// Where an operand of `size` bytes is to lie: mostly aligned in writable memory, but also across every kind of border.
pub fn target(rng: &mut Rng, size: u64) -> u64 {
    let size = size.clamp(1, 512);
    let end = DATA + DATA_PAGES as u64 * PAGE;
    let across = |rng: &mut Rng, border: u64| border - rng.u64(0..=size);
    match rng.u8(..100) {
        0..60 => DATA + 64 * rng.u64(2..(DATA_PAGES as u64 * PAGE / 64) - 10),
        60..76 => rng.u64(DATA + 128..end - 640),
        76..86 => {
            let border = DATA + PAGE * rng.u64(1..DATA_PAGES as u64);
            across(rng, border)
        }
        86..90 => across(rng, READ_ONLY),
        90..93 => READ_ONLY + rng.u64(0..PAGE - 600) / 16 * 16,
        93..96 => across(rng, READ_ONLY + PAGE),
        96..98 => across(rng, DATA),
        98 => CODE + rng.u64(..PAGE),
        _ => READ_ONLY + PAGE + rng.u64(..PAGE),
    }
}

impl Operand {
    /// Whether the encoding alone decides the address.
    pub fn is_fixed(&self) -> bool {
        self.fixed.is_some()
    }

    /// Whether a register is part of the address.
    pub fn uses(&self, register: Register) -> bool {
        self.base.full_register() == register || self.index.full_register() == register
    }

    /// Sets registers so that the operand lies at `at`, as far as the encoding leaves a choice; returns where it lies.
    pub fn aim(&self, rng: &mut Rng, machine: &mut Machine, segment: Register, at: u64) -> u64 {
        let registers = &mut machine.registers;
        let base = match segment {
            Register::FS => &mut registers.fs_base,
            Register::GS => &mut registers.gs_base,
            _ => &mut 0,
        };
        if let Some(fixed) = self.fixed {
            return fixed.wrapping_add(*base);
        }
        if matches!(segment, Register::FS | Register::GS) && self.bits == 32 && registers.cs == CODE64 {
            *base = rng.u64(0..0x1000_0000);
        }
        // Segments of 16-bit code begin where 16 bits are zero.
        let short = if registers.ss == Segment::selector(2) && self.bits == 32 {
            CODE
        } else {
            0
        };
        let offset = at
            .wrapping_sub(*base)
            .wrapping_sub(short)
            .wrapping_sub(self.displacement);
        if self.index.is_vector_register() {
            self.scatter_indices(rng, machine, segment);
        }
        let gpr = &mut machine.registers.gpr;
        let mask = u64::MAX >> (64 - self.bits);
        let mut put = |number: usize, value: u64| gpr[number & 15] = gpr[number & 15] & !mask | value & mask;
        let scale = u64::from(self.scale);
        if self.base.is_gpr() {
            let mut wanted = offset;
            if self.index.is_gpr() {
                let index = values::integer(rng);
                put(self.index.number(), index);
                wanted = wanted.wrapping_sub(index.wrapping_mul(scale));
            }
            put(self.base.number(), wanted);
            at
        } else {
            let index = (offset & mask) / scale;
            put(self.index.number(), index);
            at.wrapping_sub((offset & mask) % scale)
        }
    }

    /// Small distances for all elements, and seldom a large one.
    fn scatter_indices(&self, rng: &mut Rng, machine: &mut Machine, segment: Register) {
        let register = &mut machine.vector.zmm[self.index.number() & 31];
        for word in &mut register.0 {
            let mut step = || rng.i64(-40..40) as u64;
            *word = if self.index_bits == 32 {
                step() & 0xffff_ffff | step() << 32
            } else {
                step()
            };
        }
        // With a segment's base, processors differ in which sums they call canonical.
        let based = matches!(segment, Register::FS | Register::GS);
        if !based && rng.u8(..) < 20 {
            register.0[rng.usize(..8)] = values::integer(rng);
        }
    }
}
