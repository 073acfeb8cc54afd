//! What single instructions want of their state, so that they mostly do something worth looking at.

use super::layout::STACK;
use super::operands::{Encoded, away};
use super::place::target;
use super::values::{AC, integer, mxcsr, read, write};
use super::{Machine, Mode, save, x87};
use fastrand::Rng;
use iced_x86::{Mnemonic as M, OpKind, Register};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

/// Before the memory operand's address is settled.
pub fn before(rng: &mut Rng, encoded: &Encoded, machine: &mut Machine) {
    let instr = &encoded.instr;
    if instr.is_string_instruction() || implicit_address(encoded) {
        strings(rng, encoded, machine);
    }
    if save::is_extended(instr) {
        save::request(rng, &mut machine.registers);
    }
    match instr.mnemonic() {
        M::Div | M::Idiv => division(rng, machine),
        M::Bt | M::Bts | M::Btr | M::Btc if instr.op1_kind() == OpKind::Register => {
            let register = instr.op1_register();
            if register.is_gpr() && rng.u8(..) < 240 {
                let reach = rng.i64(-9000..9000) as u64;
                machine.registers.gpr[register.number() & 15] = reach;
            }
        }
        M::Enter | M::Leave => {
            machine.registers.gpr[RBP] = STACK + 8 * rng.u64(..512);
            if rng.u8(..) < 20 {
                machine.registers.gpr[RBP] = target(rng, 8);
            }
        }
        M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz if rng.bool() => {
            machine.registers.gpr[RCX] = rng.u64(..3) | u64::from(rng.bool()) << 32;
        }
        M::Jmp | M::Call if instr.op0_kind() == OpKind::Register => {
            machine.registers.gpr[instr.op0_register().number() & 15] =
                away(rng, encoded.rip) - encoded.mode.base();
        }
        _ => {}
    }
    // In which pieces a masked move checks its alignment is each processor's affair.
    let masked = matches!(instr.mnemonic(), M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu);
    if rng.u8(..) < 6 && !masked {
        machine.registers.rflags |= AC;
    }
}

/// After it is settled; `at` is where the operand lies.
pub fn after(rng: &mut Rng, encoded: &Encoded, machine: &mut Machine, at: Option<u64>) {
    let instr = &encoded.instr;
    let memory = &mut machine.memory;
    let top = machine.registers.gpr[RSP];
    if let Some(at) = at {
        match instr.mnemonic() {
            M::Jmp | M::Call => {
                let target = away(rng, encoded.rip) - encoded.mode.base();
                write(memory, at, &target.to_le_bytes());
            }
            M::Ldmxcsr | M::Vldmxcsr if rng.u8(..) < 220 => write(memory, at, &mxcsr(rng).to_le_bytes()),
            M::Fxrstor | M::Fxrstor64 if rng.u8(..) < 220 => save::legacy_image(rng, memory, at),
            M::Xrstor | M::Xrstor64 if rng.u8(..) < 240 => save::extended_image(rng, memory, at),
            M::Fldenv | M::Frstor | M::Fldcw if rng.bool() => {
                write(memory, at, &x87::control_word(rng).to_le_bytes());
            }
            M::Fld if instr.memory_size().size() == 10 => write(memory, at, &x87::extended(rng)),
            M::Fbld if rng.bool() => packed_decimal(rng, memory, at),
            M::Cmpxchg8b | M::Cmpxchg16b if rng.bool() => {
                let size = instr.memory_size().size() / 2;
                let mask = u64::MAX >> (64 - 8 * size);
                for (n, register) in [RAX, RDX].into_iter().enumerate() {
                    let old = &mut machine.registers.gpr[register];
                    let seen = read(memory, at.wrapping_add((n * size) as u64), size);
                    *old = *old & !mask | seen & mask;
                }
            }
            M::Cmpxchg if rng.bool() => {
                let old = &mut machine.registers.gpr[RAX];
                let size = instr.memory_size().size();
                let mask = u64::MAX >> (64 - 8 * size);
                *old = *old & !mask | read(memory, at, size) & mask;
            }
            _ => {}
        }
    } else if instr.mnemonic() == M::Cmpxchg && rng.bool() && instr.op0_kind() == OpKind::Register {
        machine.registers.gpr[RAX] =
            machine.registers.gpr[instr.op0_register().full_register().number() & 15];
    }
    match instr.mnemonic() {
        M::Ret => {
            let target = away(rng, encoded.rip) - encoded.mode.base();
            write(memory, top, &target.to_le_bytes());
        }
        // With the trap flag the INT3 behind would be traced.
        M::Popf | M::Popfd | M::Popfq => {
            let image = integer(rng) & !0x100;
            write(memory, top, &image.to_le_bytes());
        }
        _ => {}
    }
}

/// Whether the instruction has an address that no operand encodes.
fn implicit_address(encoded: &Encoded) -> bool {
    encoded.memory.is_none()
        && (0..encoded.instr.op_count()).any(|n| {
            !matches!(encoded.instr.op_kind(n), OpKind::Register)
                && encoded.instr.op_kind(n) as u32 >= OpKind::MemorySegSI as u32
        })
}

/// Strings, the masked moves and XLAT: where RSI, RDI and RBX point, and how often to repeat.
fn strings(rng: &mut Rng, encoded: &Encoded, machine: &mut Machine) {
    let instr = &encoded.instr;
    let size = instr.memory_size().size().max(1) as u64;
    let registers = &mut machine.registers;
    let (segment_base, narrow) = match instr.segment_prefix() {
        Register::FS => (&mut registers.fs_base, true),
        Register::GS => (&mut registers.gs_base, true),
        _ => (&mut 0, false),
    };
    if narrow && encoded.mode == Mode::Long {
        *segment_base = rng.u64(..0x1000_0000);
    }
    let base = *segment_base;
    let source = target(rng, size).wrapping_sub(base);
    let destination = target(rng, size);
    let (from, to) = (source.wrapping_add(base), destination);
    let high = integer(rng) << 32;
    let short = (0..instr.op_count()).any(|n| {
        matches!(
            instr.op_kind(n),
            OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI
        )
    });
    let high = if short { high } else { 0 };
    // 16-bit addressing leaves out the segments' base by itself.
    let base_of_all = if short { encoded.mode.base() } else { 0 };
    let (source, destination) = (
        source.wrapping_sub(base_of_all),
        destination.wrapping_sub(base_of_all),
    );
    registers.gpr[RSI] = source | high;
    registers.gpr[RDI] = destination | high;
    if instr.mnemonic() == M::Xlatb {
        let al = registers.gpr[RAX] & 0xff;
        registers.gpr[3] = source.wrapping_sub(al);
        return;
    }
    if matches!(instr.mnemonic(), M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu) {
        // Of bytes that are not moved, processors may check some: all are in the page of those that are.
        let inside = destination & !0xfff | rng.u64(16..4000);
        registers.gpr[RDI] = inside.wrapping_sub(base) | high;
        let mask = instr.op2_register().number();
        if instr.mnemonic() == M::Maskmovq {
            let top = usize::from(machine.vector.x87.fsw() >> 11);
            let slot = mask.wrapping_sub(top) & 7;
            let mut value = machine.vector.x87.st(slot);
            value[rng.usize(..8)] |= 0x80;
            machine.vector.x87.set_st(slot, value);
        } else {
            let value = machine.vector.zmm[mask].low() | 0x80 << (8 * rng.u32(..16));
            machine.vector.zmm[mask].set_low(value);
        }
        return;
    }
    if instr.has_rep_prefix() || instr.has_repne_prefix() {
        let count = match rng.u8(..8) {
            0 => 0,
            1 => 1,
            _ => rng.u64(..40),
        };
        registers.gpr[RCX] = count | high;
        // Long runs of what is looked for, or of what is not.
        if rng.bool() {
            let byte = registers.gpr[RAX] as u8;
            registers.gpr[RAX] = u64::from_le_bytes([byte; 8]);
            let len = rng.usize(..100);
            for at in [from, to] {
                write(&mut machine.memory, at.wrapping_sub(20), &vec![byte; len]);
            }
        }
    }
}

/// Small upper halves, so that the quotient mostly fits.
fn division(rng: &mut Rng, machine: &mut Machine) {
    let gpr = &mut machine.registers.gpr;
    match rng.u8(..4) {
        0 => {}
        1 => gpr[RDX] = 0,
        2 => gpr[RDX] = (gpr[RAX] as i64 >> 63) as u64,
        _ => gpr[RDX] = rng.u64(..100),
    }
    if rng.bool() {
        gpr[RAX] &= 0xff;
    }
}

fn packed_decimal(rng: &mut Rng, memory: &mut [u8], at: u64) {
    let mut digits: [u8; 10] = std::array::from_fn(|_| rng.u8(..10) << 4 | rng.u8(..10));
    digits[9] = rng.u8(..2) << 7;
    write(memory, at, &digits);
}
