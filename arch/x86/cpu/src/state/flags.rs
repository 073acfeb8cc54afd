//! RFLAGS, with the six arithmetic flags kept lazily.
//!
//! An operation stores its result (sign-extended to 64 bits) and one auxiliary word made from its carry vector;
//! the flags are read off these two when someone asks:
//!
//! * ZF: the result is zero. SF: bit 63 of the result, flipped by bit 0 of the auxiliary word.
//! * PF: parity of the result's low byte, after XOR with bits 8..16 of the auxiliary word.
//! * CF: bit 63 of the auxiliary word. OF: bit 63 XOR bit 62 (carry out of, and into, the sign bit). AF: bit 3.

use crate::op::Width;

pub const CF: u64 = 1 << 0;
pub const PF: u64 = 1 << 2;
pub const AF: u64 = 1 << 4;
pub const ZF: u64 = 1 << 6;
pub const SF: u64 = 1 << 7;
pub const TF: u64 = 1 << 8;
pub const IF: u64 = 1 << 9;
pub const DF: u64 = 1 << 10;
pub const OF: u64 = 1 << 11;
pub const IOPL: u64 = 3 << 12;
pub const NT: u64 = 1 << 14;
pub const RF: u64 = 1 << 16;
pub const VM: u64 = 1 << 17;
pub const AC: u64 = 1 << 18;
pub const VIF: u64 = 1 << 19;
pub const VIP: u64 = 1 << 20;
pub const ID: u64 = 1 << 21;

/// The six flags that arithmetic sets.
pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
/// The bits of RFLAGS that can be set, besides the arithmetic ones.
pub const SYSTEM: u64 = TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;

const CARRY_SHIFT: u32 = 63;
const TOP_TWO: u64 = 3 << 62;

#[derive(Clone, Copy, Debug)]
pub struct Flags {
    result: u64,
    aux: u64,
    /// The non-arithmetic bits, in place.
    pub system: u64,
}

impl Default for Flags {
    fn default() -> Flags {
        let mut flags = Flags {
            result: 0,
            aux: 0,
            system: 0,
        };
        flags.set_bits(0);
        flags
    }
}

impl Flags {
    #[inline(always)]
    pub fn cf(&self) -> bool {
        self.aux >> CARRY_SHIFT != 0
    }
    #[inline(always)]
    pub fn of(&self) -> bool {
        (self.aux ^ (self.aux << 1)) >> 63 != 0
    }
    #[inline(always)]
    pub fn zf(&self) -> bool {
        self.result == 0
    }
    #[inline(always)]
    pub fn sf(&self) -> bool {
        (self.result >> 63) ^ (self.aux & 1) != 0
    }
    #[inline(always)]
    pub fn pf(&self) -> bool {
        ((self.result ^ (self.aux >> 8)) as u8).count_ones() & 1 == 0
    }
    #[inline(always)]
    pub fn af(&self) -> bool {
        self.aux & 8 != 0
    }

    /// RFLAGS as software sees it.
    pub fn bits(&self) -> u64 {
        self.arithmetic() | self.system | 2
    }

    pub fn arithmetic(&self) -> u64 {
        u64::from(self.cf())
            | u64::from(self.pf()) << 2
            | u64::from(self.af()) << 4
            | u64::from(self.zf()) << 6
            | u64::from(self.sf()) << 7
            | u64::from(self.of()) << 11
    }

    /// Sets all of RFLAGS.
    pub fn set_bits(&mut self, bits: u64) {
        self.system = bits & SYSTEM;
        self.set_arithmetic(bits);
    }

    /// Sets the six arithmetic flags from their places in `bits`.
    pub fn set_arithmetic(&mut self, bits: u64) {
        let cf = bits & 1;
        let of = bits >> 11 & 1;
        let odd_parity = !bits >> 2 & 1;
        self.result = (!bits >> 6 & 1) << 8;
        self.aux = cf << 63 | (cf ^ of) << 62 | odd_parity << 8 | (bits >> 4 & 1) << 3 | (bits >> 7 & 1);
    }

    /// Replaces the arithmetic flags in `mask` by those in `bits`.
    pub fn update(&mut self, mask: u64, bits: u64) {
        let all = self.arithmetic() & !mask | bits & mask;
        self.set_arithmetic(all);
    }

    #[inline(always)]
    fn set_vector<T: Width>(&mut self, result: T, carries: u64) {
        self.result = result.sign_extend();
        self.aux = (carries << (64 - T::BITS)) & TOP_TWO | carries & 8;
    }

    #[inline(always)]
    pub fn set_add<T: Width>(&mut self, a: T, b: T, result: T) {
        let (a, b, r) = (a.to_u64(), b.to_u64(), result.to_u64());
        self.set_vector(result, (a & b) | ((a | b) & !r));
    }

    #[inline(always)]
    pub fn set_sub<T: Width>(&mut self, a: T, b: T, result: T) {
        let (a, b, r) = (a.to_u64(), b.to_u64(), result.to_u64());
        self.set_vector(result, (!a & b) | ((!a | b) & r));
    }

    #[inline(always)]
    pub fn set_logic<T: Width>(&mut self, result: T) {
        self.result = result.sign_extend();
        self.aux = 0;
    }

    /// INC: as an addition of one, with CF left alone.
    #[inline(always)]
    pub fn set_inc<T: Width>(&mut self, a: T, result: T) {
        let carry = self.aux >> 63;
        self.set_add(a, T::from_u64(1), result);
        self.keep_carry(carry);
    }

    /// DEC: as a subtraction of one, with CF left alone.
    #[inline(always)]
    pub fn set_dec<T: Width>(&mut self, a: T, result: T) {
        let carry = self.aux >> 63;
        self.set_sub(a, T::from_u64(1), result);
        self.keep_carry(carry);
    }

    #[inline(always)]
    fn keep_carry(&mut self, carry: u64) {
        let overflow = (self.aux ^ (self.aux << 1)) >> 63;
        self.aux = self.aux & 8 | carry << 63 | (carry ^ overflow) << 62;
    }

    /// SF, ZF and PF from `result`, AF clear, CF and OF as given.
    #[inline(always)]
    pub fn set_result<T: Width>(&mut self, result: T, cf: bool, of: bool) {
        self.result = result.sign_extend();
        self.aux = u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
    }

    /// CF and OF only.
    #[inline(always)]
    pub fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.aux = self.aux & !TOP_TWO | u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
    }

    #[inline(always)]
    pub fn set_cf(&mut self, cf: bool) {
        self.set_cf_of(cf, self.of());
    }

    /// One of the sixteen conditions, by its number in the opcode.
    #[inline(always)]
    pub fn condition(&self, code: u8) -> bool {
        let value = match code >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() | self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() | (self.sf() != self.of()),
        };
        value != (code & 1 != 0)
    }

    #[inline(always)]
    pub fn has(&self, system_bit: u64) -> bool {
        self.system & system_bit != 0
    }

    pub fn iopl(&self) -> u8 {
        (self.system >> 12 & 3) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_survives_a_round_trip() {
        for pattern in 0..64u64 {
            let bits = ((pattern & 1) * CF)
                | ((pattern >> 1 & 1) * PF)
                | ((pattern >> 2 & 1) * AF)
                | ((pattern >> 3 & 1) * ZF)
                | ((pattern >> 4 & 1) * SF)
                | ((pattern >> 5 & 1) * OF);
            let mut flags = Flags::default();
            flags.set_bits(bits | IF);
            assert_eq!(flags.bits(), bits | IF | 2);
            for code in 0..16 {
                let reference = match code >> 1 {
                    0 => bits & OF != 0,
                    1 => bits & CF != 0,
                    2 => bits & ZF != 0,
                    3 => bits & (CF | ZF) != 0,
                    4 => bits & SF != 0,
                    5 => bits & PF != 0,
                    6 => (bits & SF != 0) != (bits & OF != 0),
                    _ => bits & ZF != 0 || (bits & SF != 0) != (bits & OF != 0),
                };
                assert_eq!(flags.condition(code), reference != (code & 1 != 0));
            }
        }
    }

    #[test]
    fn inc_keeps_the_carry() {
        let mut flags = Flags::default();
        flags.set_sub(0u8, 1u8, 0xffu8);
        assert!(flags.cf() && flags.af() && flags.sf() && !flags.of());
        flags.set_inc(0x7fu8, 0x80u8);
        assert!(flags.cf() && flags.of() && flags.sf() && flags.af());
    }
}
