//! From an `iced_x86::Instruction` to an [`Op`]: which handler executes it, and with what operands.
//!
//! `integer`, `flow` and `strings` pick handlers for the general-purpose instructions, `system` for everything that
//! touches privilege, segments, control registers, ports or far control flow, `amx` for tiles, `native` for the forms that
//! the host CPU executes itself. What none of them takes is an invalid opcode.

pub mod amx;
pub mod flow;
pub mod integer;
pub mod native;
pub mod strings;
pub mod system;

use crate::core::{Mode, Prefix};
use crate::op::{HIGH_BYTE, Handler, Op, OpFlags};
use crate::state::{FS, RIP_SLOT, SS, ZERO_SLOT};
use crate::{Core, Fault, Step, World};
use iced_x86::{Code, Instruction, OpKind, Register};

/// The longest instruction.
pub const MAX_INSTRUCTION: usize = 15;

/// Decodes one instruction at `rip` from `bytes` for a code size of 16, 32 or 64 bits. An instruction that needs
/// more bytes than there are has `is_invalid()` set, and `no_more_bytes` is true.
pub fn instruction(bytes: &[u8], rip: u64, bits: u8) -> (Instruction, bool) {
    use iced_x86::{Decoder, DecoderError, DecoderOptions};
    let mut decoder = Decoder::with_ip(u32::from(bits), bytes, rip, DecoderOptions::NONE);
    let instr = decoder.decode();
    (instr, decoder.last_error() == DecoderError::NoMoreBytes)
}

/// What precedes an instruction that Linux's emulator shall execute: UD2, and "kvm". Everything is emulated here, so that it
/// means nothing; but it is no instruction of its own, either.
const FORCED_EMULATION: [u8; 5] = [0x0f, 0x0b, b'k', b'v', b'm'];

/// The longest instruction with that before it.
pub const MAX_PREFIXED: usize = FORCED_EMULATION.len() + MAX_INSTRUCTION;

/// An instruction as it stands in memory.
pub struct Decoded {
    pub instr: Instruction,
    /// Where it begins, and what is before it is skipped.
    pub skipped: usize,
    /// It needs more bytes than there are.
    pub short: bool,
}

impl Decoded {
    /// Bytes of all of it, at least one.
    pub fn size(&self) -> usize {
        self.skipped + self.instr.len().max(1)
    }
}

/// As [`instruction`], at most [`MAX_PREFIXED`] bytes with the prefix for forced emulation, if that is known.
pub fn prefixed(bytes: &[u8], rip: u64, bits: u8, prefix: Prefix) -> Decoded {
    let known = FORCED_EMULATION.len().min(bytes.len());
    let begun = prefix == Prefix::Skipped && bytes[..known] == FORCED_EMULATION[..known];
    let skipped = if begun && known == FORCED_EMULATION.len() {
        known
    } else {
        0
    };
    let end = bytes.len().min(skipped + MAX_INSTRUCTION);
    let (instr, short) = instruction(&bytes[skipped..end], rip.wrapping_add(skipped as u64), bits);
    Decoded {
        instr,
        skipped,
        // Two bytes are an instruction, unless more of the prefix follow.
        short: short || begun && skipped == 0,
    }
}

/// Makes the operation for `instr`, which `bytes` begin with and which begins `start` bytes into its block; `base` is
/// the block's RIP.
pub fn operation(core: &mut Core, instr: &Instruction, bytes: &[u8], base: u64, start: u16) -> Op {
    let mode = core.mode;
    let mut op = blank(instr, &mode, base, start);
    if instr.is_invalid() || !core.features.include(instr) {
        return op;
    }
    if instr.has_lock_prefix() && !may_lock(instr) {
        return op;
    }
    let found = integer::select(instr, &mode, &mut op)
        .or_else(|| strings::select(instr, &mode, &mut op))
        .or_else(|| system::select(instr, &mode, &mut op))
        .or_else(|| amx::select(instr, &mut op))
        .or_else(|| native::select(core, instr, bytes, &mut op));
    if let Some(handler) = found {
        op.run = handler;
    }
    op
}

/// An operation with the memory operand, sizes and prefixes filled in, that raises #UD.
fn blank(instr: &Instruction, mode: &Mode, base: u64, start: u16) -> Op {
    let mut op = Op {
        run: undefined as Handler,
        imm: 0,
        disp: 0,
        base: ZERO_SLOT,
        index: ZERO_SLOT,
        scale: 0,
        seg: 3,
        dst: 0,
        src: 0,
        size: 0,
        address_size: mode.code_bits / 8,
        flags: OpFlags::default(),
        start,
        next: start + instr.len() as u16,
        code: instr.code() as u16,
    };
    let mut flags = 0;
    if instr.has_lock_prefix() {
        flags |= OpFlags::LOCK;
    }
    if instr.has_rep_prefix() {
        flags |= OpFlags::REP;
    }
    if instr.has_repne_prefix() {
        flags |= OpFlags::REPNE;
    }
    if (0..instr.op_count()).any(|n| instr.op_kind(n) == OpKind::Memory) {
        flags |= OpFlags::MEMORY;
        memory_operand(instr, mode, base, &mut op);
        if mode.code_bits == 64 && op.address_size == 8 && usize::from(op.seg) < FS {
            flags |= OpFlags::FLAT;
        }
        op.size = instr.memory_size().size() as u8;
    }
    op.flags = OpFlags(flags);
    op
}

fn memory_operand(instr: &Instruction, mode: &Mode, base: u64, op: &mut Op) {
    let base_register = instr.memory_base();
    let index_register = instr.memory_index();
    op.seg = segment_slot(segment(instr, mode));
    op.disp = instr.memory_displacement64();
    op.scale = instr.memory_index_scale().trailing_zeros() as u8;
    op.address_size = address_size(instr, mode);
    op.base = match base_register {
        Register::RIP | Register::EIP => {
            // iced gives the absolute address; make it relative to where the block turns out to run.
            op.disp = op.disp.wrapping_sub(base);
            RIP_SLOT
        }
        Register::None => ZERO_SLOT,
        other => gpr_slot(other),
    };
    op.index = match index_register {
        Register::None => ZERO_SLOT,
        other if other.is_gpr() => gpr_slot(other),
        // A vector index (gather, scatter) is the native decoder's business.
        _ => ZERO_SLOT,
    };
    // In 64-bit mode only FS and GS have bases; SS still decides between #SS and #GP.
    if mode.code_bits == 64 && usize::from(op.seg) < FS && usize::from(op.seg) != SS {
        op.seg = 3;
    }
}

fn address_size(instr: &Instruction, mode: &Mode) -> u8 {
    let base = instr.memory_base();
    let index = instr.memory_index();
    let by_register = |register: Register| {
        if register == Register::RIP {
            8
        } else if register == Register::EIP {
            4
        } else {
            register.size() as u8
        }
    };
    if base != Register::None {
        by_register(base)
    } else if index != Register::None && index.is_gpr() {
        by_register(index)
    } else {
        match instr.memory_displ_size() {
            0 => mode.code_bits / 8,
            size => size as u8,
        }
    }
}

/// The segment of the memory operand. 64-bit mode ignores prefixes that name others than FS and GS.
fn segment(instr: &Instruction, mode: &Mode) -> Register {
    let ignored = matches!(
        instr.segment_prefix(),
        Register::ES | Register::CS | Register::SS | Register::DS
    );
    if mode.code_bits != 64 || !ignored {
        return instr.memory_segment();
    }
    match instr.memory_base() {
        Register::RSP | Register::RBP | Register::ESP | Register::EBP => Register::SS,
        _ => Register::DS,
    }
}

/// The slot of a segment register, in the instruction set's order.
pub fn segment_slot(register: Register) -> u8 {
    match register {
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        Register::FS => 4,
        Register::GS => 5,
        _ => 3,
    }
}

/// The slot of a general register, with [`HIGH_BYTE`] for AH, CH, DH and BH.
pub fn gpr_slot(register: Register) -> u8 {
    match register {
        Register::AH => HIGH_BYTE,
        Register::CH => 1 | HIGH_BYTE,
        Register::DH => 2 | HIGH_BYTE,
        Register::BH => 3 | HIGH_BYTE,
        other => (other.full_register() as u8).wrapping_sub(Register::RAX as u8) & 15,
    }
}

/// Whether LOCK is allowed: a read-modify-write form with a memory destination.
fn may_lock(instr: &Instruction) -> bool {
    instr.op0_kind() == OpKind::Memory && instr.op_code().can_use_lock_prefix()
}

/// #UD.
pub fn undefined(_: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    Err(Fault::UD.into())
}

/// The code of an operation, for handlers that serve several forms.
impl Op {
    pub fn code(&self) -> Code {
        Code::try_from(usize::from(self.code)).unwrap_or(Code::INVALID)
    }
}

/// Whether a block must end after this instruction: control flow, and whatever changes how the next instruction
/// is fetched, decoded or interrupted.
pub fn ends_block(instr: &Instruction) -> bool {
    use iced_x86::{FlowControl, Mnemonic as M};
    if instr.flow_control() != FlowControl::Next || instr.is_invalid() {
        return true;
    }
    if instr.is_privileged() && !matches!(instr.mnemonic(), M::Cli | M::In | M::Out | M::Rdmsr) {
        return true;
    }
    let loads_segment = instr.op0_kind() == OpKind::Register && instr.op0_register().is_segment_register();
    loads_segment
        || matches!(
            instr.mnemonic(),
            M::Sti
                | M::Popf
                | M::Popfd
                | M::Popfq
                | M::Stac
                | M::Clac
                | M::Cpuid
                | M::Hlt
                | M::Lss
                | M::Lds
                | M::Les
                | M::Lfs
                | M::Lgs
                | M::Serialize
                | M::Vmcall
                | M::Vmmcall
                | M::Xsetbv
        )
}

/// Whether the handler of this instruction sets RIP itself, taken or not.
pub fn sets_rip(instr: &Instruction) -> bool {
    use iced_x86::{FlowControl, Mnemonic as M};
    match instr.flow_control() {
        FlowControl::Next | FlowControl::Exception | FlowControl::XbeginXabortXend => false,
        // VMCALL and its kin count as calls; they fall through.
        FlowControl::Call => !matches!(instr.mnemonic(), M::Vmcall | M::Vmmcall),
        _ => true,
    }
}
