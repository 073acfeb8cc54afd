//! Picks handlers for the general-purpose instructions.

use super::{flow, gpr_slot};
use crate::by_size;
use crate::core::Mode;
use crate::exec::alu::{self, Adc, Add, And, Cmp, Dec, Form, Inc, Neg, Not, Or, Sbb, Sub, Test, Xor};
use crate::exec::{bits, moves, muldiv, shift, spin, stack};
use crate::op::{Handler, Op, OpFlags};
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

pub fn select(instr: &Instruction, mode: &Mode, op: &mut Op) -> Option<Handler> {
    arithmetic(instr, op)
        .or_else(|| data(instr, op))
        .or_else(|| bit_work(instr, op))
        .or_else(|| flow::select(instr, mode, op))
        .or_else(|| stack_work(instr, mode, op))
        .or_else(|| misc(instr, op))
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// Sorts the two operands of an instruction into a form, and fills registers, immediate and size.
fn two_operands(instr: &Instruction, op: &mut Op) -> Option<Form> {
    let (first, second) = (instr.op0_kind(), instr.op1_kind());
    match (first, second) {
        (OpKind::Register, OpKind::Register) => {
            set_dst(instr.op0_register(), op)?;
            op.src = gpr(instr.op1_register())?;
            Some(Form::RegReg)
        }
        (OpKind::Register, OpKind::Memory) => {
            set_dst(instr.op0_register(), op)?;
            Some(Form::RegMem)
        }
        (OpKind::Memory, OpKind::Register) => {
            let register = instr.op1_register();
            op.src = gpr(register)?;
            op.size = register.size() as u8;
            Some(Form::MemReg)
        }
        (OpKind::Register, kind) if is_immediate(kind) => {
            set_dst(instr.op0_register(), op)?;
            op.imm = instr.immediate(1);
            Some(Form::RegImm)
        }
        (OpKind::Memory, kind) if is_immediate(kind) => {
            op.imm = instr.immediate(1);
            Some(Form::MemImm)
        }
        _ => None,
    }
}

fn gpr(register: Register) -> Option<u8> {
    register.is_gpr().then(|| gpr_slot(register))
}

fn set_dst(register: Register, op: &mut Op) -> Option<()> {
    op.dst = gpr(register)?;
    op.size = register.size() as u8;
    Some(())
}

/// One register or memory operand, which is read and written: `dst` and `size`.
pub(super) fn one_operand(instr: &Instruction, op: &mut Op) -> Option<()> {
    match instr.op0_kind() {
        OpKind::Register => set_dst(instr.op0_register(), op),
        OpKind::Memory => Some(()),
        _ => None,
    }
}

fn arithmetic(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    let two = |op: &mut Op, pick: fn(Form, u8) -> Option<Handler>| {
        let mut form = two_operands(instr, op)?;
        // TEST m, r and TEST r, m are the same instruction, which only reads.
        if form == Form::RegMem && instr.op0_kind() == OpKind::Memory {
            form = Form::MemReg;
        }
        pick(form, op.size)
    };
    match instr.mnemonic() {
        M::Add => two(op, alu::handler::<Add>),
        M::Or => two(op, alu::handler::<Or>),
        M::Adc => two(op, alu::handler::<Adc>),
        M::Sbb => two(op, alu::handler::<Sbb>),
        M::And => two(op, alu::handler::<And>),
        M::Sub => two(op, alu::handler::<Sub>),
        M::Xor => two(op, alu::handler::<Xor>),
        M::Cmp => two(op, alu::handler::<Cmp>),
        M::Test => two(op, alu::handler::<Test>),
        M::Inc => one_operand(instr, op).and_then(|()| alu::unary::<Inc>(op)),
        M::Dec => one_operand(instr, op).and_then(|()| alu::unary::<Dec>(op)),
        M::Neg => one_operand(instr, op).and_then(|()| alu::unary::<Neg>(op)),
        M::Not => one_operand(instr, op).and_then(|()| alu::unary::<Not>(op)),
        M::Shl | M::Sal => shift_of::<shift::Shl>(instr, op),
        M::Shr => shift_of::<shift::Shr>(instr, op),
        M::Sar => shift_of::<shift::Sar>(instr, op),
        M::Rol => shift_of::<shift::Rol>(instr, op),
        M::Ror => shift_of::<shift::Ror>(instr, op),
        M::Rcl => shift_of::<shift::Rcl>(instr, op),
        M::Rcr => shift_of::<shift::Rcr>(instr, op),
        M::Shld => double_shift::<true>(instr, op),
        M::Shrd => double_shift::<false>(instr, op),
        M::Mul | M::Div | M::Idiv => one_factor(instr, op),
        M::Imul => multiply(instr, op),
        _ => None,
    }
}

fn shift_of<S: shift::Shift>(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    one_operand(instr, op)?;
    let by_cl = instr.op1_kind() == OpKind::Register;
    if !by_cl {
        op.imm = instr.immediate(1);
    }
    shift::handler::<S>(op, by_cl)
}

fn double_shift<const LEFT: bool>(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    use shift::{double_mem, double_reg};
    one_operand(instr, op)?;
    op.src = gpr(instr.op1_register())?;
    op.size = instr.op1_register().size() as u8;
    op.imm = if instr.op2_kind() == OpKind::Register {
        u64::MAX
    } else {
        instr.immediate(2)
    };
    let memory = op.flags.has(OpFlags::MEMORY);
    Some(match (op.size, memory) {
        (4, false) => double_reg::<u32, LEFT>,
        (8, false) => double_reg::<u64, LEFT>,
        (4, true) => double_mem::<u32, LEFT>,
        (8, true) => double_mem::<u64, LEFT>,
        // By more than 16 bits, 16-bit operands take a value that differs between processors: the host's.
        _ => return None,
    })
}

fn one_factor(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    use muldiv::{div, idiv, imul, mul};
    one_operand(instr, op)?;
    op.src = op.dst;
    match instr.mnemonic() {
        M::Mul => by_size!(op.size, mul),
        M::Div => by_size!(op.size, div),
        M::Idiv => by_size!(op.size, idiv),
        _ => by_size!(op.size, imul),
    }
}

fn multiply(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    use muldiv::{imul2, imul3};
    if instr.op_count() == 1 {
        return one_factor(instr, op);
    }
    two_operands(instr, op)?;
    if instr.op_count() == 3 {
        op.imm = instr.immediate(2);
        return by_size!(op.size, imul3);
    }
    by_size!(op.size, imul2)
}

fn data(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    use moves::*;
    match instr.mnemonic() {
        M::Mov => {
            let form = two_operands(instr, op)?;
            moves::mov(form, op.size)
        }
        M::Movnti => two_operands(instr, op).and_then(|form| moves::mov(form, op.size)),
        M::Movzx => extension::<false>(instr, op),
        M::Movsx | M::Movsxd => extension::<true>(instr, op),
        M::Lea => {
            set_dst(instr.op0_register(), op)?;
            by_size!(op.size, lea)
        }
        M::Xchg => match two_operands(instr, op)? {
            Form::RegReg => by_size!(op.size, xchg_reg),
            Form::MemReg => by_size!(op.size, xchg_mem),
            _ => {
                op.src = op.dst;
                by_size!(op.size, xchg_mem)
            }
        },
        M::Xadd => match two_operands(instr, op)? {
            Form::RegReg => by_size!(op.size, xadd_reg),
            _ => by_size!(op.size, xadd_mem),
        },
        M::Cmpxchg => match two_operands(instr, op)? {
            Form::RegReg => by_size!(op.size, cmpxchg_reg),
            _ => by_size!(op.size, cmpxchg_mem),
        },
        M::Cmpxchg8b => Some(cmpxchg8b),
        M::Cmpxchg16b => Some(cmpxchg16b),
        M::Bswap => {
            set_dst(instr.op0_register(), op)?;
            by_size!(op.size, bswap)
        }
        M::Movbe => match two_operands(instr, op)? {
            Form::RegMem => by_size!(op.size, movbe_load),
            _ => by_size!(op.size, movbe_store),
        },
        _ => conditional(instr, op),
    }
}

fn extension<const SIGNED: bool>(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    use moves::{extend_mem, extend_reg};
    let memory = op.flags.has(OpFlags::MEMORY);
    let source = if memory {
        instr.memory_size().size()
    } else {
        instr.op1_register().size()
    };
    op.dst = gpr(instr.op0_register())?;
    op.size = instr.op0_register().size() as u8;
    if !memory {
        op.src = gpr(instr.op1_register())?;
    }
    Some(match (source, memory) {
        (1, false) => extend_reg::<u8, SIGNED>,
        (2, false) => extend_reg::<u16, SIGNED>,
        (4, false) => extend_reg::<u32, SIGNED>,
        (1, true) => extend_mem::<u8, SIGNED>,
        (2, true) => extend_mem::<u16, SIGNED>,
        (4, true) => extend_mem::<u32, SIGNED>,
        _ => return None,
    })
}

/// The condition's number in the opcode; iced counts its conditions from one, in the same order.
pub(super) fn condition_number(instr: &Instruction) -> Option<u64> {
    use iced_x86::ConditionCode as C;
    Some(match instr.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        C::g => 15,
        C::None => return None,
    })
}

/// CMOVcc and SETcc.
fn conditional(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    use moves::{cmov_mem, cmov_reg, setcc_mem, setcc_reg};
    if is_setcc(instr.mnemonic()) {
        op.imm = condition_number(instr)?;
        one_operand(instr, op)?;
        return Some(if op.flags.has(OpFlags::MEMORY) {
            setcc_mem
        } else {
            setcc_reg
        });
    }
    if is_cmov(instr.mnemonic()) {
        op.imm = condition_number(instr)?;
        return match two_operands_keep(instr, op)? {
            Form::RegReg => by_size!(op.size, cmov_reg),
            _ => by_size!(op.size, cmov_mem),
        };
    }
    None
}

/// [`two_operands`] for instructions whose `imm` is already in use.
fn two_operands_keep(instr: &Instruction, op: &mut Op) -> Option<Form> {
    let imm = op.imm;
    let form = two_operands(instr, op);
    op.imm = imm;
    form
}

fn is_setcc(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Seto
            | M::Setno
            | M::Setb
            | M::Setae
            | M::Sete
            | M::Setne
            | M::Setbe
            | M::Seta
            | M::Sets
            | M::Setns
            | M::Setp
            | M::Setnp
            | M::Setl
            | M::Setge
            | M::Setle
            | M::Setg
    )
}

fn is_cmov(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Cmovo
            | M::Cmovno
            | M::Cmovb
            | M::Cmovae
            | M::Cmove
            | M::Cmovne
            | M::Cmovbe
            | M::Cmova
            | M::Cmovs
            | M::Cmovns
            | M::Cmovp
            | M::Cmovnp
            | M::Cmovl
            | M::Cmovge
            | M::Cmovle
            | M::Cmovg
    )
}

fn bit_work(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    use bits::{count_zeros, popcnt, scan};
    match instr.mnemonic() {
        M::Bt => bit_test::<{ bits::KEEP }>(instr, op),
        M::Bts => bit_test::<{ bits::SET }>(instr, op),
        M::Btr => bit_test::<{ bits::RESET }>(instr, op),
        M::Btc => bit_test::<{ bits::COMPLEMENT }>(instr, op),
        M::Bsf | M::Bsr | M::Tzcnt | M::Lzcnt | M::Popcnt => {
            two_operands(instr, op)?;
            match (instr.mnemonic(), op.size) {
                (M::Bsf, 2) => Some(scan::<u16, false>),
                (M::Bsf, 4) => Some(scan::<u32, false>),
                (M::Bsf, _) => Some(scan::<u64, false>),
                (M::Bsr, 2) => Some(scan::<u16, true>),
                (M::Bsr, 4) => Some(scan::<u32, true>),
                (M::Bsr, _) => Some(scan::<u64, true>),
                (M::Tzcnt, 2) => Some(count_zeros::<u16, false>),
                (M::Tzcnt, 4) => Some(count_zeros::<u32, false>),
                (M::Tzcnt, _) => Some(count_zeros::<u64, false>),
                (M::Lzcnt, 2) => Some(count_zeros::<u16, true>),
                (M::Lzcnt, 4) => Some(count_zeros::<u32, true>),
                (M::Lzcnt, _) => Some(count_zeros::<u64, true>),
                (_, size) => by_size!(size, popcnt),
            }
        }
        _ => None,
    }
}

fn bit_test<const KIND: u8>(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    use bits::{test_mem, test_reg};
    let form = two_operands(instr, op)?;
    if matches!(form, Form::RegImm | Form::MemImm) {
        op.src = 0xff;
    }
    Some(match (op.size, op.flags.has(OpFlags::MEMORY)) {
        (2, false) => test_reg::<u16, KIND>,
        (4, false) => test_reg::<u32, KIND>,
        (8, false) => test_reg::<u64, KIND>,
        (2, true) => test_mem::<u16, KIND>,
        (4, true) => test_mem::<u32, KIND>,
        (8, true) => test_mem::<u64, KIND>,
        _ => return None,
    })
}

fn stack_work(instr: &Instruction, mode: &Mode, op: &mut Op) -> Option<Handler> {
    let width = instr.stack_pointer_increment().unsigned_abs() as u8;
    match instr.mnemonic() {
        M::Push => {
            op.size = width;
            match instr.op0_kind() {
                OpKind::Memory => Some(stack::push_mem),
                OpKind::Register if instr.op0_register().is_segment_register() => {
                    op.dst = super::segment_slot(instr.op0_register());
                    Some(stack::push_seg)
                }
                OpKind::Register => {
                    op.dst = gpr(instr.op0_register())?;
                    Some(stack::push_reg)
                }
                _ => {
                    op.imm = instr.immediate(0);
                    Some(stack::push_imm)
                }
            }
        }
        M::Pop => {
            op.size = width;
            match instr.op0_kind() {
                OpKind::Memory => Some(stack::pop_mem),
                OpKind::Register if instr.op0_register().is_segment_register() => None,
                _ => {
                    op.dst = gpr(instr.op0_register())?;
                    Some(stack::pop_reg)
                }
            }
        }
        M::Pusha | M::Pushad => {
            op.size = width / 8;
            Some(stack::pusha)
        }
        M::Popa | M::Popad => {
            op.size = width / 8;
            Some(stack::popa)
        }
        M::Enter => {
            op.imm = instr.immediate(0) & 0xffff;
            op.src = instr.immediate(1) as u8;
            op.size = match instr.code() {
                iced_x86::Code::Enterw_imm16_imm8 => 2,
                iced_x86::Code::Enterd_imm16_imm8 => 4,
                _ => mode.code_bits / 8,
            };
            Some(stack::enter)
        }
        M::Leave => {
            op.size = match instr.code() {
                iced_x86::Code::Leavew => 2,
                iced_x86::Code::Leaved => 4,
                _ => 8,
            };
            Some(stack::leave)
        }
        _ => None,
    }
}

fn misc(instr: &Instruction, op: &mut Op) -> Option<Handler> {
    use moves::spread_sign;
    let with = |op: &mut Op, imm: u64, handler: Handler| {
        op.imm = imm;
        Some(handler)
    };
    let sized = |op: &mut Op, size: u8, handler: Handler| {
        op.size = size;
        Some(handler)
    };
    match instr.mnemonic() {
        M::Cbw => sized(op, 2, moves::extend_accumulator),
        M::Cwde => sized(op, 4, moves::extend_accumulator),
        M::Cdqe => sized(op, 8, moves::extend_accumulator),
        M::Cwd => Some(spread_sign::<u16>),
        M::Cdq => Some(spread_sign::<u32>),
        M::Cqo => Some(spread_sign::<u64>),
        M::Lahf => Some(moves::lahf),
        M::Sahf => Some(moves::sahf),
        M::Clc => with(op, 0, moves::carry),
        M::Stc => with(op, 1, moves::carry),
        M::Cmc => with(op, 2, moves::carry),
        M::Cld => Some(moves::cld),
        M::Std => Some(moves::std),
        M::Nop => Some(moves::nop),
        M::Pause => Some(spin::pause),
        M::Wait => Some(crate::exec::native::wait),
        M::Xlatb => {
            op.seg = super::segment_slot(instr.memory_segment());
            op.address_size = instr.memory_base().size() as u8;
            Some(moves::xlat)
        }
        M::Aam => with(op, instr.immediate(0), muldiv::aam),
        M::Aad => with(op, instr.immediate(0), muldiv::aad),
        M::Aaa => with(op, 0, muldiv::ascii_adjust),
        M::Aas => with(op, 1, muldiv::ascii_adjust),
        M::Daa => with(op, 0, muldiv::decimal_adjust),
        M::Das => with(op, 1, muldiv::decimal_adjust),
        M::Salc => Some(muldiv::salc),
        _ => None,
    }
}
