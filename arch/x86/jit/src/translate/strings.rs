//! MOVS and STOS, upwards and within a page, with and without REP. The rest is the interpreter's.

use super::system::SYSTEM_FLAGS;
use super::{Emitted, Touch, Translator};
use crate::context::{STRING_END, home};
use crate::emit::{A, NE, R14, R15, RCX, RDI, RSI, Reg, Width};
use crate::registers;
use crate::stubs;
use iced_x86::{Code, Instruction, OpKind};
use ring3_x86_cpu::mmu::Entry;
use ring3_x86_cpu::state::flags;
use std::mem::offset_of;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Moves,
    Stores,
}

/// What an instruction does, and the size of its elements.
fn kind(instr: &Instruction) -> Option<(Kind, u8)> {
    let known = match instr.code() {
        Code::Movsb_m8_m8 => (Kind::Moves, 1),
        Code::Movsw_m16_m16 => (Kind::Moves, 2),
        Code::Movsd_m32_m32 => (Kind::Moves, 4),
        Code::Movsq_m64_m64 => (Kind::Moves, 8),
        Code::Stosb_m8_AL => (Kind::Stores, 1),
        Code::Stosw_m16_AX => (Kind::Stores, 2),
        Code::Stosd_m32_EAX => (Kind::Stores, 4),
        Code::Stosq_m64_RAX => (Kind::Stores, 8),
        _ => return None,
    };
    let (destination, source) = match registers::width(instr) {
        Width::Four => (OpKind::MemoryESEDI, OpKind::MemorySegESI),
        Width::Eight => (OpKind::MemoryESRDI, OpKind::MemorySegRSI),
    };
    let plain = instr.op0_kind() == destination
        && (instr.op1_kind() == OpKind::Register || instr.op1_kind() == source)
        && registers::is_in_flat_segment(instr)
        && !instr.has_repne_prefix();
    plain.then_some(known)
}

impl Translator<'_> {
    /// Translates what is here; `None` for anything else.
    pub(super) fn string(&mut self, instr: &Instruction) -> Option<Emitted> {
        let (kind, size) = kind(instr)?;
        self.lose_r15();
        Some(if instr.has_rep_prefix() {
            self.repeated(kind, size)
        } else {
            self.single(kind, size)
        })
    }

    /// Leaves the instruction to its slow way if it goes downwards.
    fn check_direction(&mut self) -> Emitted {
        self.before_lookup()?;
        // test dword ptr gs:[system flags], DF
        let df = (flags::DF as u32).to_le_bytes();
        self.e.on_gs(&[0xf7], 0, SYSTEM_FLAGS, &df);
        let down = self.e.jump_if(NE);
        self.trouble.missed.push(down);
        Ok(())
    }

    fn single(&mut self, kind: Kind, size: u8) -> Emitted {
        self.check_direction()?;
        if kind == Kind::Moves {
            self.e.mov(R15, RSI);
            self.look_up(size.into(), Touch::Read)?;
            self.join();
            self.may_fault();
            self.narrow(size, 0x8a, R14);
            self.e.store(STRING_END, R14);
        }
        self.e.mov(R15, RDI);
        self.look_up(size.into(), Touch::Write)?;
        self.join();
        let value = match kind {
            Kind::Moves => {
                self.e.load(R14, STRING_END);
                R14
            }
            Kind::Stores => Reg(0),
        };
        self.may_fault();
        self.narrow(size, 0x88, value);
        let width = self.source.width;
        self.e.lea_as(width, RDI, RDI, size.into());
        if kind == Kind::Moves {
            self.e.lea_as(width, RSI, RSI, size.into());
        }
        Ok(())
    }

    /// A move between `reg` and the `size` bytes at [r15], of the byte form's opcode.
    fn narrow(&mut self, size: u8, opcode: u8, reg: Reg) {
        if size == 2 {
            self.e.raw(&[0x66]);
        }
        let rex = 0x41 | u8::from(size == 8) << 3 | reg.0 >> 3 << 2;
        let opcode = opcode | u8::from(size != 1);
        self.e.raw(&[rex, opcode, (reg.0 & 7) << 3 | 7]);
    }

    fn repeated(&mut self, kind: Kind, size: u8) -> Emitted {
        self.check_direction()?;
        self.e.compare_constant(RCX, 4096 / i32::from(size));
        let long = self.e.jump_if(A);
        self.trouble.missed.push(long);
        self.end_of(RDI, size, Touch::Write);
        if kind == Kind::Moves {
            self.e.store(STRING_END, R15);
            self.end_of(RSI, size, Touch::Read);
        }
        // Where the guest's registers will be is kept at their homes; the host's go over memory meanwhile.
        let (e, width) = (&mut self.e, self.source.width);
        e.lea_scaled_as(width, R14, RDI, RCX, size);
        e.store(home(RDI), R14);
        if kind == Kind::Moves {
            e.lea_scaled_as(width, R14, RSI, RCX, size);
            e.store(home(RSI), R14);
        }
        e.mov(R14, RCX);
        // neg r14
        e.raw(&[0x49, 0xf7, 0xde]);
        if kind == Kind::Moves {
            e.lea_scaled(RSI, R15, R14, size);
            e.load(R15, STRING_END);
        }
        e.lea_scaled(RDI, R15, R14, size);
        self.trouble.repeats = Some((self.e.here(), size, kind == Kind::Moves));
        self.repeat(kind, size);
        self.e.load(RDI, home(RDI));
        if kind == Kind::Moves {
            self.e.load(RSI, home(RSI));
        }
        Ok(())
    }

    /// The instruction itself, without what prefixes it may have besides.
    fn repeat(&mut self, kind: Kind, size: u8) {
        let opcode = match kind {
            Kind::Moves => 0xa4,
            Kind::Stores => 0xaa,
        };
        match size {
            1 => self.e.raw(&[0xf3, opcode]),
            2 => self.e.raw(&[0x66, 0xf3, opcode + 1]),
            4 => self.e.raw(&[0xf3, opcode + 1]),
            _ => self.e.raw(&[0xf3, 0x48, opcode + 1]),
        }
    }

    /// R15 = the host address of the end of RCX elements at `register`, all in one page.
    fn end_of(&mut self, register: Reg, size: u8, touch: Touch) {
        let e = &mut self.e;
        e.mov(R15, register);
        stubs::find_page(e, touch);
        e.compare_constant(R15, 4095);
        let elsewhere = e.jump_if(A);
        e.lea_scaled(R15, R15, RCX, size);
        e.compare_constant(R15, 4096);
        let beyond = e.jump_if(A);
        e.load_at(R14, R14, offset_of!(Entry, page) as i32);
        self.trouble.missed.extend([elsewhere, beyond]);
        self.join();
    }

    /// Out of line: memory vanished under a repeated instruction. What is left of it has its slow way.
    pub(super) fn write_interrupted(&mut self, size: u8, moves: bool) {
        let (e, width) = (&mut self.e, self.source.width);
        e.mov(R14, RCX);
        // neg r14
        e.raw(&[0x49, 0xf7, 0xde]);
        e.load(RDI, home(RDI));
        e.lea_scaled_as(width, RDI, RDI, R14, size);
        if moves {
            e.load(RSI, home(RSI));
            e.lea_scaled_as(width, RSI, RSI, R14, size);
        }
    }
}
