//! x87 and MMX instructions, which the host's x87 unit executes on the guest's state ([`crate::x87`]).
//!
//! What may unmask an exception is not here, but for FLDCW, whose slow way does that.

use super::{Emitted, Level, NotHere, Touch, Translator, Vector};
use crate::context::{X87_CONTROL, X87_DATA, X87_LAST, X87_LAST_DATA, X87_LOADED};
use crate::emit::{At, E, Forward, NE, R14};
use crate::flags::{Scratch, Use};
use crate::stubs;
use crate::trace::End;
use crate::{registers, x87};
use iced_x86::{Code, CpuidFeature, Instruction, MemoryOperand, Mnemonic, OpKind, Register};
use ring3_host::native::{StateClass, StepInfo};
use ring3_x86_cpu::exec::native;

/// Whether an instruction needs the x87 or MMX state.
pub(super) fn is_x87(instr: &Instruction) -> bool {
    use CpuidFeature as F;
    let feature = |f: &F| matches!(f, F::FPU | F::FPU287 | F::FPU387 | F::MMX);
    instr.cpuid_features().iter().any(feature)
        || matches!(instr.mnemonic(), Mnemonic::Fisttp | Mnemonic::Femms)
        || registers::operands(instr).any(Register::is_mm)
}

/// Control instructions that are as good on the host's unit.
fn is_plain_control(instr: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instr.mnemonic(),
        M::Fnclex | M::Fnop | M::Fldcw | M::Fnstcw | M::Fnstsw
    )
}

/// What step `n` of the trace is to the host, if it is for its x87 unit.
fn info(t: &Translator<'_>, n: usize) -> Option<StepInfo> {
    let step = t.source.trace.steps.get(n)?;
    let info = native::step_info(t.source.core, &step.op).copied();
    info.filter(|info| matches!(info.class, StateClass::X87 | StateClass::Mmx | StateClass::MmxSse))
}

impl Translator<'_> {
    pub(super) fn x87(&mut self, n: usize, instr: &Instruction) -> Emitted {
        if self.source.level == Level::None || !x87::host_suffices() {
            return Err(NotHere);
        }
        if instr.mnemonic() == Mnemonic::Wait {
            // While the state is in the host's unit, nothing is pending.
            return self.need_x87();
        }
        let info = info(self, n).ok_or(NotHere)?;
        let control = info.class == StateClass::X87 && !info.sets_x87_pointers;
        let implicit =
            info.memory.is_some() && (0..instr.op_count()).all(|k| instr.op_kind(k) != OpKind::Memory);
        if implicit || control && !is_plain_control(instr) {
            return Err(NotHere);
        }
        if !self.leaves_r15(instr, info.memory.is_some()) {
            // What comes next may have the slow way taken, and loses it then.
            self.lose_r15();
        }
        self.need_x87()?;
        if instr.mnemonic() == Mnemonic::Fldcw {
            return self.load_control_word(instr);
        }
        let with_vector = info.class == StateClass::MmxSse;
        if with_vector {
            self.need_vector();
        }
        match info.memory {
            None => self.registers(n, instr, with_vector)?,
            Some(memory) => self.with_host_operand(instr, &memory)?,
        }
        if info.sets_x87_pointers {
            self.note_pointers(n, instr, &info)?;
        }
        Ok(())
    }

    /// Whether R15 stays what it is over an instruction: it has its operand by what R15 holds, or none.
    fn leaves_r15(&self, instr: &Instruction, has_memory: bool) -> bool {
        let is_here = |reg: Register| !reg.is_gpr() || self.host_of(registers::number(reg)).is_some();
        let known = self.in_r15 == self.member.map(|member| member.group) && is_here(instr.memory_base());
        registers::operands(instr).all(is_here) && (known || !has_memory)
    }

    /// The next instruction needs the x87 state in the host's unit. If it must not be there, the slow way is taken.
    fn need_x87(&mut self) -> Emitted {
        if self.x87 == Vector::InRegisters {
            return Ok(());
        }
        self.clobber()?;
        self.note_flags();
        // cmp byte ptr gs:[loaded], 0
        self.e.on_gs(&[0x80], 7, X87_LOADED, &[0]);
        let absent = self.e.jump_if(E);
        self.trouble.x87 = Some((absent, self.e.here()));
        self.x87 = Vector::InRegisters;
        if self.uses == Use::Needs {
            self.check_lost();
            self.flags.need_host(&mut self.e, Scratch::Free)?;
        }
        Ok(())
    }

    /// FLDCW of a word that masks all exceptions.
    fn load_control_word(&mut self, instr: &Instruction) -> Emitted {
        self.clobber()?;
        self.note_flags();
        let stack = self.off_stack(instr);
        let spot = self.reach(2, Touch::Read, stack, |t| t.address(instr, 2))?;
        let nowhere = MemoryOperand::with_base(Register::R15);
        let mut load = Instruction::with2(Code::Movzx_r32_rm16, Register::R14D, nowhere)?;
        self.place_operand(&mut load, spot, false);
        self.may_fault();
        self.e.instruction(&load)?;
        self.e.store(X87_CONTROL, R14);
        // not r14d; test r14b, all exceptions
        self.e.raw(&[0x41, 0xf7, 0xd6, 0x41, 0xf6, 0xc6, x87::EXCEPTIONS]);
        let unmasks = self.e.jump_if(NE);
        self.trouble.missed.push(unmasks);
        // fldcw gs:[control word]
        self.e.on_gs(&[0xd9], 5, X87_CONTROL, &[]);
        Ok(())
    }

    /// Notes that this instruction and its operand are the last.
    fn note_pointers(&mut self, n: usize, instr: &Instruction, info: &StepInfo) -> Emitted {
        let overwritten = self.is_followed_by_x87(n);
        if overwritten && info.memory.is_none() {
            return Ok(());
        }
        let site = self.site(n) as i32 + 1;
        if !overwritten {
            self.e.store_constant(X87_LAST, site);
        }
        if info.memory.is_some() {
            self.e.store_constant(X87_LAST_DATA, site);
            let base = instr.memory_base();
            if base.is_gpr() && self.host_of(registers::number(base)).is_none() {
                self.lose_r15();
            }
            self.offset(instr, R14)?;
            self.e.store(X87_DATA, R14);
        }
        Ok(())
    }

    /// Whether the next step is one on x87 registers that will be noted, too, and nothing can come between.
    fn is_followed_by_x87(&self, n: usize) -> bool {
        let registers_only = |info: StepInfo| info.sets_x87_pointers && info.memory.is_none();
        self.source.trace.end != End::Loop(n + 1) && info(self, n + 1).is_some_and(registers_only)
    }

    /// Out of line: brings the x87 state; the jump that is returned is taken if it must not be.
    pub(super) fn write_bring_x87(&mut self, from: Forward, back: At) -> Forward {
        self.bind_here([from]);
        let failed = self.bring_x87();
        self.jump_over(back);
        failed
    }

    /// The same on the way back from a callout to the instruction at `next`: if it fails, translated code goes on elsewhere.
    pub(super) fn write_bring_x87_again(&mut self, next: u64) {
        let failed = self.bring_x87();
        stubs::restore_flags(&mut self.e);
        let done = self.e.jump();
        self.e.bind(failed);
        self.write_dispatch(next);
        self.e.bind(done);
    }

    fn bring_x87(&mut self) -> Forward {
        self.e.call_address(self.source.stubs.load_x87);
        // test r14d, r14d
        self.e.raw(&[0x45, 0x85, 0xf6]);
        self.e.jump_if(E)
    }
}
