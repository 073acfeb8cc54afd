//! Random x87 states.

use super::values::{float, integer};
use fastrand::Rng;
use ring3_host::native::X87;

/// Any TOP, mostly full registers, mostly masked exceptions.
pub fn fill(rng: &mut Rng, x87: &mut X87) {
    x87.set_fcw(control_word(rng));
    // TOP and the condition codes; flags only where they are masked, or an exception would be pending all the time.
    let mut status = rng.u16(..) & 0x7f7f;
    if rng.u8(..) < 250 {
        status &= !0x3f | x87.fcw() & 0x3f;
    }
    if rng.bool() {
        status &= !0x7f;
    }
    x87.set_fsw(status);
    x87.set_abridged_tags(match rng.u8(..8) {
        0 => 0,
        1 | 2 => rng.u8(..),
        _ => 0xff,
    });
    for n in 0..8 {
        x87.set_st(n, extended(rng));
    }
    // AMD's processors forget the pointers but for an exception that is pending.
    if !x87.exception_pending() {
        return;
    }
    let pointers = &mut x87.pointers;
    pointers.fop = rng.u16(..) & 0x7ff;
    pointers.fip = rng.u64(..) & 0x7fff_ffff_ffff;
    pointers.fdp = rng.u64(..) & 0x7fff_ffff_ffff;
}

pub fn control_word(rng: &mut Rng) -> u16 {
    match rng.u8(..16) {
        0..6 => 0x37f,
        6..14 => 0x7f | rng.u16(..) & 0xf00,
        _ => 0x40 | rng.u16(..) & 0xf3f,
    }
}

/// An 80-bit number of any kind, the unsupported ones included.
pub fn extended(rng: &mut Rng) -> [u8; 10] {
    const INTEGER: u64 = 1 << 63;
    const QUIET: u64 = 1 << 62;
    let any = rng.u64(..);
    let (exponent, mantissa) = match rng.u8(..24) {
        0 => (0, 0),
        // Denormals, and pseudo-denormals.
        1 => (0, any & !INTEGER),
        2 => (0, 1),
        3 => (0, any | INTEGER),
        4 => (0x7fff, INTEGER),
        5 => (0x7fff, any | INTEGER | QUIET),
        6 => (0x7fff, (any | INTEGER) & !QUIET | 1),
        // Pseudo-infinities and their like, and unnormals.
        7 => (0x7fff, any & !INTEGER),
        8 => (rng.u16(1..0x7fff), any & !INTEGER),
        9 => (0x3fff, INTEGER),
        10 => (1, INTEGER),
        11 => (0x7ffe, u64::MAX),
        // Integers, small and large.
        12 | 13 => return integer_as_extended(integer(rng) as i64),
        14 => return integer_as_extended((integer(rng) as i16).into()),
        // What began as a single or a double.
        15 => (0x3fff - 127 + (any >> 32 & 0xff) as u16, INTEGER | any << 40),
        16 => return double_as_extended(float(rng, 11, 52)),
        17 => (0x3fff + rng.u16(..70), any | INTEGER),
        18 => (0x3fff - rng.u16(..70), any | INTEGER),
        19 => (rng.u16(1..80), any | INTEGER),
        20 => (0x7ffe - rng.u16(..80), any | INTEGER),
        21 => (rng.u16(1..0x7fff), any | INTEGER),
        _ => (0x3ffc + rng.u16(..8), any | INTEGER),
    };
    bytes(rng.bool(), exponent, mantissa)
}

fn bytes(negative: bool, exponent: u16, mantissa: u64) -> [u8; 10] {
    let mut out = [0; 10];
    out[..8].copy_from_slice(&mantissa.to_le_bytes());
    out[8..].copy_from_slice(&(exponent | u16::from(negative) << 15).to_le_bytes());
    out
}

fn integer_as_extended(value: i64) -> [u8; 10] {
    let size = value.unsigned_abs();
    if size == 0 {
        return [0; 10];
    }
    let shift = size.leading_zeros();
    bytes(value < 0, 0x3fff + 63 - shift as u16, size << shift)
}

fn double_as_extended(bits: u64) -> [u8; 10] {
    let exponent = (bits >> 52 & 0x7ff) as u16;
    let mantissa = bits << 11 | 1 << 63;
    match exponent {
        0 => bytes(bits >> 63 != 0, 0, 0),
        0x7ff => bytes(bits >> 63 != 0, 0x7fff, mantissa),
        _ => bytes(bits >> 63 != 0, exponent + 0x3fff - 0x3ff, mantissa),
    }
}
