//! An instruction before the one that is tried, so that this finds flags as another left them, and not at the start of
//! its block.

use super::Mode;
use super::operands::Encoded;
use fastrand::Rng;
use iced_x86::{Code, Encoder, Instruction, InstructionInfoFactory, Register};

/// Machine code that changes flags, all of them defined, and no register that the instruction uses; mostly none.
pub fn code(rng: &mut Rng, encoded: &Encoded) -> Vec<u8> {
    if rng.u8(..) >= 80 {
        return Vec::new();
    }
    let long = encoded.mode == Mode::Long;
    let single = [Code::Stc, Code::Clc, Code::Cmc];
    let pairs = [
        [
            Code::Add_rm8_r8,
            Code::Add_rm16_r16,
            Code::Add_rm32_r32,
            Code::Add_rm64_r64,
        ],
        [
            Code::Sub_rm8_r8,
            Code::Sub_rm16_r16,
            Code::Sub_rm32_r32,
            Code::Sub_rm64_r64,
        ],
        [
            Code::Adc_rm8_r8,
            Code::Adc_rm16_r16,
            Code::Adc_rm32_r32,
            Code::Adc_rm64_r64,
        ],
        [
            Code::Sbb_rm8_r8,
            Code::Sbb_rm16_r16,
            Code::Sbb_rm32_r32,
            Code::Sbb_rm64_r64,
        ],
        [
            Code::Cmp_rm8_r8,
            Code::Cmp_rm16_r16,
            Code::Cmp_rm32_r32,
            Code::Cmp_rm64_r64,
        ],
    ];
    let alone = [
        [Code::Inc_rm8, Code::Inc_rm16, Code::Inc_rm32, Code::Inc_rm64],
        [Code::Dec_rm8, Code::Dec_rm16, Code::Dec_rm32, Code::Dec_rm64],
        [Code::Neg_rm8, Code::Neg_rm16, Code::Neg_rm32, Code::Neg_rm64],
    ];
    let size = rng.usize(..if long { 4 } else { 3 });
    let Some(target) = spare(rng, encoded, size) else {
        return vec![[0xf8, 0xf9, 0xf5][rng.usize(..3)]];
    };
    let instr = match rng.u8(..10) {
        0 => Ok(Instruction::with(single[rng.usize(..3)])),
        1..4 => Instruction::with1(alone[rng.usize(..3)][size], target),
        _ => {
            let source = register(size, rng.u32(..4));
            Instruction::with2(pairs[rng.usize(..5)][size], target, source)
        }
    };
    let mut encoder = Encoder::new(encoded.mode.bits());
    match instr.map(|instr| encoder.encode(&instr, 0)) {
        Ok(Ok(_)) => encoder.take_buffer(),
        _ => Vec::new(),
    }
}

/// One of the first four registers that the instruction neither reads nor writes.
fn spare(rng: &mut Rng, encoded: &Encoded, size: usize) -> Option<Register> {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(&encoded.instr);
    let first = rng.u32(..4);
    (0..4)
        .map(|n| (first + n) % 4)
        .find(|number| {
            let full = Register::RAX + *number;
            !info
                .used_registers()
                .iter()
                .any(|used| used.register().full_register() == full)
        })
        .map(|number| register(size, number))
}

fn register(size: usize, number: u32) -> Register {
    [Register::AL, Register::AX, Register::EAX, Register::RAX][size] + number
}
