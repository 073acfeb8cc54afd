//! Classic BPF, as far as seccomp takes it: which programs are valid, and what they answer.

/// What a program looks at: `struct seccomp_data`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Data {
    pub number: u32,
    pub arch: u32,
    pub instruction: u64,
    pub arguments: [u64; 6],
}

impl Data {
    const SIZE: u32 = 64;

    /// The word at an offset, which [`Program::new`] has found to be a word's.
    fn word(&self, at: u32) -> u32 {
        match at {
            0 => self.number,
            4 => self.arch,
            8..16 => half(self.instruction, at),
            _ => half(self.arguments[(at as usize - 16) / 8], at),
        }
    }
}

fn half(word: u64, at: u32) -> u32 {
    if at.is_multiple_of(8) {
        word as u32
    } else {
        (word >> 32) as u32
    }
}

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub yes: u8,
    pub no: u8,
    pub k: u32,
}

impl Instruction {
    /// From the eight bytes that the client has of it.
    pub fn from_word(word: u64) -> Instruction {
        Instruction {
            code: word as u16,
            yes: (word >> 16) as u8,
            no: (word >> 24) as u8,
            k: (word >> 32) as u32,
        }
    }

    /// As the client had it.
    pub fn to_word(self) -> u64 {
        u64::from(self.code) | u64::from(self.yes) << 16 | u64::from(self.no) << 24 | u64::from(self.k) << 32
    }
}

// The classes of instructions, in the lowest bits of a code.
const LD: u16 = 0;
const LDX: u16 = 1;
const ST: u16 = 2;
const STX: u16 = 3;
const ALU: u16 = 4;
const JMP: u16 = 5;
const RET: u16 = 6;
const MISC: u16 = 7;
// Where a load takes its value from.
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
// Operations, and whether the other operand is X instead of the constant.
const ADD: u16 = 0x00;
const SUB: u16 = 0x10;
const MUL: u16 = 0x20;
const DIV: u16 = 0x30;
const OR: u16 = 0x40;
const AND: u16 = 0x50;
const LSH: u16 = 0x60;
const RSH: u16 = 0x70;
const NEG: u16 = 0x80;
const XOR: u16 = 0xa0;
const JA: u16 = 0x00;
const JEQ: u16 = 0x10;
const JGT: u16 = 0x20;
const JGE: u16 = 0x30;
const JSET: u16 = 0x40;
const X: u16 = 0x08;
/// RET with the accumulator.
const RET_A: u16 = 0x10;
const TAX: u16 = 0x00;
const TXA: u16 = 0x80;

const LD_IMM: u16 = LD | IMM;
const LD_ABS: u16 = LD | ABS;
const LD_MEM: u16 = LD | MEM;
const LD_LEN: u16 = LD | LEN;
const LDX_IMM: u16 = LDX | IMM;
const LDX_MEM: u16 = LDX | MEM;
const LDX_LEN: u16 = LDX | LEN;

/// Words of memory that a program has.
const WORDS: usize = 16;
/// Instructions that it may have.
const MOST: usize = 4096;

/// A valid program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

/// The program is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

impl Program {
    /// Takes what the kernel would take.
    pub fn new(all: Vec<Instruction>) -> Result<Program, Invalid> {
        if all.is_empty() || all.len() > MOST {
            return Err(Invalid);
        }
        for (at, instruction) in all.iter().enumerate() {
            check(instruction, all.len() - at - 1)?;
        }
        if all.last().is_none_or(|last| last.code & 7 != RET) {
            return Err(Invalid);
        }
        check_memory(&all)?;
        Ok(Program(all))
    }

    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }

    /// What the program answers.
    pub fn run(&self, data: &Data) -> u32 {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; WORDS]);
        let mut at = 0;
        // Jumps go forwards only, so this ends; and the last instruction returns.
        while let Some(instruction) = self.0.get(at) {
            let k = instruction.k;
            at += 1;
            match instruction.code {
                LD_IMM => a = k,
                LD_ABS => a = data.word(k),
                LD_MEM => a = memory[k as usize % WORDS],
                LD_LEN => a = Data::SIZE,
                LDX_IMM => x = k,
                LDX_MEM => x = memory[k as usize % WORDS],
                LDX_LEN => x = Data::SIZE,
                ST => memory[k as usize % WORDS] = a,
                STX => memory[k as usize % WORDS] = x,
                code => {
                    let other = if code & X != 0 { x } else { k };
                    match code & 7 {
                        ALU => match compute(code, a, other) {
                            Some(result) => a = result,
                            // As Linux has it of a division by zero.
                            None => return 0,
                        },
                        JMP => at += jump(instruction, a, other),
                        RET => return if code & 0x18 == RET_A { a } else { k },
                        _ if code == MISC | TAX => x = a,
                        _ => a = x,
                    }
                }
            }
        }
        0
    }
}

fn compute(code: u16, a: u32, other: u32) -> Option<u32> {
    Some(match code & 0xf0 {
        ADD => a.wrapping_add(other),
        SUB => a.wrapping_sub(other),
        MUL => a.wrapping_mul(other),
        DIV => return a.checked_div(other),
        OR => a | other,
        AND => a & other,
        XOR => a ^ other,
        LSH => a.wrapping_shl(other),
        RSH => a.wrapping_shr(other),
        _ => a.wrapping_neg(),
    })
}

fn jump(instruction: &Instruction, a: u32, other: u32) -> usize {
    let taken = match instruction.code & 0xf0 {
        JA => return instruction.k as usize,
        JEQ => a == other,
        JGT => a > other,
        JGE => a >= other,
        _ => a & other != 0,
    };
    usize::from(if taken { instruction.yes } else { instruction.no })
}

/// Whether there is such an instruction, with `behind` others behind it.
fn check(instruction: &Instruction, behind: usize) -> Result<(), Invalid> {
    let Instruction { code, yes, no, k } = *instruction;
    let fine = match code {
        LD_IMM | LD_LEN | LDX_IMM | LDX_LEN => true,
        LD_ABS => k < Data::SIZE && k % 4 == 0,
        LD_MEM | LDX_MEM | ST | STX => (k as usize) < WORDS,
        _ => match code & 7 {
            ALU => match code & !(7 | X) {
                DIV => code & X != 0 || k != 0,
                LSH | RSH => code & X != 0 || k < 32,
                ADD | SUB | MUL | OR | AND | XOR => true,
                NEG => code & X == 0,
                _ => false,
            },
            JMP => match code & !(7 | X) {
                JA => code & X == 0 && (k as usize) < behind,
                JEQ | JGT | JGE | JSET => usize::from(yes) < behind && usize::from(no) < behind,
                _ => false,
            },
            RET => matches!(code & !7, 0 | RET_A),
            MISC => matches!(code & !7, TAX | TXA),
            _ => false,
        },
    };
    if fine { Ok(()) } else { Err(Invalid) }
}

/// Whether nothing is loaded from memory that was not stored there, whatever way the program takes.
fn check_memory(all: &[Instruction]) -> Result<(), Invalid> {
    let mut known_at = vec![u16::MAX; all.len() + 1];
    let mut known = 0u16;
    for (at, instruction) in all.iter().enumerate() {
        known &= known_at[at];
        let mut meet = |ahead: usize| known_at[at + 1 + ahead] &= known;
        match instruction.code {
            ST | STX => known |= 1 << instruction.k,
            LD_MEM | LDX_MEM if known & 1 << instruction.k == 0 => return Err(Invalid),
            code if code & 7 == JMP => {
                if code & 0xf0 == JA {
                    meet(instruction.k as usize);
                } else {
                    meet(instruction.yes.into());
                    meet(instruction.no.into());
                }
                // The next instruction is reached by jumps alone, which have said what they know.
                known = u16::MAX;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
