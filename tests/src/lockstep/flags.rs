//! Arithmetic flags that the architecture leaves undefined, after some instructions.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, RflagsBits};

/// CF, PF, AF, ZF, SF and OF.
pub const STATUS: u64 = 0x8d5;

/// RFLAGS bits of iced's.
fn bits(iced: u32) -> u64 {
    const PAIRS: [(u32, u64); 6] = [
        (RflagsBits::CF, 1),
        (RflagsBits::PF, 4),
        (RflagsBits::AF, 0x10),
        (RflagsBits::ZF, 0x40),
        (RflagsBits::SF, 0x80),
        (RflagsBits::OF, 0x800),
    ];
    PAIRS
        .iter()
        .filter(|(theirs, _)| iced & theirs != 0)
        .fold(0, |all, (_, ours)| all | ours)
}

/// What is known of flags that are loaded from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    Defined,
    /// They may have been undefined when they were saved, long ago. The carry seldom is.
    Anything,
}

/// Which flags are undefined behind the code, if those in `before` were in front of it.
pub fn undefined(code: &[u8], rip: u64, before: u64, loaded: Loaded) -> u64 {
    let mut decoder = Decoder::with_ip(64, code, rip, DecoderOptions::NONE);
    let mut instr = Instruction::default();
    let mut open = before;
    while decoder.can_decode() {
        decoder.decode_out(&mut instr);
        open = behind(&instr, open, loaded);
    }
    open
}

/// Which flags are undefined somewhere in the code.
pub fn undefined_inside(code: &[u8], rip: u64, before: u64, loaded: Loaded) -> u64 {
    let mut open = before;
    Decoder::with_ip(64, code, rip, DecoderOptions::NONE)
        .into_iter()
        .fold(before, |all, instr| {
            open = behind(&instr, open, loaded);
            all | open
        })
}

/// Whether the code's last instruction may lead to `place`.
pub fn leads_to(code: &[u8], rip: u64, place: u64) -> bool {
    let Some(last) = Decoder::with_ip(64, code, rip, DecoderOptions::NONE)
        .into_iter()
        .last()
    else {
        return false;
    };
    match last.flow_control() {
        FlowControl::Next => last.next_ip() == place,
        FlowControl::ConditionalBranch => last.next_ip() == place || last.near_branch_target() == place,
        FlowControl::UnconditionalBranch | FlowControl::Call => last.near_branch_target() == place,
        FlowControl::Exception => false,
        _ => true,
    }
}

/// Whether any instruction of the code leaves flags undefined.
pub fn leaves_some(code: &[u8], rip: u64) -> bool {
    Decoder::with_ip(64, code, rip, DecoderOptions::NONE)
        .into_iter()
        .any(|instr| crate::oracle::program::leaves_open(&instr))
}

fn behind(instr: &Instruction, before: u64, loaded: Loaded) -> u64 {
    let loads = matches!(
        instr.mnemonic(),
        Mnemonic::Iretq | Mnemonic::Popfq | Mnemonic::Sysretq
    );
    if loads {
        return if loaded == Loaded::Defined { 0 } else { STATUS & !1 };
    }
    // Manuals call flags undefined behind a move to or from a control or debug register; no processor changes them.
    if instr.is_privileged() {
        return before;
    }
    let rotation = matches!(
        instr.mnemonic(),
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr
    );
    // How often may be known at run time only.
    let counted = rotation
        || matches!(
            instr.mnemonic(),
            Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar | Mnemonic::Shld | Mnemonic::Shrd
        );
    let mut open = bits(instr.rflags_undefined());
    if rotation {
        open |= 0x800;
    }
    if counted && instr.op_kind(instr.op_count() - 1) == OpKind::Register {
        return before | open | if rotation { 0 } else { 0x810 };
    }
    if instr.has_rep_prefix() || instr.has_repne_prefix() {
        return before | open;
    }
    before & !bits(instr.rflags_modified()) | open
}
