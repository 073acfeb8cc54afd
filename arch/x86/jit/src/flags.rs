//! Where the guest's arithmetic flags are: in the host's, aside in memory, or nowhere, but to be had again by executing
//! once more what made them.

use crate::context::{VALUE, home};
use crate::emit::{Emitter, R13, R14, Reg};
use crate::registers::is_high_byte;
use crate::stubs;
use iced_x86::{Code, IcedError, Instruction, MemoryOperand, Mnemonic, OpKind, Register, RflagsBits};

pub const ARITHMETIC: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// The places that hold them between two instructions; at least one does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Places {
    pub host: bool,
    /// The host's are right but for CF.
    pub all_but_carry: bool,
    pub aside: bool,
    pub maker: Option<Maker>,
}

/// Whether R14 may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scratch {
    Free,
    Taken,
}

/// How to have the host's flags made again, by registers that still hold what it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Maker {
    /// The same instruction, which changes nothing else.
    Again(Instruction),
    /// A logical operation, whose result is in the register.
    Logic(Register),
    /// An addition or subtraction, whose result is in the register, or `moved` less than what is there.
    Sum {
        register: Register,
        other: Other,
        subtracts: bool,
        moved: i32,
    },
    /// The instruction, its first operand R14, on what [`VALUE`] holds.
    OnValue(Instruction),
    /// INC or DEC, whose result is in the register; CF is that of the flags that are or were aside.
    Step { register: Register, up: bool },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Other {
    Constant(i32),
    Register(Register),
}

impl Places {
    /// Lost, which is right only if nobody needs them.
    pub const NOWHERE: Places = Places {
        host: false,
        all_but_carry: false,
        aside: false,
        maker: None,
    };

    /// Has them in the host's. R14 must be free if only a maker that needs it has them.
    pub fn need_host(&mut self, e: &mut Emitter, scratch: Scratch) -> Result<(), IcedError> {
        if self.host {
            return Ok(());
        }
        match (self.maker, scratch) {
            (Some(maker), _) if !(self.aside && maker.needs_scratch()) => maker.make(e)?,
            (_, Scratch::Free) => stubs::restore_flags(e),
            (_, Scratch::Taken) => stubs::restore_flags_around(e),
        }
        self.host = true;
        Ok(())
    }

    /// Whether CF can be taken from aside.
    pub fn carry_is_aside(&self) -> bool {
        self.aside || matches!(self.maker, Some(Maker::Step { .. }))
    }

    /// Has them aside; R14 is free for it.
    pub fn need_aside(&mut self, e: &mut Emitter) -> Result<(), IcedError> {
        if !self.aside {
            self.need_host(e, Scratch::Free)?;
            stubs::save_flags(e);
            self.aside = true;
        }
        Ok(())
    }

    /// The host's flags are about to change, and the guest's are not; R14 is free.
    pub fn clobber(&mut self, e: &mut Emitter) -> Result<(), IcedError> {
        if self.maker.is_none() {
            self.need_aside(e)?;
        }
        self.host = false;
        self.all_but_carry = false;
        Ok(())
    }
}

impl Maker {
    /// The maker of what a host instruction without scratch registers leaves.
    pub fn of(instr: &Instruction) -> Option<Maker> {
        let plain = |k| is_plain_operand(instr, k);
        let stays = |k: u32| plain(k) || instr.op_kind(k) == OpKind::Memory && is_home(instr);
        let register = instr.op0_register();
        match instr.mnemonic() {
            Mnemonic::Cmp | Mnemonic::Test if stays(0) && stays(1) => Some(Maker::Again(*instr)),
            Mnemonic::And | Mnemonic::Or | Mnemonic::Xor if plain(0) => {
                (instr.op0_kind() == OpKind::Register).then_some(Maker::Logic(register))
            }
            Mnemonic::Add | Mnemonic::Sub if plain(0) && plain(1) && register.size() >= 4 => {
                let other = match instr.op1_kind() {
                    OpKind::Register if instr.op1_register() != register => {
                        Other::Register(instr.op1_register())
                    }
                    OpKind::Register => return None,
                    _ => Other::Constant(
                        i32::try_from(instr.immediate(1) as i64)
                            .ok()
                            .or_else(|| (register.size() == 4).then_some(instr.immediate(1) as u32 as i32))?,
                    ),
                };
                Some(Maker::Sum {
                    register,
                    other,
                    subtracts: instr.mnemonic() == Mnemonic::Sub,
                    moved: 0,
                })
            }
            _ => None,
        }
    }

    pub fn needs_scratch(&self) -> bool {
        matches!(self, Maker::Sum { .. } | Maker::OnValue(_) | Maker::Step { .. })
    }

    /// Whether it takes what is in this register.
    pub fn uses(&self, host: Reg) -> bool {
        let is = |register: Register| {
            register.is_gpr() && register.full_register().number() == usize::from(host.0)
        };
        match self {
            Maker::Again(instr) | Maker::OnValue(instr) => (0..instr.op_count())
                .any(|k| instr.op_kind(k) == OpKind::Register && is(instr.op_register(k))),
            Maker::Logic(register) | Maker::Step { register, .. } => is(*register),
            Maker::Sum { register, other, .. } => {
                is(*register) || matches!(other, Other::Register(other) if is(*other))
            }
        }
    }

    /// Whether it takes what is in the home of a displaced guest register.
    pub fn uses_home(&self, guest: usize) -> bool {
        matches!(self, Maker::Again(instr) if is_home(instr)
            && instr.memory_displacement64() == home(Reg(guest as u8)) as u64)
    }

    /// The same after R13 moved by so much, if it can do with that.
    pub fn moved(self, by: i32) -> Option<Maker> {
        match self {
            Maker::Sum {
                register: Register::R13,
                other: other @ Other::Constant(_),
                subtracts,
                moved,
            } => Some(Maker::Sum {
                register: Register::R13,
                other,
                subtracts,
                moved: moved.checked_add(by)?,
            }),
            other => (!other.uses(R13)).then_some(other),
        }
    }

    /// Changes R14 if it needs it.
    fn make(&self, e: &mut Emitter) -> Result<(), IcedError> {
        match *self {
            Maker::Again(instr) => e.instruction(&instr),
            Maker::Logic(register) => {
                let code = match register.size() {
                    8 => Code::Test_rm64_r64,
                    4 => Code::Test_rm32_r32,
                    2 => Code::Test_rm16_r16,
                    _ => Code::Test_rm8_r8,
                };
                e.instruction(&Instruction::with2(code, register, register)?)
            }
            Maker::Sum {
                register,
                other,
                subtracts,
                moved,
            } => make_sum(e, register, other, subtracts, moved),
            Maker::OnValue(instr) => {
                e.load(R14, VALUE);
                e.instruction(&instr)
            }
            Maker::Step { register, up } => {
                stubs::restore_flags(e);
                let wide = register.size() == 8;
                let scratch = if wide { Register::R14 } else { Register::R14D };
                let before =
                    MemoryOperand::with_base_displ(register.full_register(), if up { -1 } else { 1 });
                let lea = if wide { Code::Lea_r64_m } else { Code::Lea_r32_m };
                let step = match (wide, up) {
                    (true, true) => Code::Inc_rm64,
                    (true, false) => Code::Dec_rm64,
                    (false, true) => Code::Inc_rm32,
                    (false, false) => Code::Dec_rm32,
                };
                e.instruction(&Instruction::with2(lea, scratch, before)?)?;
                e.instruction(&Instruction::with1(step, scratch)?)
            }
        }
    }

    /// INC or DEC of a register.
    pub fn step(instr: &Instruction) -> Option<Maker> {
        let register = instr.op0_register();
        let counts = matches!(instr.mnemonic(), Mnemonic::Inc | Mnemonic::Dec)
            && instr.op0_kind() == OpKind::Register
            && register.size() >= 4;
        counts.then_some(Maker::Step {
            register,
            up: instr.mnemonic() == Mnemonic::Inc,
        })
    }

    /// What an instruction without memory operand is on R14, if its first operand can be kept in [`VALUE`].
    pub fn on_value(instr: &Instruction) -> Option<Instruction> {
        let register = instr.op0_register();
        let last = instr.op_count().checked_sub(1)?;
        let by_constant = instr.op_kind(last) != OpKind::Register;
        let known = match instr.mnemonic() {
            Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar => by_constant,
            Mnemonic::Neg => true,
            Mnemonic::Imul => instr.op_count() == 2,
            _ => false,
        };
        let plain = (0..instr.op_count()).all(|k| is_plain_operand(instr, k));
        let again =
            last == 0 || instr.op_kind(last) != OpKind::Register || instr.op_register(last) != register;
        if !known || !plain || !again || Use::of(instr) != Use::Writes {
            return None;
        }
        let mut instr = *instr;
        instr.set_op0_register(scratch_of(register.size()));
        Some(instr)
    }
}

/// R14 of that width.
pub fn scratch_of(size: usize) -> Register {
    match size {
        8 => Register::R14,
        4 => Register::R14D,
        2 => Register::R14W,
        _ => Register::R14L,
    }
}

/// Undoes the operation in R14, and does it there again.
fn make_sum(
    e: &mut Emitter,
    register: Register,
    other: Other,
    subtracts: bool,
    moved: i32,
) -> Result<(), IcedError> {
    let wide = register.size() == 8;
    let scratch = if wide { Register::R14 } else { Register::R14D };
    let (add_imm, sub_imm) = if wide {
        (Code::Add_rm64_imm32, Code::Sub_rm64_imm32)
    } else {
        (Code::Add_rm32_imm32, Code::Sub_rm32_imm32)
    };
    let (add, sub) = if wide {
        (Code::Add_rm64_r64, Code::Sub_rm64_r64)
    } else {
        (Code::Add_rm32_r32, Code::Sub_rm32_r32)
    };
    match other {
        Other::Constant(value) => {
            let mut back = if subtracts {
                i64::from(value)
            } else {
                -i64::from(value)
            } - i64::from(moved);
            let mut from = register.full_register();
            // The way back may be longer than a displacement.
            while back != 0 || from != Register::R14 {
                let part = back.clamp(i32::MIN.into(), i32::MAX.into());
                back -= part;
                e.instruction(&Instruction::with2(
                    if wide { Code::Lea_r64_m } else { Code::Lea_r32_m },
                    scratch,
                    MemoryOperand::with_base_displ_size(from, part, 8),
                )?)?;
                from = Register::R14;
            }
            e.instruction(&Instruction::with2(
                if subtracts { sub_imm } else { add_imm },
                scratch,
                value,
            )?)
        }
        Other::Register(other) => {
            e.mov(R14, Reg(register.full_register().number() as u8));
            let (undo, redo) = if subtracts { (add, sub) } else { (sub, add) };
            e.instruction(&Instruction::with2(undo, scratch, other)?)?;
            e.instruction(&Instruction::with2(redo, scratch, other)?)
        }
    }
}

/// Whether the memory operand is the home of a register.
fn is_home(instr: &Instruction) -> bool {
    instr.segment_prefix() == Register::GS
        && instr.memory_base() == Register::None
        && instr.memory_index() == Register::None
}

/// A general register, but not AH or its kin.
fn is_plain(register: Register) -> bool {
    register.is_gpr() && !is_high_byte(register)
}

/// A constant, or such a register.
fn is_plain_operand(instr: &Instruction, k: u32) -> bool {
    match instr.op_kind(k) {
        OpKind::Register => is_plain(instr.op_register(k)),
        OpKind::Memory => false,
        _ => true,
    }
}

/// What an instruction does with the flags it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Neither reads nor writes any.
    None,
    /// Writes all, whatever they were.
    Writes,
    /// Needs what they are.
    Needs,
}

impl Use {
    pub fn of(instr: &Instruction) -> Use {
        let written = instr.rflags_modified() & ARITHMETIC;
        if instr.rflags_read() & ARITHMETIC != 0 || written != 0 && written_surely(instr) != ARITHMETIC {
            Use::Needs
        } else if written != 0 {
            Use::Writes
        } else {
            Use::None
        }
    }
}

/// The flags that the instruction writes whatever its operands are.
fn written_surely(instr: &Instruction) -> u32 {
    if instr.has_rep_prefix() || instr.has_repne_prefix() {
        return 0;
    }
    // A count of zero changes nothing.
    let counted = matches!(
        instr.mnemonic(),
        Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
            | Mnemonic::Shld
            | Mnemonic::Shrd
    );
    if counted {
        let last = instr.op_count() - 1;
        let by_register = instr.op_kind(last) == OpKind::Register && instr.op_register(last) == Register::CL;
        if by_register || instr.immediate8() & 0x1f == 0 {
            return 0;
        }
    }
    instr.rflags_modified() & ARITHMETIC
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn one(code: &[u8]) -> Instruction {
        Decoder::new(64, code, DecoderOptions::NONE).decode()
    }

    #[test]
    fn uses_of_flags() {
        // adc rax, rcx; inc rax; cmp rax, rcx; mov rax, [rbx]; shl rax, cl; shl rax, 3; shl rax, 0; shl rax, 1
        assert_eq!(Use::of(&one(&[0x48, 0x11, 0xc8])), Use::Needs);
        assert_eq!(Use::of(&one(&[0x48, 0xff, 0xc0])), Use::Needs);
        assert_eq!(Use::of(&one(&[0x48, 0x39, 0xc8])), Use::Writes);
        assert_eq!(Use::of(&one(&[0x48, 0x8b, 0x03])), Use::None);
        assert_eq!(Use::of(&one(&[0x48, 0xd3, 0xe0])), Use::Needs);
        assert_eq!(Use::of(&one(&[0x48, 0xc1, 0xe0, 0x03])), Use::Writes);
        assert_eq!(Use::of(&one(&[0x48, 0xc1, 0xe0, 0x00])), Use::None);
        assert_eq!(Use::of(&one(&[0x48, 0xd1, 0xe0])), Use::Writes);
    }

    #[test]
    fn a_sum_is_made_again_after_its_register_moved() {
        // add r13, 18h
        let maker = Maker::of(&one(&[0x49, 0x83, 0xc5, 0x18])).and_then(|maker| maker.moved(8));
        let mut e = Emitter::new(0);
        maker.expect("a maker").make(&mut e).expect("encodes");
        // lea r14, [r13 - 20h]; add r14, 18h
        let expected = [
            0x4d, 0x8d, 0xb5, 0xe0, 0xff, 0xff, 0xff, 0x49, 0x81, 0xc6, 0x18, 0, 0, 0,
        ];
        assert_eq!(e.bytes, expected);
    }

    #[test]
    fn what_overwrites_its_operand_is_not_done_again() {
        // add rax, rax; add rax, [rbx]; shl rax, 3
        for code in [
            &[0x48, 0x01, 0xc0][..],
            &[0x48, 0x03, 0x03],
            &[0x48, 0xc1, 0xe0, 0x03],
        ] {
            assert_eq!(Maker::of(&one(code)), None);
        }
    }
}
