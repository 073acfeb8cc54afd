//! Instructions of a form, with random operands.

use super::Mode;
use super::forms::{Form, Prefix, Side, has_choice};
use super::layout::CODE;
use super::place::{self, Operand};
use super::prelude;
use fastrand::Rng;
use iced_x86::{
    Decoder, DecoderOptions, Encoder, FlowControl, Instruction, OpCodeOperandKind as K, OpKind, Register,
    RoundingControl,
};

/// An instruction ready to be put into memory.
#[derive(Clone)]
pub struct Encoded {
    pub mode: Mode,
    pub instr: Instruction,
    pub bytes: Vec<u8>,
    pub rip: u64,
    /// What is executed before it, right in front of it.
    pub prelude: Vec<u8>,
    /// Its memory operand, if it has one that ModRM encodes.
    pub memory: Option<Operand>,
}

/// A random instruction of the form; `None` if no combination was found that can be encoded.
pub fn instruction(rng: &mut Rng, form: &Form) -> Option<Encoded> {
    (0..40).find_map(|_| attempt(rng, form))
}

fn attempt(rng: &mut Rng, form: &Form) -> Option<Encoded> {
    let op = form.code.op_code();
    let mut instr = Instruction::new();
    instr.set_code(form.code);
    let rip = code_address(rng);
    let mut memory = None;
    for (n, &kind) in op.op_kinds().iter().enumerate() {
        let n = n as u32;
        let in_memory = is_memory(kind) || has_choice(kind) && form.side == Side::Memory;
        if in_memory {
            memory = Some(place::operand(rng, &mut instr, n, kind, form.mode)?);
        } else if !implicit(rng, &mut instr, n, kind, form.mode) {
            if let Some(register) = register(rng, kind, form.mode) {
                instr.set_op_kind(n, OpKind::Register);
                instr.set_op_register(n, register);
            } else {
                constant(rng, &mut instr, n, kind, (rip, form.mode.base()))?;
            }
        }
    }
    // Its place has to be chosen later, and what is asked for stays in EDX:EAX.
    let unfit =
        |operand: Operand| operand.is_fixed() || operand.uses(Register::RAX) || operand.uses(Register::RDX);
    if super::save::is_extended(&instr) && memory.is_some_and(unfit) {
        return None;
    }
    prefixes(rng, &mut instr, form);
    evex(rng, &mut instr, form, memory.is_some());
    let bits = form.mode.bits();
    let mut encoder = Encoder::new(bits);
    let ip = rip - form.mode.base();
    encoder.encode(&instr, ip).ok()?;
    let bytes = encoder.take_buffer();
    let decode = |bytes: &[u8]| Decoder::with_ip(bits, bytes, ip, DecoderOptions::NONE).decode();
    let decoded = decode(&bytes);
    if decoded.code() != form.code || decoded.len() != bytes.len() {
        return None;
    }
    let mut encoded = Encoded {
        mode: form.mode,
        instr: decoded,
        bytes,
        rip,
        prelude: Vec::new(),
        memory,
    };
    if rng.u8(..) < 40 {
        clutter(rng, &mut encoded, decode);
    }
    encoded.prelude = prelude::code(rng, &encoded);
    Some(encoded)
}

/// Puts prefixes in front that have no meaning there, if there are such.
fn clutter(rng: &mut Rng, encoded: &mut Encoded, decode: impl Fn(&[u8]) -> Instruction) {
    const PREFIXES: [u8; 9] = [0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf2, 0xf3];
    let old = encoded.instr;
    if old.is_string_instruction() || old.is_ip_rel_memory_operand() {
        return;
    }
    // To branches, all but segments may mean something, and not the same to all makers.
    let count = if old.flow_control() == FlowControl::Next {
        9
    } else {
        5
    };
    let mut bytes = vec![PREFIXES[rng.usize(..count)]];
    if rng.u8(..) < 64 {
        bytes.push(PREFIXES[rng.usize(..count)]);
    }
    bytes.extend_from_slice(&encoded.bytes);
    let new = decode(&bytes);
    let same_operands = (0..old.op_count()).all(|n| old.op_kind(n) == new.op_kind(n))
        && old.memory_base() == new.memory_base()
        && old.memory_index() == new.memory_index()
        && old.memory_segment() == new.memory_segment()
        && old.memory_displ_size() == new.memory_displ_size();
    if new.code() == old.code() && new.len() == bytes.len() && same_operands {
        encoded.instr = new;
        encoded.bytes = bytes;
    }
}

/// Mostly the middle of the first page, sometimes across the border of the two.
fn code_address(rng: &mut Rng) -> u64 {
    if rng.u8(..) < 16 {
        CODE + 4096 - rng.u64(1..15)
    } else {
        CODE + 0x800
    }
}

fn is_memory(kind: K) -> bool {
    matches!(
        kind,
        K::mem
            | K::mem_offs
            | K::mem_mib
            | K::mem_mpx
            | K::mem_vsib32x
            | K::mem_vsib64x
            | K::mem_vsib32y
            | K::mem_vsib64y
            | K::mem_vsib32z
            | K::mem_vsib64z
    )
}

/// Operands whose address is not encoded: those of string instructions and their like.
fn implicit(rng: &mut Rng, instr: &mut Instruction, n: u32, kind: K, mode: Mode) -> bool {
    // Both addresses of an instruction are of one size: the mode's, or the one that a prefix makes of it.
    let size = match (0..n).map(|i| instr.op_kind(i)).next() {
        Some(OpKind::MemoryESDI | OpKind::MemorySegSI | OpKind::MemorySegDI) => 16,
        Some(OpKind::MemoryESEDI | OpKind::MemorySegESI | OpKind::MemorySegEDI) => 32,
        Some(OpKind::MemoryESRDI | OpKind::MemorySegRSI | OpKind::MemorySegRDI) => 64,
        _ if rng.u8(..) < 40 => 32,
        _ => mode.bits(),
    };
    let pick = |kinds: [OpKind; 3]| kinds[size.ilog2() as usize - 4];
    match kind {
        K::seg_rSI => instr.set_op_kind(
            n,
            pick([OpKind::MemorySegSI, OpKind::MemorySegESI, OpKind::MemorySegRSI]),
        ),
        K::es_rDI => instr.set_op_kind(
            n,
            pick([OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI]),
        ),
        K::seg_rDI => instr.set_op_kind(
            n,
            pick([OpKind::MemorySegDI, OpKind::MemorySegEDI, OpKind::MemorySegRDI]),
        ),
        K::seg_rBX_al => {
            instr.set_op_kind(n, OpKind::Memory);
            instr.set_memory_base(match size {
                16 => Register::BX,
                32 => Register::EBX,
                _ => Register::RBX,
            });
            instr.set_memory_index(Register::AL);
            instr.set_memory_index_scale(1);
        }
        _ => return false,
    }
    true
}

/// A random register of the kind, if it is one of registers.
fn register(rng: &mut Rng, kind: K, mode: Mode) -> Option<Register> {
    let wide = if mode == Mode::Long && rng.bool() { 16 } else { 8 };
    let (bytes, vectors) = match mode {
        Mode::Long => (20, 2 * wide),
        Mode::Compatible | Mode::Short => (8, 8),
    };
    let mut from = |first: Register, count: u32| Some(first + rng.u32(0..count));
    match kind {
        K::r8_reg | K::r8_opcode | K::r8_or_mem => from(Register::AL, bytes),
        K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode | K::r16_or_mem => from(Register::AX, wide),
        K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode | K::r32_vvvv | K::r32_or_mem => {
            from(Register::EAX, wide)
        }
        K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode | K::r64_vvvv | K::r64_or_mem => {
            from(Register::RAX, wide)
        }
        K::seg_reg => from(Register::ES, 6),
        K::k_reg | K::k_rm | K::k_vvvv | K::k_or_mem => from(Register::K0, 8),
        K::kp1_reg => Some(Register::K0 + 2 * rng.u32(0..4)),
        K::mm_reg | K::mm_rm | K::mm_or_mem => from(Register::MM0, 8),
        K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_or_mem | K::xmm_is4 | K::xmm_is5 => {
            from(Register::XMM0, vectors)
        }
        K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_or_mem | K::ymm_is4 | K::ymm_is5 => {
            from(Register::YMM0, vectors)
        }
        K::zmm_reg | K::zmm_rm | K::zmm_vvvv | K::zmm_or_mem => from(Register::ZMM0, vectors),
        K::xmmp3_vvvv => Some(Register::XMM0 + 4 * rng.u32(..vectors / 4)),
        K::zmmp3_vvvv => Some(Register::ZMM0 + 4 * rng.u32(..vectors / 4)),
        K::cr_reg => Some(Register::CR0 + [0, 2, 3, 4][rng.usize(..4)]),
        K::dr_reg => from(Register::DR0, 8),
        K::es => Some(Register::ES),
        K::cs => Some(Register::CS),
        K::ss => Some(Register::SS),
        K::ds => Some(Register::DS),
        K::fs => Some(Register::FS),
        K::gs => Some(Register::GS),
        K::al => Some(Register::AL),
        K::cl => Some(Register::CL),
        K::ax => Some(Register::AX),
        K::dx => Some(Register::DX),
        K::eax => Some(Register::EAX),
        K::rax => Some(Register::RAX),
        K::st0 => Some(Register::ST0),
        K::sti_opcode => from(Register::ST0, 8),
        _ => None,
    }
}

/// Immediates and branch targets.
fn constant(rng: &mut Rng, instr: &mut Instruction, n: u32, kind: K, place: (u64, u64)) -> Option<()> {
    let (rip, base) = place;
    let byte = small(rng, 8) as u8;
    match kind {
        K::imm4_m2z => {
            instr.set_op_kind(n, OpKind::Immediate8);
            instr.set_immediate8(byte & 0xf);
        }
        K::imm8 => {
            let second = (0..n).any(|i| {
                matches!(
                    instr.op_kind(i),
                    OpKind::Immediate8 | OpKind::Immediate16 | OpKind::Immediate32
                )
            });
            if second {
                instr.set_op_kind(n, OpKind::Immediate8_2nd);
                instr.set_immediate8_2nd(byte);
            } else {
                instr.set_op_kind(n, OpKind::Immediate8);
                instr.set_immediate8(byte);
            }
        }
        K::imm8_const_1 => {
            instr.set_op_kind(n, OpKind::Immediate8);
            instr.set_immediate8(1);
        }
        K::imm8sex16 | K::imm8sex32 | K::imm8sex64 => {
            let wide = match kind {
                K::imm8sex16 => OpKind::Immediate8to16,
                K::imm8sex32 => OpKind::Immediate8to32,
                _ => OpKind::Immediate8to64,
            };
            instr.set_op_kind(n, wide);
            instr.set_immediate8(byte);
        }
        K::imm16 => {
            instr.set_op_kind(n, OpKind::Immediate16);
            instr.set_immediate16(small(rng, 16) as u16);
        }
        K::imm32 => {
            instr.set_op_kind(n, OpKind::Immediate32);
            instr.set_immediate32(small(rng, 32) as u32);
        }
        K::imm32sex64 => {
            instr.set_op_kind(n, OpKind::Immediate32to64);
            instr.set_immediate32to64(i64::from(small(rng, 32) as i32));
        }
        K::imm64 => {
            instr.set_op_kind(n, OpKind::Immediate64);
            instr.set_immediate64(small(rng, 64));
        }
        K::br64_1 | K::br64_4 => {
            instr.set_op_kind(n, OpKind::NearBranch64);
            instr.set_near_branch64(target(rng, rip, kind == K::br64_1));
        }
        K::br32_1 | K::br32_4 => {
            instr.set_op_kind(n, OpKind::NearBranch32);
            instr.set_near_branch32(target(rng, rip, kind == K::br32_1).wrapping_sub(base) as u32);
        }
        // Such a branch cuts the instruction pointer down to 16 bits.
        K::br16_1 | K::br16_2 => {
            instr.set_op_kind(n, OpKind::NearBranch16);
            instr.set_near_branch16(target(rng, rip, kind == K::br16_1) as u16);
        }
        _ => return None,
    }
    Some(())
}

/// Any number of so many bits, the ends of the range more often than chance.
fn small(rng: &mut Rng, bits: u32) -> u64 {
    super::values::integer(rng) & (u64::MAX >> (64 - bits))
}

/// Where a branch may lead: into the code pages, off the instruction itself; seldom elsewhere.
pub fn target(rng: &mut Rng, rip: u64, short: bool) -> u64 {
    if short {
        return if rng.bool() {
            rip + rng.u64(20..100)
        } else {
            rip - rng.u64(20..100)
        };
    }
    match rng.u8(..32) {
        0 => super::layout::DATA + rng.u64(..64),
        1 => CODE - rng.u64(1..4096),
        _ => away(rng, rip),
    }
}

/// A place in the code pages that neither the instruction at `rip` nor what is before it occupies.
pub fn away(rng: &mut Rng, rip: u64) -> u64 {
    let at = CODE + rng.u64(..8000);
    if (rip - 16..rip + 16).contains(&at) {
        rip + 16
    } else {
        at
    }
}

fn prefixes(rng: &mut Rng, instr: &mut Instruction, form: &Form) {
    match form.prefix {
        Prefix::None => {}
        Prefix::Lock => instr.set_has_lock_prefix(true),
        Prefix::Rep => instr.set_has_rep_prefix(true),
        Prefix::Repne => instr.set_has_repne_prefix(true),
    }
    let addressed = (0..instr.op_count()).any(|n| {
        matches!(
            instr.op_kind(n),
            OpKind::Memory
                | OpKind::MemorySegSI
                | OpKind::MemorySegDI
                | OpKind::MemorySegRSI
                | OpKind::MemorySegESI
                | OpKind::MemorySegRDI
                | OpKind::MemorySegEDI
        )
    });
    if addressed && rng.u8(..) < 30 {
        let segment = if rng.u8(..) < 200 {
            Register::FS + rng.u32(0..2)
        } else {
            Register::ES + rng.u32(0..4)
        };
        instr.set_segment_prefix(segment);
    }
}

/// Masks, zeroing, broadcasts and embedded rounding.
fn evex(rng: &mut Rng, instr: &mut Instruction, form: &Form, memory: bool) {
    let op = form.code.op_code();
    if op.require_op_mask_register() || op.can_use_op_mask_register() && rng.u8(..) < 160 {
        instr.set_op_mask(Register::K1 + rng.u32(0..7));
        if op.can_use_zeroing_masking() && rng.bool() && !(memory && instr.op0_kind() == OpKind::Memory) {
            instr.set_zeroing_masking(true);
        }
    }
    if memory {
        if op.can_broadcast() && rng.u8(..) < 100 {
            instr.set_is_broadcast(true);
        }
        return;
    }
    if op.can_use_rounding_control() && rng.u8(..) < 80 {
        instr.set_rounding_control(match rng.u8(..4) {
            0 => RoundingControl::RoundToNearest,
            1 => RoundingControl::RoundDown,
            2 => RoundingControl::RoundUp,
            _ => RoundingControl::RoundTowardZero,
        });
    } else if op.can_suppress_all_exceptions() && rng.u8(..) < 60 {
        instr.set_suppress_all_exceptions(true);
    }
}
