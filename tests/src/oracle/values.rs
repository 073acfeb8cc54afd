//! Random values, those at the edges of every format far more often than chance.

use super::layout::{CODE, CODE_PAGES, PAGE, PAGES, STACK};
use super::{Machine, Mode, Registers, VectorState, x87};
use fastrand::Rng;
use ring3_host::native::{Zmm, mxcsr_mask};
use std::arch::is_x86_feature_detected;

/// CF, PF, AF, ZF, SF and OF.
pub const STATUS: u64 = 0x8d5;
pub const DF: u64 = 1 << 10;
pub const NT: u64 = 1 << 14;
pub const AC: u64 = 1 << 18;
pub const ID: u64 = 1 << 21;

/// An integer of interest for one width or another.
pub fn integer(rng: &mut Rng) -> u64 {
    let any = rng.u64(..);
    let width = [8, 16, 32, 64][rng.usize(..4)];
    let mask = u64::MAX >> (64 - width);
    match rng.u8(..16) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => mask >> 1,
        4 => (mask >> 1) + 1,
        5 => mask,
        6 => 1 << (any & 63),
        7 => (1u64 << (any & 63)).wrapping_sub(1),
        8 => any & mask,
        9 => (any as i8) as u64,
        10 => (any as i16) as u64,
        11 => (any as i32) as u64,
        12 => any & 0xff,
        _ => any,
    }
}

/// How the lanes of a vector are filled.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Noise,
    Integers,
    Half,
    Single,
    Double,
    /// All lanes alike.
    Same,
}

pub fn shape(rng: &mut Rng) -> Shape {
    match rng.u8(..16) {
        0..3 => Shape::Noise,
        3..7 => Shape::Integers,
        7 => Shape::Half,
        8..11 => Shape::Single,
        11..14 => Shape::Double,
        _ => Shape::Same,
    }
}

/// Sixty-four bits of a shape.
pub fn lane(rng: &mut Rng, shape: Shape) -> u64 {
    match shape {
        Shape::Noise => rng.u64(..),
        Shape::Integers | Shape::Same => match rng.u8(..4) {
            0 => integer(rng),
            1 => u64::from_le_bytes(std::array::from_fn(|_| integer(rng) as u8)),
            2 => (0..4).fold(0, |word, _| word << 16 | integer(rng) & 0xffff),
            _ => integer(rng) & 0xffff_ffff | integer(rng) << 32,
        },
        Shape::Half => (0..4).fold(0, |word, _| word << 16 | float(rng, 5, 10)),
        Shape::Single => float(rng, 8, 23) | float(rng, 8, 23) << 32,
        Shape::Double => float(rng, 11, 52),
    }
}

/// A floating-point number with so many bits of exponent and fraction.
pub fn float(rng: &mut Rng, exponent_bits: u32, fraction_bits: u32) -> u64 {
    let top = (1u64 << exponent_bits) - 1;
    let bias = top >> 1;
    let all = (1u64 << fraction_bits) - 1;
    let any = rng.u64(..) & all;
    let quiet = 1 << (fraction_bits - 1);
    let near = |rng: &mut Rng, reach: i64| (bias as i64 + rng.i64(-reach..=reach)) as u64 & top;
    let (exponent, fraction) = match rng.u8(..20) {
        0 => (0, 0),
        1 => (0, any.max(1)),
        2 => (0, 1),
        3 => (0, all),
        4 => (1, 0),
        5 => (top - 1, all),
        6 => (top, 0),
        7 => (top, any | quiet),
        8 => (top, (any & !quiet).max(1)),
        9 => (bias, 0),
        10 => (near(rng, 2), any),
        11 => (near(rng, 40.min(bias as i64)), 0),
        12 => (near(rng, 66.min(bias as i64)), any),
        13 => (
            near(rng, 20.min(bias as i64)),
            any & all << (fraction_bits / 2) & all,
        ),
        14 => (rng.u64(..) % 4, any),
        15 => (top - 1 - rng.u64(..) % 4, any),
        _ => (near(rng, 8), any),
    };
    u64::from(rng.bool()) << (exponent_bits + fraction_bits) | exponent << fraction_bits | fraction
}

fn vector_register(rng: &mut Rng, words: usize) -> Zmm {
    let shape = shape(rng);
    let mut register = Zmm::default();
    let first = lane(rng, shape);
    for word in &mut register.0[..words] {
        *word = match shape {
            Shape::Same => first,
            _ => lane(rng, shape),
        };
    }
    register
}

fn vector_state(rng: &mut Rng) -> VectorState {
    let mut state = VectorState::new();
    let (registers, words) = if is_x86_feature_detected!("avx512f") {
        (32, 8)
    } else if is_x86_feature_detected!("avx") {
        (16, 4)
    } else {
        (16, 2)
    };
    for register in &mut state.zmm[..registers] {
        *register = vector_register(rng, words);
    }
    if words == 8 {
        for k in &mut state.k {
            *k = match rng.u8(..4) {
                0 => u64::MAX,
                1 => integer(rng),
                _ => rng.u64(..),
            };
        }
    }
    let refused = state.set_mxcsr(mxcsr(rng));
    debug_assert!(refused.is_ok());
    x87::fill(rng, &mut state.x87);
    state
}

/// Mostly with all exceptions masked, any rounding, any flags.
pub fn mxcsr(rng: &mut Rng) -> u32 {
    const DAZ: u32 = 1 << 6;
    const FTZ: u32 = 1 << 15;
    /// AMD's misaligned mode.
    const MM: u32 = 1 << 17;
    let mut value = 0x1f80 | rng.u32(..4) << 13;
    if rng.bool() {
        value |= rng.u32(..) & 0x3f;
    }
    for (bit, chance) in [(DAZ, 40), (FTZ, 40), (MM, 16)] {
        if rng.u8(..) < chance {
            value |= bit;
        }
    }
    if rng.u8(..) < 40 {
        value &= !(rng.u32(..) & 0x1f80);
    }
    value & mxcsr_mask()
}

fn flags(rng: &mut Rng) -> u64 {
    let mut value = rng.u64(..) & STATUS | 2;
    for (bit, chance) in [(DF, 64), (NT, 32), (ID, 32)] {
        if rng.u8(..) < chance {
            value |= bit;
        }
    }
    value
}

/// Memory with nothing but INT3 in its code pages.
pub fn memory(rng: &mut Rng) -> Vec<u8> {
    let code = CODE_PAGES * PAGE as usize;
    let mut memory = vec![0xcc; PAGES * PAGE as usize];
    rng.fill(&mut memory[code..]);
    memory
}

/// Everything random; the stack pointer, in the stack.
pub fn machine(rng: &mut Rng, memory: Vec<u8>, mode: Mode) -> Machine {
    let (cs, ds, ss) = mode.selectors();
    let mut registers = Registers {
        gpr: std::array::from_fn(|_| integer(rng)),
        rip: CODE,
        rflags: flags(rng),
        fs_base: base(rng),
        gs_base: base(rng),
        cs,
        ds,
        ss,
    };
    if mode != Mode::Long {
        (registers.fs_base, registers.gs_base) = (0, 0);
    }
    registers.gpr[4] = STACK
        + match rng.u8(..32) {
            // Just above or below the page's ends.
            0 => rng.u64(..16),
            1 => PAGE - rng.u64(..16),
            2 => rng.u64(..PAGE),
            _ => 8 * rng.u64(40..PAGE / 8 - 40),
        };
    Machine {
        registers,
        vector: vector_state(rng),
        memory,
    }
}

/// A segment base, below where a process has its own mappings.
fn base(rng: &mut Rng) -> u64 {
    integer(rng) & 0x3fff_ffff_ffff
}

/// Refills the memory around an address.
pub fn refill(rng: &mut Rng, memory: &mut [u8], around: u64) {
    let shape = shape(rng);
    let start = around.wrapping_sub(64) & !7;
    let first = lane(rng, shape);
    // Aligned with the operand, so that its lanes are the shape's.
    let start = start.wrapping_add(around & 7);
    for n in 0..32 {
        let word = match shape {
            Shape::Same => first,
            _ => lane(rng, shape),
        };
        write(memory, start.wrapping_add(8 * n), &word.to_le_bytes());
    }
}

/// Writes bytes where there is memory, except over code.
pub fn write(memory: &mut [u8], address: u64, bytes: &[u8]) {
    for (n, byte) in bytes.iter().enumerate() {
        let at = super::layout::offset(address.wrapping_add(n as u64));
        if let Some(at) = at.filter(|at| *at >= CODE_PAGES * PAGE as usize) {
            memory[at] = *byte;
        }
    }
}

/// Reads bytes; zeroes where there is no memory.
pub fn read(memory: &[u8], address: u64, size: usize) -> u64 {
    (0..size.min(8)).rev().fold(0, |value, n| {
        let byte = super::layout::offset(address.wrapping_add(n as u64)).map_or(0, |at| memory[at]);
        value << 8 | u64::from(byte)
    })
}
