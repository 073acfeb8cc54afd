//! Random programs: several instructions in a row, with memory operands off a few steady pointers, some of which point
//! across a page's end or where nothing can be written.

use super::forms::{Family, Form, of_family};
use super::layout::{self, CODE, CODE_PAGES, DATA, PAGE, READ_ONLY, STACK};
use super::{CODE32, Machine, Mode, operands, save, values};
use fastrand::Rng;
use iced_x86::{Decoder, DecoderOptions, Encoder, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// Registers that hold pointers, and no instruction's explicit operand.
fn pointers(mode: Mode) -> [Register; 4] {
    let last = match mode {
        Mode::Long => Register::R13,
        _ => Register::RBP,
    };
    [Register::RBX, Register::RSI, Register::RDI, last]
}

/// What stands for them as an operand.
fn spare(mode: Mode) -> Register {
    match mode {
        Mode::Long => Register::R14,
        _ => Register::RDX,
    }
}

/// The forms that programs are made of.
pub fn forms(mode: Mode) -> Vec<Form> {
    let mut all = of_family(Family::Integer, mode);
    all.extend(of_family(Family::X87, mode));
    all.extend(of_family(Family::Sse, mode));
    all
}

/// A program of at most `most` instructions, and the state it starts from.
pub fn program(rng: &mut Rng, forms: &[Form], most: usize) -> Machine {
    let mut memory = values::memory(rng);
    memory[..CODE_PAGES * PAGE as usize].fill(0xcc);
    let start = CODE + rng.u64(0..PAGE);
    let mut code = Vec::new();
    let mut encoder = Encoder::new(64);
    for _ in 0..rng.usize(1..=most) {
        let form = &forms[rng.usize(..forms.len())];
        let Some(instr) = instruction(rng, form) else {
            continue;
        };
        let at = start + code.len() as u64;
        if encoder.encode(&instr, at).is_ok() {
            code.extend(encoder.take_buffer());
        } else {
            encoder = Encoder::new(64);
        }
    }
    if let Some(at) = layout::offset(start) {
        memory[at..]
            .iter_mut()
            .zip(&code)
            .for_each(|(to, byte)| *to = *byte);
    }
    machine(rng, memory, start, Mode::Long)
}

/// The state that a program in that memory starts from.
pub(super) fn machine(rng: &mut Rng, memory: Vec<u8>, start: u64, mode: Mode) -> Machine {
    let mut machine = values::machine(rng, memory, mode);
    machine.registers.rip = start;
    for register in &mut machine.registers.gpr {
        *register &= mode.mask();
    }
    let gpr = &mut machine.registers.gpr;
    gpr[Register::RBX.number()] = DATA + rng.u64(256..1024);
    gpr[Register::RSI.number()] = DATA + PAGE - rng.u64(0..64);
    gpr[Register::RDI.number()] = READ_ONLY - rng.u64(0..256);
    gpr[pointers(mode)[3].number()] = DATA + 2 * PAGE + rng.u64(256..1024) * 2;
    gpr[Register::RSP.number()] = STACK + PAGE / 2 + rng.u64(0..128) * 8;
    machine
}

/// The instruction at an address in the code pages, if there is one.
pub fn instruction_at(machine: &Machine, address: u64) -> Option<Instruction> {
    let code = &machine.memory[..CODE_PAGES * PAGE as usize];
    let bytes = code.get(layout::offset(address)?..)?;
    let bits = match machine.registers.cs {
        CODE32 => 32,
        _ => 64,
    };
    let instr = Decoder::with_ip(bits, bytes, address, DecoderOptions::NONE).decode();
    (!instr.is_invalid()).then_some(instr)
}

/// An instruction of the form that goes on to the next, with its memory operand off a pointer.
pub fn instruction(rng: &mut Rng, form: &Form) -> Option<Instruction> {
    let encoded = operands::instruction(rng, form)?;
    let mut instr = encoded.instr;
    if instr.flow_control() != FlowControl::Next
        || !encoded.prelude.is_empty()
        || leaves_open(&instr)
        || shows_pointers(&instr)
        || is_written_in_parts(&instr)
    {
        return None;
    }
    let pointers = pointers(form.mode);
    for n in 0..instr.op_count() {
        match instr.op_kind(n) {
            OpKind::Register => {
                let register = instr.op_register(n);
                if pointers.contains(&register.full_register()) {
                    instr.set_op_register(n, resized(spare(form.mode), register));
                }
            }
            OpKind::Memory => {
                if instr.is_vsib() || instr.is_ip_rel_memory_operand() {
                    return None;
                }
                let base = pointers[rng.usize(..pointers.len())];
                instr.set_memory_base(match form.mode {
                    Mode::Long => base,
                    _ => Register::EAX + base.number() as u32,
                });
                instr.set_memory_index(Register::None);
                instr.set_memory_index_scale(1);
                instr.set_memory_displacement64(i64::from(rng.i8(..)) as u64 & form.mode.mask());
                instr.set_memory_displ_size(1);
                instr.set_segment_prefix(Register::None);
            }
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => {}
            _ => return None,
        }
    }
    Some(instr)
}

/// Whether it stores the x87 pointers, or can make an exception pending whose pointers count: which instructions change them is
/// the processor's affair.
fn shows_pointers(instr: &Instruction) -> bool {
    use Mnemonic as M;
    let loads_or_stores = matches!(
        instr.mnemonic(),
        M::Fldcw | M::Fnstenv | M::Fldenv | M::Fnsave | M::Frstor
    );
    loads_or_stores || instr.is_save_restore_instruction()
}

/// Whether flags are undefined after it, which later instructions may show; AND and its kin clear AF everywhere.
pub fn leaves_open(instr: &Instruction) -> bool {
    let open = instr.rflags_undefined();
    let logic = matches!(
        instr.mnemonic(),
        Mnemonic::And | Mnemonic::Or | Mnemonic::Xor | Mnemonic::Test
    );
    // OF after a rotation by more than one.
    let rotation = matches!(
        instr.mnemonic(),
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr
    );
    open != 0 && !logic || rotation
}

/// Whether the address that a fault names is the processor's choice.
fn is_written_in_parts(instr: &Instruction) -> bool {
    let fxsave = matches!(
        instr.mnemonic(),
        Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Fxrstor | Mnemonic::Fxrstor64
    );
    fxsave || save::is_extended(instr)
}

/// `register` in the width of `like`.
pub(super) fn resized(register: Register, like: Register) -> Register {
    let number = register.number() as u32;
    match like.size() {
        1 if number < 4 => Register::AL + number,
        1 => Register::SPL + (number - 4),
        2 => Register::AX + number,
        4 => Register::EAX + number,
        _ => Register::RAX + number,
    }
}
