//! The stack and near branches.

use super::{Emitted, NotHere, Touch, Translator};
use crate::context::{JUMPS_AT, MASK, SAVED_RCX, TARGET, home};
use crate::emit::{R13, R14, R15, RBP, RCX, Reg};
use iced_x86::{Code, Instruction, OpKind, Register};

/// Whether a branch stays in its segment.
pub(super) fn is_near(instr: &Instruction) -> bool {
    instr.is_jcc_short_or_near()
        || instr.is_jmp_short_or_near()
        || instr.is_call_near()
        || instr.is_call_near_indirect()
        || instr.is_jmp_near_indirect()
        || instr.is_loopcc()
        || instr.is_loop()
        || instr.is_jcx_short()
        || matches!(instr.code(), Code::Retnq | Code::Retnq_imm16)
}

fn number(reg: Register) -> u8 {
    reg.full_register().number() as u8
}

impl Translator<'_> {
    /// Translates what is here; `None` for anything else.
    pub(super) fn flow(&mut self, instr: &Instruction) -> Option<Emitted> {
        Some(match instr.code() {
            Code::Push_r64 => self.push(number(instr.op0_register())),
            Code::Pushq_imm8 | Code::Pushd_imm32 | Code::Pushq_imm32 => {
                let value = if instr.op0_kind() == OpKind::Immediate8to64 {
                    instr.immediate8to64()
                } else {
                    instr.immediate32to64()
                };
                self.push_constant(value as u64)
            }
            Code::Pop_r64 => self.pop(number(instr.op0_register())),
            Code::Leaveq => self.leave(),
            Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => {
                self.go(instr.near_branch64());
                Ok(())
            }
            Code::Call_rel32_64 => self.call(instr),
            Code::Call_rm64 => self.call_indirect(instr),
            Code::Jmp_rm64 => self.jump_indirect(instr),
            Code::Retnq => self.ret(0),
            Code::Retnq_imm16 => self.ret(instr.immediate16()),
            _ if instr.is_jcc_short_or_near() => self.jcc(instr),
            _ => return None,
        })
    }

    /// Brings the eight bytes below the stack's top within reach of R15, for a store.
    fn below_top(&mut self) -> Result<i32, NotHere> {
        self.reach_from_r15(Touch::Write, |t| {
            t.e.lea(R15, R13, -8);
            Ok(())
        })
    }

    /// The like of the eight bytes that a register points to, for a load.
    fn pointed_to(&mut self, host: Reg) -> Result<i32, NotHere> {
        self.reach_from_r15(Touch::Read, |t| {
            t.e.mov(R15, host);
            Ok(())
        })
    }

    fn push(&mut self, guest: u8) -> Emitted {
        let offset = self.below_top()?;
        let host = match guest {
            4 => R13,
            13.. => {
                self.e.load(R14, home(Reg(guest)));
                R14
            }
            _ => Reg(guest),
        };
        self.may_fault();
        self.e.store_at(R15, offset, host);
        self.e.lea(R13, R13, -8);
        Ok(())
    }

    fn push_constant(&mut self, value: u64) -> Emitted {
        let offset = self.below_top()?;
        match i32::try_from(value as i64) {
            Ok(value) => {
                self.may_fault();
                self.e.store_constant_at(R15, offset, value);
            }
            Err(_) => {
                self.e.constant(R14, value);
                self.may_fault();
                self.e.store_at(R15, offset, R14);
            }
        }
        self.e.lea(R13, R13, -8);
        Ok(())
    }

    fn pop(&mut self, guest: u8) -> Emitted {
        let offset = self.pointed_to(R13)?;
        self.may_fault();
        match guest {
            4 => self.e.load_at(R13, R15, offset),
            13.. => {
                self.e.load_at(R14, R15, offset);
                self.e.store(home(Reg(guest)), R14);
                self.e.lea(R13, R13, 8);
            }
            _ => {
                self.e.load_at(Reg(guest), R15, offset);
                self.e.lea(R13, R13, 8);
            }
        }
        Ok(())
    }

    fn leave(&mut self) -> Emitted {
        let offset = self.pointed_to(RBP)?;
        self.may_fault();
        self.e.load_at(R14, R15, offset);
        self.e.lea(R13, RBP, 8);
        self.e.mov(RBP, R14);
        Ok(())
    }

    fn call(&mut self, instr: &Instruction) -> Emitted {
        self.push_constant(instr.next_ip())?;
        self.go(instr.near_branch64());
        Ok(())
    }

    /// The target is looked up before anything is pushed: if it is not known, it may be none at all.
    fn call_indirect(&mut self, instr: &Instruction) -> Emitted {
        // Both ways to the slow one must find the flags at the same place.
        self.put_flags_aside();
        self.target(instr)?;
        self.find_indirect();
        self.e.load_at(R14, R15, 8);
        self.e.store(TARGET, R14);
        self.push_constant(instr.next_ip())?;
        self.e.jump_through(TARGET);
        Ok(())
    }

    fn jump_indirect(&mut self, instr: &Instruction) -> Emitted {
        self.target(instr)?;
        self.find_indirect();
        self.jump_to_found();
        Ok(())
    }

    /// R14 = where an indirect branch goes.
    fn target(&mut self, instr: &Instruction) -> Emitted {
        if instr.op0_kind() == OpKind::Register {
            match number(instr.op0_register()) {
                4 => self.e.mov(R14, R13),
                guest @ 13.. => self.e.load(R14, home(Reg(guest))),
                guest => self.e.mov(R14, Reg(guest)),
            }
            return Ok(());
        }
        let offset = self.reach_from_r15(Touch::Read, |t| t.address(instr))?;
        self.may_fault();
        self.e.load_at(R14, R15, offset);
        Ok(())
    }

    fn ret(&mut self, more: u16) -> Emitted {
        let offset = self.pointed_to(R13)?;
        self.may_fault();
        self.e.load_at(R14, R15, offset);
        self.find_indirect();
        self.e.lea(R13, R13, 8 + i32::from(more));
        self.jump_to_found();
        Ok(())
    }

    /// R15 = the jump cache's entry of the address in R14. An address that is not there takes the slow way: the
    /// interpreter finds out what is wrong with it, or the run loop what to execute.
    fn find_indirect(&mut self) {
        let e = &mut self.e;
        e.store(SAVED_RCX, RCX);
        e.pext(R15, R14, MASK);
        e.load(RCX, JUMPS_AT);
        // Sixteen bytes an entry.
        e.lea_scaled(R15, R15, R15, 1);
        e.lea_scaled(R15, RCX, R15, 8);
        e.load_at(RCX, R15, 0);
        e.lea_scaled(RCX, RCX, R14, 1);
        let found = e.jump_if_rcx_zero();
        e.load(RCX, SAVED_RCX);
        let miss = e.jump();
        e.bind_short(found);
        e.load(RCX, SAVED_RCX);
        self.pending.push(miss);
    }

    fn jcc(&mut self, instr: &Instruction) -> Emitted {
        let target = instr.near_branch64();
        // The decoder counts conditions from one.
        let condition = (instr.condition_code() as u8).wrapping_sub(1) & 15;
        let taken = self.e.jump_if(condition);
        if target >> 12 == self.source.linear >> 12 {
            self.links.push((taken, target));
            self.go(instr.next_ip());
        } else {
            self.go(instr.next_ip());
            self.e.bind(taken);
            self.go(target);
        }
        Ok(())
    }
}
