//! Where in a block the arithmetic flags are live: someone reads them later, before all of them are written anew.

use iced_x86::{Instruction, Mnemonic, OpKind, Register, RflagsBits};

pub const ARITHMETIC: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// For each instruction, whether any flag is live before it. Behind the last one all are.
pub fn live_before(block: &[Instruction]) -> Vec<bool> {
    let mut live = ARITHMETIC;
    let mut answer = vec![true; block.len()];
    for (instr, answer) in block.iter().zip(&mut answer).rev() {
        live = live & !written(instr) | instr.rflags_read() & ARITHMETIC;
        *answer = live != 0;
    }
    answer
}

/// The flags that the instruction writes whatever its operands are.
pub fn written(instr: &Instruction) -> u32 {
    if instr.has_rep_prefix() || instr.has_repne_prefix() {
        return 0;
    }
    // A count of zero changes nothing.
    let counted = matches!(
        instr.mnemonic(),
        Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
            | Mnemonic::Shld
            | Mnemonic::Shrd
    );
    if counted {
        let last = instr.op_count() - 1;
        let by_register = instr.op_kind(last) == OpKind::Register && instr.op_register(last) == Register::CL;
        if by_register || instr.immediate8() & 0x1f == 0 {
            return 0;
        }
    }
    instr.rflags_modified() & ARITHMETIC
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn live(code: &[u8]) -> Vec<bool> {
        let block: Vec<Instruction> = Decoder::new(64, code, DecoderOptions::NONE).into_iter().collect();
        live_before(&block)
    }

    #[test]
    fn a_comparison_makes_what_was_before_it_dead() {
        // mov rax, [rbx]; cmp rax, rcx; mov rdx, [rbx]; jne
        let code = [0x48, 0x8b, 0x03, 0x48, 0x39, 0xc8, 0x48, 0x8b, 0x13, 0x75, 0x00];
        assert_eq!(live(&code), [false, false, true, true]);
    }

    #[test]
    fn readers_and_keepers_of_the_carry() {
        // adc rax, rcx; and inc rax, cmp rax, rcx
        assert_eq!(live(&[0x48, 0x11, 0xc8]), [true]);
        assert_eq!(live(&[0x48, 0xff, 0xc0]), [true]);
        assert_eq!(live(&[0x48, 0xff, 0xc0, 0x48, 0x39, 0xc8]), [false, false]);
    }

    #[test]
    fn a_shift_by_a_register_may_change_nothing() {
        assert_eq!(live(&[0x48, 0xd3, 0xe0]), [true]);
        assert_eq!(live(&[0x48, 0xc1, 0xe0, 0x03]), [false]);
        assert_eq!(live(&[0x48, 0xc1, 0xe0, 0x00]), [true]);
        assert_eq!(live(&[0x48, 0xd1, 0xe0]), [false]);
    }
}
