//! Where the guest's flags are while code is written: when they are put aside, and what may make them again.

use super::operand::touches_memory;
use super::{Emitted, Translator, operand};
use crate::flags::{Maker, Places, Scratch, Use};
use crate::trace::End;
use crate::{groups, registers};
use iced_x86::{FlowControl, Instruction, Mnemonic};

impl Translator<'_> {
    /// Whether anything behind an instruction could want the flags before they are overwritten.
    pub(super) fn flags_matter_behind(&self, n: usize) -> bool {
        for step in &self.source.trace.steps[n + 1..] {
            let instr = &step.instr;
            if self.cautious || !operand::is_harmless(instr) {
                return true;
            }
            match Use::of(instr) {
                Use::Writes => return false,
                Use::Needs => return true,
                Use::None => {}
            }
        }
        true
    }

    /// INC or DEC of a register where CF is aside: there it stays.
    pub(super) fn step_register(&mut self, n: usize, instr: &Instruction, maker: Maker) -> Emitted {
        let exact = self.flags.host;
        self.translated_or_called(n, instr)?;
        self.flags = Places {
            host: exact,
            all_but_carry: true,
            aside: false,
            maker: Some(maker),
        };
        Ok(())
    }

    /// Whether the flags that the instruction being translated makes will be in the way of a lookup.
    pub(super) fn flags_meet_lookup(&self) -> bool {
        let trace = self.source.trace;
        for step in &trace.steps[self.now + 1..] {
            let flow = step.instr.flow_control();
            if touches_memory(&step.instr) || flow == FlowControl::IndirectBranch {
                return true;
            }
            if Use::of(&step.instr) == Use::Writes {
                return false;
            }
        }
        matches!(trace.end, End::Loop(_))
    }

    /// Whether the host's flags do although CF is elsewhere.
    pub(super) fn host_suffices(&self, instr: &Instruction) -> bool {
        self.flags.all_but_carry
            && instr.rflags_modified() & crate::flags::ARITHMETIC == 0
            && instr.rflags_read() & iced_x86::RflagsBits::CF == 0
            && !touches_memory(instr)
    }

    /// Whether a maker takes what is in a guest register.
    pub(super) fn uses_guest(&self, maker: &Maker, guest: usize) -> bool {
        match self.host_of(guest) {
            Some(host) => maker.uses(host),
            None => maker.uses_home(guest),
        }
    }

    /// What the maker of the flags becomes when the instruction changes registers.
    pub(super) fn maker_after(&mut self, instr: &Instruction) -> Option<Maker> {
        let mut maker = self.flags.maker?;
        if matches!(
            instr.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall
        ) {
            return None;
        }
        if let Some(by) = groups::moves_stack(instr).filter(|_| Use::of(instr) == Use::None) {
            maker = maker.moved(by as i32)?;
            let other = instr.op0_register();
            let pops = instr.mnemonic() == Mnemonic::Pop;
            return (!pops || !self.uses_guest(&maker, registers::number(other))).then_some(maker);
        }
        let written = self.source.trace.steps[self.now].written;
        let lost = (0..16).any(|guest| written[guest] && self.uses_guest(&maker, guest));
        (!lost).then_some(maker)
    }

    pub(super) fn need_host(&mut self) -> Emitted {
        self.check_lost();
        Ok(self.flags.need_host(&mut self.e, Scratch::Free)?)
    }

    pub(super) fn need_aside(&mut self) -> Emitted {
        self.check_lost();
        Ok(self.flags.need_aside(&mut self.e)?)
    }

    /// The host's flags are about to change.
    pub(super) fn clobber(&mut self) -> Emitted {
        self.check_lost();
        Ok(self.flags.clobber(&mut self.e)?)
    }

    pub(super) fn check_lost(&mut self) {
        self.lost |= self.flags == Places::NOWHERE;
    }
}
