//! The stack and near branches.
//!
//! Calls and returns are paired with the host's: a call is one on the shadow stack, too, and behind it lies what a return
//! does that finds the address it pushed. A return that finds another one looks it up.

use super::access::OffStack;
use super::exits::Slow;
use super::{Emitted, NotHere, Touch, Translator};
use crate::context::{RETURN, SHADOW_LIMIT, STRING_END, TARGET, home};
use crate::emit::{BE, NE, R13, R14, R15, RBP, RSP, Reg};
use crate::flags::Places;
use crate::registers;
use crate::stubs;
use crate::trace::Way;
use iced_x86::{Code, Instruction, OpKind, Register};

fn number(register: Register) -> u8 {
    registers::number(register) as u8
}

impl Translator<'_> {
    /// Translates what is here; `None` for anything else.
    pub(super) fn flow(&mut self, n: usize, instr: &Instruction) -> Option<Emitted> {
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
            Code::Push_rm64 if instr.op0_kind() == OpKind::Memory => self.push_memory(instr),
            Code::Pop_r64 => self.pop(number(instr.op0_register())),
            Code::Leaveq => self.leave(),
            // The trace goes on there.
            Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => Ok(()),
            Code::Call_rel32_64 => self.call(instr),
            Code::Call_rm64 => self.call_indirect(instr),
            Code::Jmp_rm64 => self.jump_indirect(instr),
            Code::Retnq => self.ret(n, 0),
            Code::Retnq_imm16 => self.ret(n, instr.immediate16()),
            _ if instr.is_jcc_short_or_near() => self.jcc(n, instr),
            _ => return None,
        })
    }

    /// Brings the eight bytes below the stack's top within reach of R15, for a store.
    fn below_top(&mut self) -> Result<i32, NotHere> {
        self.reach_from_r15(Touch::Write, OffStack(Some(-8)), |_| Ok(()))
    }

    /// The eight bytes at the stack's top, for a load.
    fn top(&mut self) -> Result<i32, NotHere> {
        self.reach_from_r15(Touch::Read, OffStack(Some(0)), |_| Ok(()))
    }

    /// Pushes a register, which `load` brings from memory if it is there.
    fn push_from(&mut self, load: impl FnOnce(&mut Self) -> Reg) -> Emitted {
        let offset = self.below_top()?;
        let value = load(self);
        self.may_fault();
        self.e.store_at(R15, offset, value);
        self.e.lea(R13, R13, -8);
        Ok(())
    }

    fn push(&mut self, guest: u8) -> Emitted {
        self.push_from(|t| {
            t.host_of(guest.into()).unwrap_or_else(|| {
                t.e.load(R14, home(Reg(guest)));
                R14
            })
        })
    }

    fn push_memory(&mut self, instr: &Instruction) -> Emitted {
        let stack = self.off_stack(instr);
        let offset = self.reach_from_r15(Touch::Read, stack, |t| t.address(instr))?;
        self.may_fault();
        self.e.load_at(R14, R15, offset);
        self.e.store(STRING_END, R14);
        self.push_value()
    }

    /// Pushes what [`STRING_END`] holds.
    pub(super) fn push_value(&mut self) -> Emitted {
        self.push_from(|t| {
            t.e.load(R14, STRING_END);
            R14
        })
    }

    fn push_constant(&mut self, value: u64) -> Emitted {
        let Ok(short) = i32::try_from(value as i64) else {
            return self.push_from(|t| {
                t.e.constant(R14, value);
                R14
            });
        };
        let offset = self.below_top()?;
        self.may_fault();
        self.e.store_constant_at(R15, offset, short);
        self.e.lea(R13, R13, -8);
        Ok(())
    }

    fn pop(&mut self, guest: u8) -> Emitted {
        let offset = self.top()?;
        self.may_fault();
        match self.host_of(guest.into()) {
            Some(R13) => self.e.load_at(R13, R15, offset),
            Some(host) => {
                self.e.load_at(host, R15, offset);
                self.e.lea(R13, R13, 8);
            }
            None => {
                self.e.load_at(R14, R15, offset);
                self.e.store(home(Reg(guest)), R14);
                self.e.lea(R13, R13, 8);
            }
        }
        Ok(())
    }

    fn leave(&mut self) -> Emitted {
        let offset = self.reach_from_r15(Touch::Read, OffStack(None), |t| {
            t.e.mov(R15, RBP);
            Ok(())
        })?;
        self.may_fault();
        self.e.load_at(R14, R15, offset);
        self.e.lea(R13, RBP, 8);
        self.e.mov(RBP, R14);
        Ok(())
    }

    fn call(&mut self, instr: &Instruction) -> Emitted {
        self.need_aside()?;
        self.push_constant(instr.next_ip())?;
        self.make_room();
        self.flags = Places {
            aside: true,
            ..Places::NOWHERE
        };
        self.call_to(instr.near_branch64(), instr.near_branch64() <= instr.ip());
        self.landing(instr.next_ip());
        Ok(())
    }

    /// The target is looked up before anything is pushed: if it is not known, it may be none at all.
    fn call_indirect(&mut self, instr: &Instruction) -> Emitted {
        self.need_aside()?;
        self.target(instr)?;
        self.find_indirect();
        self.e.load_at(R14, R15, 8);
        self.e.store(TARGET, R14);
        self.push_constant(instr.next_ip())?;
        self.make_room();
        self.swap_out();
        self.e.call_through(TARGET);
        self.landing(instr.next_ip());
        Ok(())
    }

    /// Forgets what is on the shadow stack if it is full; changes flags.
    fn make_room(&mut self) {
        self.e.compare_with(RSP, SHADOW_LIMIT);
        let full = self.e.jump_if(BE);
        let back = self.e.here();
        self.slow.push(Slow::full(full, back));
    }

    /// Where the callee returns to, with the address that it found in R14.
    fn landing(&mut self, next: u64) {
        let e = &mut self.e;
        match i32::try_from(next as i64) {
            Ok(next) => e.compare_constant(R14, next),
            Err(_) => {
                e.constant(R15, next);
                e.compare(R14, R15);
            }
        }
        e.jump_if_address(NE, self.source.stubs.return_elsewhere);
        self.swap_in();
        self.flags = Places {
            aside: true,
            ..Places::NOWHERE
        };
        self.vector = super::Vector::Anywhere;
        self.x87 = super::Vector::Anywhere;
        self.in_r15 = None;
        self.known = [false; crate::groups::MOST];
    }

    fn jump_indirect(&mut self, instr: &Instruction) -> Emitted {
        self.need_aside()?;
        self.target(instr)?;
        self.find_indirect();
        self.swap_out();
        stubs::jump_to_found(&mut self.e);
        Ok(())
    }

    /// R14 = where an indirect branch goes.
    fn target(&mut self, instr: &Instruction) -> Emitted {
        if instr.op0_kind() == OpKind::Register {
            let guest = number(instr.op0_register());
            match self.host_of(guest.into()) {
                Some(host) => self.e.mov(R14, host),
                None => self.e.load(R14, home(Reg(guest))),
            }
            return Ok(());
        }
        let stack = self.off_stack(instr);
        let offset = self.reach_from_r15(Touch::Read, stack, |t| t.address(instr))?;
        self.may_fault();
        self.e.load_at(R14, R15, offset);
        Ok(())
    }

    fn ret(&mut self, n: usize, more: u16) -> Emitted {
        self.need_aside()?;
        let offset = self.top()?;
        self.may_fault();
        self.e.load_at(R14, R15, offset);
        let site = self.site(n);
        self.e.store_constant(RETURN, site as i32);
        self.e.lea(R13, R13, 8 + i32::from(more));
        self.swap_out();
        self.e.ret();
        Ok(())
    }

    /// R15 = the jump cache's entry of the address in R14. An address that is not there takes the slow way: the
    /// interpreter finds out what is wrong with it, or the run loop what to execute.
    fn find_indirect(&mut self) {
        self.in_r15 = None;
        let miss = stubs::find_jump(&mut self.e);
        self.note_flags();
        self.trouble.missed.push(miss);
    }

    fn jcc(&mut self, n: usize, instr: &Instruction) -> Emitted {
        if !self.host_suffices(instr) {
            self.need_host()?;
        }
        // The decoder counts conditions from one.
        let condition = (instr.condition_code() as u8).wrapping_sub(1) & 15;
        match self.source.trace.steps[n].way {
            Way::Next => {
                let target = instr.near_branch64();
                self.go_if(condition, target, target <= instr.ip());
            }
            Way::Taken => self.go_if(condition ^ 1, instr.next_ip(), false),
        }
        Ok(())
    }
}
