//! The stack and near branches.
//!
//! Calls and returns are paired with the host's: a call is one on the shadow stack, too, and behind it lies what a return
//! does that finds the address it pushed. A return that finds another one looks it up.

use super::access::OffStack;
use super::exits::Slow;
use super::operand::is_harmless;
use super::{Emitted, NotHere, Touch, Translator};
use crate::context::{SHADOW_LIMIT, STRING_END, TARGET, home};
use crate::emit::{BE, NE, R13, R14, R15, RBP, RSP, Reg, Width};
use crate::flags::Places;
use crate::registers;
use crate::stubs;
use crate::trace::Way;
use iced_x86::{Code, Instruction, OpKind, Register};

fn number(register: Register) -> u8 {
    registers::number(register) as u8
}

impl Translator<'_> {
    /// The size of the stack's slots.
    pub(super) fn slot(&self) -> i32 {
        self.source.width.bytes()
    }

    /// Translates what is here; `None` for anything else.
    pub(super) fn flow(&mut self, n: usize, instr: &Instruction) -> Option<Emitted> {
        use Code as C;
        Some(match instr.code() {
            C::Push_r64 | C::Push_r32 => self.push(number(instr.op0_register())),
            C::Pushq_imm8 | C::Pushq_imm32 | C::Pushd_imm8 | C::Pushd_imm32 => {
                self.push_constant(instr.immediate(0))
            }
            C::Push_rm64 | C::Push_rm32 if instr.op0_kind() == OpKind::Memory => self.push_memory(instr),
            C::Pop_r64 | C::Pop_r32 => self.pop(number(instr.op0_register())),
            C::Leaveq | C::Leaved => self.leave(),
            // The trace goes on there.
            C::Jmp_rel8_64 | C::Jmp_rel32_64 | C::Jmp_rel8_32 | C::Jmp_rel32_32 => Ok(()),
            C::Call_rel32_64 | C::Call_rel32_32 => self.call(instr),
            C::Call_rm64 | C::Call_rm32 => self.call_indirect(instr),
            C::Jmp_rm64 | C::Jmp_rm32 => self.jump_indirect(instr),
            C::Retnq | C::Retnd => self.ret(n, 0),
            C::Retnq_imm16 | C::Retnd_imm16 => self.ret(n, instr.immediate16()),
            _ if instr.is_jcc_short_or_near() => self.jcc(n, instr),
            _ => return None,
        })
    }

    /// Whether R13 may stay behind RSP over an instruction: it uses neither, or accesses the stack at a known place.
    pub(super) fn may_lag(&self, instr: &Instruction) -> bool {
        use Code as C;
        let is_known = self.member.is_some_and(|member| self.known[member.group]);
        match instr.code() {
            C::Push_r64 | C::Push_r32 | C::Pop_r64 | C::Pop_r32 => {
                is_known && registers::number(instr.op0_register()) != 4
            }
            C::Pushq_imm8 | C::Pushq_imm32 | C::Pushd_imm8 | C::Pushd_imm32 => is_known,
            C::Call_rel32_64 | C::Call_rel32_32 => is_known,
            C::Retnq | C::Retnd | C::Retnq_imm16 | C::Retnd_imm16 => is_known,
            _ => is_harmless(instr) && !self.source.trace.steps[self.now].used[4],
        }
    }

    /// Moves RSP, and R13 later.
    fn move_stack(&mut self, by: i32) {
        self.lag += by;
        // It could be made again from R13 only as that is now.
        if self.flags.maker.is_some_and(|maker| maker.uses(R13)) {
            self.settle_stack();
        }
    }

    /// Has R13 be the guest's RSP.
    pub(super) fn settle_stack(&mut self) {
        let lag = std::mem::take(&mut self.lag);
        if lag != 0 {
            self.e.lea_as(self.source.width, R13, R13, lag);
        }
    }

    /// Brings the slot below the stack's top within reach of R15, for a store.
    fn below_top(&mut self) -> Result<i32, NotHere> {
        self.reach_from_r15(Touch::Write, OffStack(Some(-self.slot())), |_| Ok(()))
    }

    /// The slot at the stack's top, for a load.
    fn top(&mut self) -> Result<i32, NotHere> {
        self.reach_from_r15(Touch::Read, OffStack(Some(0)), |_| Ok(()))
    }

    /// reg = the slot so far from R15.
    fn load_slot(&mut self, reg: Reg, offset: i32) {
        self.e.load_as(self.source.width, reg, R15, offset);
    }

    /// Pushes a register, which `load` brings from memory if it is there.
    fn push_from(&mut self, load: impl FnOnce(&mut Self) -> Reg) -> Emitted {
        let offset = self.below_top()?;
        let value = load(self);
        self.may_fault();
        self.e.store_as(self.source.width, R15, offset, value);
        self.move_stack(-self.slot());
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
        let offset = self.reach_from_r15(Touch::Read, stack, |t| t.address(instr, t.slot() as usize))?;
        self.may_fault();
        self.load_slot(R14, offset);
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
        let short = match self.source.width {
            Width::Four => Ok(value as i32),
            Width::Eight => i32::try_from(value as i64),
        };
        let Ok(short) = short else {
            return self.push_from(|t| {
                t.e.constant(R14, value);
                R14
            });
        };
        let offset = self.below_top()?;
        self.may_fault();
        self.e.store_constant_as(self.source.width, R15, offset, short);
        self.move_stack(-self.slot());
        Ok(())
    }

    fn pop(&mut self, guest: u8) -> Emitted {
        let offset = self.top()?;
        self.may_fault();
        match self.host_of(guest.into()) {
            Some(R13) => self.load_slot(R13, offset),
            Some(host) => {
                self.load_slot(host, offset);
                self.move_stack(self.slot());
            }
            None => {
                self.load_slot(R14, offset);
                self.e.store(home(Reg(guest)), R14);
                self.move_stack(self.slot());
            }
        }
        Ok(())
    }

    fn leave(&mut self) -> Emitted {
        let offset = self.reach_from_r15(Touch::Read, OffStack(None), |t| {
            t.e.mov_as(t.source.width, R15, RBP);
            Ok(())
        })?;
        self.may_fault();
        self.load_slot(R14, offset);
        self.e.lea_as(self.source.width, R13, RBP, self.slot());
        self.e.mov(RBP, R14);
        Ok(())
    }

    fn call(&mut self, instr: &Instruction) -> Emitted {
        self.need_aside()?;
        self.push_constant(instr.next_ip())?;
        self.settle_stack();
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
        self.settle_stack();
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

    /// Where the callee returns to, with the address that it found in R14, and in R15 the number of its return's site.
    fn landing(&mut self, next: u64) {
        match i32::try_from(next as i64) {
            Ok(next) => self.e.compare_constant(R14, next),
            Err(_) => {
                let literal = self.e.compare_with_near(R14);
                self.literals.push((literal, next));
            }
        }
        self.e.jump_if_address(NE, self.source.stubs.return_elsewhere);
        self.swap_in();
        self.flags = Places {
            aside: true,
            ..Places::NOWHERE
        };
        self.vector = super::Vector::Anywhere;
        self.x87 = super::Vector::Anywhere;
        self.in_r15 = None;
        self.unsaved = false;
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
                Some(host) => self.e.mov_as(self.source.width, R14, host),
                None => {
                    self.e.load(R14, home(Reg(guest)));
                    self.e.mov_as(self.source.width, R14, R14);
                }
            }
            return Ok(());
        }
        let stack = self.off_stack(instr);
        let offset = self.reach_from_r15(Touch::Read, stack, |t| t.address(instr, t.slot() as usize))?;
        self.may_fault();
        self.load_slot(R14, offset);
        Ok(())
    }

    fn ret(&mut self, n: usize, more: u16) -> Emitted {
        self.need_aside()?;
        let offset = self.top()?;
        self.may_fault();
        self.load_slot(R14, offset);
        let site = self.site(n);
        self.move_stack(self.slot() + i32::from(more));
        self.settle_stack();
        self.swap_out();
        self.e.constant(R15, site.into());
        self.e.ret();
        Ok(())
    }

    /// R15 = the jump cache's entry of the address in R14. An address that is not there takes the slow way: the
    /// interpreter finds out what is wrong with it, or the run loop what to execute.
    fn find_indirect(&mut self) {
        self.lose_r15();
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
            Way::Taken if self.closes_loop(n) => {
                let again = self.again.map_or(0, |again| self.e.address(again.at));
                self.e.jump_if_address(condition, again);
                self.go(instr.next_ip(), false)?;
                self.again = None;
            }
            Way::Taken => self.go_if(condition ^ 1, instr.next_ip(), false),
        }
        Ok(())
    }
}
