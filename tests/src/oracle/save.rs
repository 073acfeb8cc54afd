//! Images for FXRSTOR and the XSAVE family.

use super::layout::{DATA, DATA_PAGES, PAGE, READ_ONLY};
use super::values::{mxcsr, write};
use super::{Registers, x87};
use fastrand::Rng;
use iced_x86::{Instruction, Mnemonic as M};
use ring3_host::native::xsave::{XFEATURES, XSAVE_HEADER, XSAVE_SIZE};
use std::arch::is_x86_feature_detected;
use std::arch::x86_64::__cpuid_count as cpuid;

/// Of the vector state, what the host has: XCR0 as far as guests know it.
pub fn features() -> u64 {
    if is_x86_feature_detected!("avx512f") {
        XFEATURES
    } else if is_x86_feature_detected!("avx") {
        0b111
    } else {
        0b11
    }
}

/// Components that the host has and guests have not.
fn hidden() -> u64 {
    let leaf = cpuid(0xd, 0);
    (u64::from(leaf.edx) << 32 | u64::from(leaf.eax)) & !features()
}

pub fn is_extended(instr: &Instruction) -> bool {
    matches!(
        instr.mnemonic(),
        M::Xsave
            | M::Xsave64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsavec
            | M::Xsavec64
            | M::Xrstor
            | M::Xrstor64
    )
}

/// Where an area lies: aligned and in one kind of memory mostly, since how much of one is written before a fault is each
/// processor's affair.
pub fn area(rng: &mut Rng) -> u64 {
    let room = DATA_PAGES as u64 * PAGE - XSAVE_SIZE as u64;
    match rng.u8(..32) {
        0 => DATA + rng.u64(..room),
        1 => READ_ONLY,
        2 => READ_ONLY + PAGE,
        _ => DATA + rng.u64(..room) / 64 * 64,
    }
}

/// Which components are asked for.
pub fn request(rng: &mut Rng, registers: &mut Registers) {
    let any = if rng.bool() { u64::MAX } else { rng.u64(..) };
    registers.gpr[0] = any & features();
    registers.gpr[2] = 0;
}

/// What FXSAVE writes.
pub fn legacy_image(rng: &mut Rng, memory: &mut [u8], at: u64) {
    write(memory, at, &x87::control_word(rng).to_le_bytes());
    for pointer in [8, 16] {
        let any = rng.u64(..) & 0x7fff_ffff_ffff;
        write(memory, at.wrapping_add(pointer), &any.to_le_bytes());
    }
    write(memory, at.wrapping_add(24), &mxcsr(rng).to_le_bytes());
    for n in 0..8 {
        write(memory, at.wrapping_add(32 + 16 * n), &x87::extended(rng));
    }
}

/// What XSAVE or XSAVEC writes; seldom with something wrong in its header.
pub fn extended_image(rng: &mut Rng, memory: &mut [u8], at: u64) {
    legacy_image(rng, memory, at);
    let present = if rng.bool() {
        features()
    } else {
        rng.u64(..) & features()
    };
    let has_compact = cpuid(0xd, 1).eax >> 1 & 1 != 0;
    let compact = if has_compact && rng.u8(..) < 80 {
        1 << 63 | present | rng.u64(..) & features()
    } else {
        0
    };
    let mut header = [present, compact, 0, 0, 0, 0, 0, 0];
    if rng.u8(..) < 20 {
        header[rng.usize(..8)] ^= 1 << rng.u32(..64) & !hidden();
    }
    for (n, word) in header.iter().enumerate() {
        let place = at.wrapping_add((XSAVE_HEADER + 8 * n) as u64);
        write(memory, place, &word.to_le_bytes());
    }
}
