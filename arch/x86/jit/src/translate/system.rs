//! What kernels do at every entry and every lock: PUSHF, CLI, STI and SWAPGS at level 0, without a callout.

use super::{Emitted, Translator};
use crate::context::{ASIDE, GS_BASE, STRING_END};
use crate::emit::{NE, R14, R15};
use crate::flags::Use;
use iced_x86::{Code, Instruction};
use ring3_x86_cpu::Core;
use ring3_x86_cpu::state::{GS, Segment, flags};
use std::mem::{offset_of, size_of};

pub(super) const SYSTEM_FLAGS: usize = offset_of!(Core, state.flags.system);
const WINDOWS: usize = offset_of!(Core, windows);
const SHADOW: usize = offset_of!(Core, state.interruptibility.sti_shadow);
const GS_SEGMENT: usize = offset_of!(Core, state.seg) + GS * size_of::<Segment>() + offset_of!(Segment, base);
const KERNEL_GS: usize = offset_of!(Core, state.msr.kernel_gs_base);
// Both windows are looked at at once.
const _: () = assert!(size_of::<ring3_x86_cpu::core::Windows>() == 2);

impl Translator<'_> {
    /// Translates what is here; `None` for anything else.
    pub(super) fn system(&mut self, instr: &Instruction) -> Option<Emitted> {
        if matches!(instr.code(), Code::Pushfq | Code::Pushfd) {
            return Some(self.push_flags());
        }
        if self.source.user {
            return None;
        }
        Some(match instr.code() {
            Code::Cli => self.cli(),
            Code::Sti => self.sti(),
            Code::Swapgs => self.swapgs(),
            _ => return None,
        })
    }

    fn push_flags(&mut self) -> Emitted {
        self.need_aside()?;
        // From there they are taken: lookups need not bring them back.
        self.uses = Use::None;
        self.before_lookup()?;
        let e = &mut self.e;
        e.load(R14, ASIDE);
        // mov r15d, r14d; shr r14d, 8; and r14d, 0d5h; and r15d, 1; shl r15d, 11; or r14d, r15d
        e.raw(&[
            0x45, 0x89, 0xf7, 0x41, 0xc1, 0xee, 8, 0x41, 0x81, 0xe6, 0xd5, 0, 0, 0,
        ]);
        e.raw(&[0x41, 0x83, 0xe7, 1, 0x41, 0xc1, 0xe7, 11, 0x45, 0x09, 0xfe]);
        // or r14d, gs:[system flags]; or r14d, 2
        e.on_gs(&[0x44, 0x0b], 6, SYSTEM_FLAGS, &[]);
        e.raw(&[0x41, 0x83, 0xce, 2]);
        e.store(STRING_END, R14);
        self.push_value()
    }

    fn cli(&mut self) -> Emitted {
        self.clobber()?;
        // and dword ptr gs:[system flags], not IF
        let all_but_if = !flags::IF as u32;
        self.e.on_gs(&[0x81], 4, SYSTEM_FLAGS, &all_but_if.to_le_bytes());
        Ok(())
    }

    /// If somebody waits for interrupts to be let in, the slow way tells.
    fn sti(&mut self) -> Emitted {
        self.before_lookup()?;
        let e = &mut self.e;
        // cmp word ptr gs:[windows], 0
        e.on_gs(&[0x66, 0x83], 7, WINDOWS, &[0]);
        let wanted = e.jump_if(NE);
        // bts dword ptr gs:[system flags], 9; setnc byte ptr gs:[shadow]
        e.on_gs(&[0x0f, 0xba], 5, SYSTEM_FLAGS, &[9]);
        e.on_gs(&[0x0f, 0x93], 0, SHADOW, &[]);
        self.trouble.missed.push(wanted);
        Ok(())
    }

    fn swapgs(&mut self) -> Emitted {
        self.lose_r15();
        let e = &mut self.e;
        e.load(R14, GS_SEGMENT);
        e.load(R15, KERNEL_GS);
        e.store(KERNEL_GS, R14);
        e.store(GS_SEGMENT, R15);
        e.store(GS_BASE, R15);
        Ok(())
    }

    /// The instruction behind an STI is done: interrupts are no longer held back.
    pub(super) fn end_shadow(&mut self) {
        // mov byte ptr gs:[shadow], 0
        self.e.on_gs(&[0xc6], 0, SHADOW, &[0]);
    }
}
