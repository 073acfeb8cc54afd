//! A decoded operation, and the operand widths.

use crate::{Core, Step, World};
pub use ring3_host::mem::Word;

/// Executes one operation. On `Ok` the operation has retired; on `Err` nothing (or, for a repeated string
/// operation, whole iterations) was committed.
pub type Handler = fn(&mut Core, &Op, &mut dyn World) -> Step;

/// Bit of [`Op::dst`] and [`Op::src`]: bits 8..16 of the register (AH, CH, DH, BH).
pub const HIGH_BYTE: u8 = 0x80;

/// One instruction of a block. What `dst`, `src`, `imm` mean is up to the handler; the decoder that picks the
/// handler fills them accordingly.
#[derive(Clone, Copy)]
pub struct Op {
    pub run: Handler,
    pub imm: u64,
    /// Displacement of the memory operand; for RIP-relative ones relative to the block's start.
    pub disp: u64,
    /// Slot of the base register ([`crate::state::ZERO_SLOT`] for none).
    pub base: u8,
    /// Slot of the index register.
    pub index: u8,
    /// Log2 of the scale.
    pub scale: u8,
    /// Segment register of the memory operand.
    pub seg: u8,
    pub dst: u8,
    pub src: u8,
    /// Operand size in bytes.
    pub size: u8,
    /// Address size in bytes.
    pub address_size: u8,
    pub flags: OpFlags,
    /// Where the instruction begins and where the next one does, from the block's start.
    pub start: u16,
    pub next: u16,
    /// `iced_x86::Code` of the instruction.
    pub code: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpFlags(pub u8);

impl OpFlags {
    /// The memory operand needs no segmentation: 64-bit addressing off a base that is zero.
    pub const FLAT: u8 = 1;
    pub const LOCK: u8 = 2;
    pub const REP: u8 = 4;
    pub const REPNE: u8 = 8;
    /// The instruction has a memory operand.
    pub const MEMORY: u8 = 16;

    #[inline(always)]
    pub fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// An operand width: what the arithmetic needs of an unsigned integer type.
pub trait Width: Word + Copy + Eq + Ord + 'static {
    const BITS: u32;
    const BYTES: u64;
    fn from_u64(value: u64) -> Self;
    fn to_u64(self) -> u64;
    /// The value, sign-extended to 64 bits.
    fn sign_extend(self) -> u64;
}

macro_rules! width {
    ($($t:ty as $s:ty),*) => {$(
        impl Width for $t {
            const BITS: u32 = <$t>::BITS;
            const BYTES: u64 = (<$t>::BITS / 8) as u64;
            #[inline(always)]
            fn from_u64(value: u64) -> $t { value as $t }
            #[inline(always)]
            fn to_u64(self) -> u64 { self as u64 }
            #[inline(always)]
            fn sign_extend(self) -> u64 { self as $s as i64 as u64 }
        }
    )*};
}
width!(u8 as i8, u16 as i16, u32 as i32, u64 as i64);

impl Core {
    /// Reads a general register.
    #[inline(always)]
    pub fn reg<T: Width>(&self, code: u8) -> T {
        if T::BITS == 8 {
            // HIGH_BYTE >> 4 is 8: the shift that brings the high byte down.
            T::from_u64(self.state.gpr[usize::from(code & 31)] >> (code >> 4 & 8))
        } else {
            T::from_u64(self.state.gpr[usize::from(code & 31)])
        }
    }

    /// Writes a general register, by the rules of its width: 32-bit results clear the upper half, narrower ones
    /// leave the rest alone.
    #[inline(always)]
    pub fn set_reg<T: Width>(&mut self, code: u8, value: T) {
        let slot = &mut self.state.gpr[usize::from(code & 31)];
        *slot = match T::BITS {
            8 => {
                let shift = code >> 4 & 8;
                *slot & !(0xff << shift) | value.to_u64() << shift
            }
            16 => *slot & !0xffff | value.to_u64(),
            _ => value.to_u64(),
        };
    }

    /// Writes a register as wide as `size` bytes says.
    pub fn set_reg_sized(&mut self, code: u8, size: u8, value: u64) {
        match size {
            1 => self.set_reg(code, value as u8),
            2 => self.set_reg(code, value as u16),
            4 => self.set_reg(code, value as u32),
            _ => self.set_reg(code, value),
        }
    }

    /// Reads a register as wide as `size` bytes says.
    pub fn reg_sized(&self, code: u8, size: u8) -> u64 {
        match size {
            1 => u64::from(self.reg::<u8>(code)),
            2 => u64::from(self.reg::<u16>(code)),
            4 => u64::from(self.reg::<u32>(code)),
            _ => self.reg::<u64>(code),
        }
    }
}
