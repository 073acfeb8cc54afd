//! New inputs: pieces of the corpus and random instructions, put together and damaged.

use crate::corpus::Input;
use fastrand::Rng;
use iced_x86::{Encoder, Instruction};
use ring3_tests::oracle::forms::Form;
use ring3_tests::oracle::{Mode, program};
use std::sync::LazyLock;

/// Bytes of an input at most.
const LONGEST: usize = 120;
static FORMS: LazyLock<Vec<Form>> = LazyLock::new(|| program::forms(Mode::Long));

pub fn code(rng: &mut Rng, corpus: &[Input]) -> Vec<u8> {
    let mut code = Vec::new();
    for _ in 0..rng.usize(1..7) {
        match rng.u8(..4) {
            0 if !corpus.is_empty() => {
                let from = &corpus[rng.usize(..corpus.len())].code;
                let start = rng.usize(..from.len().max(1));
                let end = (start + rng.usize(1..40)).min(from.len());
                code.extend_from_slice(from.get(start..end).unwrap_or_default());
            }
            1 => jump(rng, &mut code),
            2 => code.extend((0..rng.usize(1..5)).map(|_| rng.u8(..))),
            _ => {
                let form = &FORMS[rng.usize(..FORMS.len())];
                if let Some(instr) = program::instruction(rng, form) {
                    code.extend(encoded(&instr));
                }
            }
        }
    }
    for _ in 0..rng.usize(..3) {
        if code.is_empty() {
            break;
        }
        let at = rng.usize(..code.len());
        match rng.u8(..3) {
            0 => code[at] ^= 1 << rng.u8(..8),
            1 => code[at] = rng.u8(..),
            _ => {
                code.remove(at);
            }
        }
    }
    code.truncate(LONGEST);
    code
}

fn encoded(instr: &Instruction) -> Vec<u8> {
    let mut encoder = Encoder::new(64);
    match encoder.encode(instr, 0) {
        Ok(_) => encoder.take_buffer(),
        Err(_) => Vec::new(),
    }
}

/// Short jumps, calls and loops that mostly lead to somewhere near.
fn jump(rng: &mut Rng, code: &mut Vec<u8>) {
    let distance = rng.i8(-40..40) as u8;
    match rng.u8(..6) {
        0 => code.extend([0xeb, distance & 0x1f]),
        1 => code.extend([0xe8, distance & 0x1f, 0, 0, 0]),
        2 => code.extend([0xe2, distance]),
        3 => code.push(0xc3),
        4 => code.extend([0x48, 0x8d, 0x05, distance, 0, 0, 0, 0xff, 0xe0]),
        _ => code.extend([0x70 | rng.u8(..16), distance]),
    }
}
