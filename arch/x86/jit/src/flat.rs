//! 32-bit code: the segments it must have to be translated, and the instructions that 64-bit code has no such encoding of.
//!
//! CS, SS, DS and ES must be all of the linear addresses, so that an offset is an address. FS and GS may begin anywhere: each
//! access looks whether the segment allows it. All addresses, and RSP, have 32 bits; whatever runs over their end takes the slow
//! way, as it runs over a page's.

use crate::emit::Width;
use crate::registers;
use iced_x86::{Code, Instruction};
use ring3_x86_cpu::Core;
use ring3_x86_cpu::state::{CS, DS, ES, RSP, SS, Segment};

/// Code is not translated from here on, where RIP may run over the end.
pub const LAST_PAGE: u64 = 0xffff_f000;

/// The word of a base that translated code must not use; no base has so many bits.
pub const NO_BASE: i32 = -1;

/// Whether all addresses lie in the segment.
fn is_whole(segment: &Segment) -> bool {
    let rights = segment.attributes;
    segment.limit == u32::MAX && !rights.unusable() && !rights.is_expand_down()
}

/// Whether 32-bit code may read and write all addresses through CS, SS, DS and ES.
pub fn is_flat(core: &Core) -> bool {
    let state = &core.state;
    let begins = |n: usize| state.seg[n].base == 0 && is_whole(&state.seg[n]);
    core.mode.stack_size == 4
        && !core.mode.real_segments
        && (state.rip | state.gpr[RSP]) >> 32 == 0
        && begins(CS)
        && [SS, DS, ES]
            .into_iter()
            .all(|n| begins(n) && state.seg[n].attributes.is_writable())
}

/// What the word of FS or GS holds.
pub fn base(segment: &Segment) -> u64 {
    if is_whole(segment) && segment.attributes.is_writable() {
        segment.base & 0xffff_ffff
    } else {
        i64::from(NO_BASE) as u64
    }
}

/// The same instruction in a form that 64-bit code has, too, if it is of 32-bit code and there is one.
pub fn widened(mut instr: Instruction) -> Instruction {
    use Code as C;
    if registers::width(&instr) == Width::Eight {
        return instr;
    }
    let code = match instr.code() {
        C::Inc_r32 => C::Inc_rm32,
        C::Dec_r32 => C::Dec_rm32,
        C::Inc_r16 => C::Inc_rm16,
        C::Dec_r16 => C::Dec_rm16,
        C::Mov_AL_moffs8 => C::Mov_r8_rm8,
        C::Mov_AX_moffs16 => C::Mov_r16_rm16,
        C::Mov_EAX_moffs32 => C::Mov_r32_rm32,
        C::Mov_moffs8_AL => C::Mov_rm8_r8,
        C::Mov_moffs16_AX => C::Mov_rm16_r16,
        C::Mov_moffs32_EAX => C::Mov_rm32_r32,
        C::Add_rm8_imm8_82 => C::Add_rm8_imm8,
        C::Or_rm8_imm8_82 => C::Or_rm8_imm8,
        C::Adc_rm8_imm8_82 => C::Adc_rm8_imm8,
        C::Sbb_rm8_imm8_82 => C::Sbb_rm8_imm8,
        C::And_rm8_imm8_82 => C::And_rm8_imm8,
        C::Sub_rm8_imm8_82 => C::Sub_rm8_imm8,
        C::Xor_rm8_imm8_82 => C::Xor_rm8_imm8,
        C::Cmp_rm8_imm8_82 => C::Cmp_rm8_imm8,
        other => other,
    };
    instr.set_code(code);
    instr
}
