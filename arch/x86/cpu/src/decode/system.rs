//! Picks handlers for system instructions: privilege, segments, descriptor tables, control registers, MSRs, ports,
//! interrupts and far control flow.

use super::{gpr_slot, segment_slot};
use crate::core::Mode;
use crate::exec::system::{
    cache, control, debug, extended, fast_call, flag_ops, identify, interrupt, msr, ports, query, tables,
};
use crate::exec::{far, far_return, iret, segment};
use crate::op::{Handler, Op};
use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};

pub fn select(instr: &Instruction, mode: &Mode, op: &mut Op) -> Option<Handler> {
    segments(instr, mode, op)
        .or_else(|| transfers(instr, mode, op))
        .or_else(|| registers(instr, mode, op))
        .or_else(|| descriptors(instr, mode, op))
        .or_else(|| port_io(instr, mode, op))
        .or_else(|| flags_and_state(instr, mode, op))
        .or_else(|| hints(instr))
}

/// A general register as destination or source, with the operand's size.
fn register(instr: &Instruction, n: u32, size: &mut u8) -> Option<u8> {
    if instr.op_kind(n) != OpKind::Register {
        return None;
    }
    let register = instr.op_register(n);
    if !register.is_gpr() {
        return None;
    }
    *size = register.size() as u8;
    Some(gpr_slot(register))
}

/// The operand size that the stack moves by, of an instruction with three forms.
fn stack_width(instr: &Instruction, mode: &Mode) -> u8 {
    let width = instr.stack_pointer_increment().unsigned_abs() as u8;
    if width == 0 { mode.code_bits / 8 } else { width }
}

fn segments(instr: &Instruction, mode: &Mode, op: &mut Op) -> Option<Handler> {
    match instr.mnemonic() {
        M::Mov if instr.op0_kind() == OpKind::Register && instr.op0_register().is_segment_register() => {
            if instr.op0_register() == Register::CS {
                return None;
            }
            op.dst = segment_slot(instr.op0_register());
            let mut size = 2;
            op.src = register(instr, 1, &mut size).unwrap_or(0);
            Some(segment::mov_to_segment)
        }
        M::Mov if instr.op1_kind() == OpKind::Register && instr.op1_register().is_segment_register() => {
            op.src = segment_slot(instr.op1_register());
            op.size = 2;
            op.dst = register(instr, 0, &mut op.size).unwrap_or(0);
            Some(segment::mov_from_segment)
        }
        M::Pop if instr.op0_register().is_segment_register() => {
            op.dst = segment_slot(instr.op0_register());
            op.size = stack_width(instr, mode);
            Some(segment::pop_segment)
        }
        M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs => {
            op.src = match instr.mnemonic() {
                M::Les => 0,
                M::Lss => 2,
                M::Lds => 3,
                M::Lfs => 4,
                _ => 5,
            };
            op.dst = register(instr, 0, &mut op.size)?;
            Some(segment::load_pointer)
        }
        _ => None,
    }
}

fn transfers(instr: &Instruction, mode: &Mode, op: &mut Op) -> Option<Handler> {
    let far_handler: Handler = match instr.mnemonic() {
        M::Jmp => far::jump_far,
        _ => far::call_far,
    };
    match instr.mnemonic() {
        M::Jmp | M::Call => match instr.op0_kind() {
            OpKind::FarBranch16 => {
                op.size = 2;
                op.imm = u64::from(instr.far_branch_selector()) << 32 | u64::from(instr.far_branch16());
                Some(far_handler)
            }
            OpKind::FarBranch32 => {
                op.size = 4;
                op.imm = u64::from(instr.far_branch_selector()) << 32 | u64::from(instr.far_branch32());
                Some(far_handler)
            }
            OpKind::Memory => {
                op.size = op.size.checked_sub(2)?;
                Some(far_handler)
            }
            _ => None,
        },
        M::Retf => {
            op.size = match instr.code() {
                Code::Retfw | Code::Retfw_imm16 => 2,
                Code::Retfd | Code::Retfd_imm16 => 4,
                _ => 8,
            };
            if instr.op_count() == 1 {
                op.imm = instr.immediate(0) & 0xffff;
            }
            Some(far_return::return_far)
        }
        M::Iret | M::Iretd | M::Iretq => {
            op.size = match instr.mnemonic() {
                M::Iret => 2,
                M::Iretd => 4,
                _ => 8,
            };
            Some(iret::interrupt_return)
        }
        M::Int => {
            op.imm = instr.immediate(0);
            Some(interrupt::int)
        }
        M::Int3 => Some(interrupt::int3),
        M::Int1 => Some(interrupt::int1),
        M::Into => Some(interrupt::into),
        M::Bound => {
            op.dst = register(instr, 0, &mut op.size)?;
            Some(interrupt::bound)
        }
        M::Hlt => Some(interrupt::hlt),
        M::Syscall => Some(fast_call::syscall),
        M::Sysret | M::Sysretq => {
            op.size = if instr.mnemonic() == M::Sysretq {
                8
            } else {
                mode.code_bits.min(32) / 8
            };
            Some(fast_call::sysret)
        }
        M::Sysenter => Some(fast_call::sysenter),
        M::Sysexit | M::Sysexitq => {
            op.size = if instr.mnemonic() == M::Sysexitq {
                8
            } else {
                mode.code_bits.min(32) / 8
            };
            Some(fast_call::sysexit)
        }
        M::Vmcall => Some(identify::vmcall),
        M::Vmmcall => Some(identify::vmmcall),
        M::Rsm => Some(crate::smm::rsm),
        _ => None,
    }
}

/// The number of a control or debug register.
fn number(register: Register) -> u8 {
    register.number() as u8
}

fn registers(instr: &Instruction, _: &Mode, op: &mut Op) -> Option<Handler> {
    match instr.mnemonic() {
        M::Mov => {
            let (to, from) = (instr.op0_register(), instr.op1_register());
            if instr.op0_kind() != OpKind::Register || instr.op1_kind() != OpKind::Register {
                return None;
            }
            if from.is_cr() || from.is_dr() {
                op.dst = register(instr, 0, &mut op.size)?;
                op.src = number(from);
                return Some(if from.is_cr() {
                    control::read_control
                } else {
                    debug::read_debug
                });
            }
            if to.is_cr() || to.is_dr() {
                op.src = register(instr, 1, &mut op.size)?;
                op.dst = number(to);
                return Some(if to.is_cr() {
                    control::write_control
                } else {
                    debug::write_debug
                });
            }
            None
        }
        M::Lmsw => {
            op.size = 2;
            op.src = register(instr, 0, &mut op.size).unwrap_or(0);
            Some(control::lmsw)
        }
        M::Smsw => {
            op.size = 2;
            op.dst = register(instr, 0, &mut op.size).unwrap_or(0);
            Some(control::smsw)
        }
        M::Clts => Some(control::clts),
        M::Invlpg => Some(control::invlpg),
        M::Invpcid => {
            op.dst = register(instr, 0, &mut op.size)?;
            Some(control::invpcid)
        }
        M::Rdmsr => Some(msr::rdmsr),
        M::Wrmsr => Some(msr::wrmsr),
        M::Xgetbv => Some(msr::xgetbv),
        M::Xsetbv => Some(msr::xsetbv),
        M::Swapgs => Some(msr::swapgs),
        M::Rdpkru => Some(msr::rdpkru),
        M::Wrpkru => Some(msr::wrpkru),
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => {
            op.dst = register(instr, 0, &mut op.size)?;
            Some(match instr.mnemonic() {
                M::Rdfsbase => msr::rdfsbase,
                M::Rdgsbase => msr::rdgsbase,
                M::Wrfsbase => msr::wrfsbase,
                _ => msr::wrgsbase,
            })
        }
        M::Cpuid => Some(identify::cpuid),
        M::Rdtsc => Some(identify::rdtsc),
        M::Rdtscp => Some(identify::rdtscp),
        M::Rdpmc => Some(identify::rdpmc),
        M::Rdpid => {
            op.dst = register(instr, 0, &mut op.size)?;
            Some(identify::rdpid)
        }
        M::Rdrand | M::Rdseed => {
            op.dst = register(instr, 0, &mut op.size)?;
            Some(identify::random)
        }
        M::Monitor | M::Mwait => Some(identify::monitor),
        _ => None,
    }
}

fn descriptors(instr: &Instruction, mode: &Mode, op: &mut Op) -> Option<Handler> {
    let pseudo = |op: &mut Op, handler: Handler| {
        let narrow = matches!(
            instr.code(),
            Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 | Code::Sgdt_m1632_16 | Code::Sidt_m1632_16
        );
        op.size = match (mode.code_bits, narrow) {
            (64, _) => 8,
            (_, true) => 3,
            _ => 4,
        };
        Some(handler)
    };
    match instr.mnemonic() {
        M::Lgdt => pseudo(op, tables::lgdt),
        M::Lidt => pseudo(op, tables::lidt),
        M::Sgdt => pseudo(op, tables::sgdt),
        M::Sidt => pseudo(op, tables::sidt),
        M::Lldt | M::Ltr | M::Verr | M::Verw => {
            let mut size = 2;
            op.src = register(instr, 0, &mut size).unwrap_or(0);
            Some(match instr.mnemonic() {
                M::Lldt => tables::lldt,
                M::Ltr => tables::ltr,
                M::Verr => query::verr,
                _ => query::verw,
            })
        }
        M::Sldt | M::Str => {
            op.size = 2;
            op.dst = register(instr, 0, &mut op.size).unwrap_or(0);
            Some(if instr.mnemonic() == M::Sldt {
                tables::sldt
            } else {
                tables::str
            })
        }
        M::Lar | M::Lsl => {
            op.dst = register(instr, 0, &mut op.size)?;
            let mut size = 2;
            op.src = register(instr, 1, &mut size).unwrap_or(0);
            Some(if instr.mnemonic() == M::Lar {
                query::lar
            } else {
                query::lsl
            })
        }
        M::Arpl => {
            let mut size = 2;
            op.dst = register(instr, 0, &mut size).unwrap_or(0);
            op.src = register(instr, 1, &mut size)?;
            Some(query::arpl)
        }
        _ => None,
    }
}

fn port_io(instr: &Instruction, mode: &Mode, op: &mut Op) -> Option<Handler> {
    match instr.mnemonic() {
        M::In | M::Out => {
            let input = instr.mnemonic() == M::In;
            let (data, port) = if input { (0, 1) } else { (1, 0) };
            op.size = instr.op_register(data).size() as u8;
            if instr.op_kind(port) == OpKind::Register {
                op.src = ports::PORT_IN_DX;
            } else {
                op.imm = instr.immediate(port) & 0xff;
            }
            Some(if input { ports::port_in } else { ports::port_out })
        }
        M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => {
            op.size = instr.memory_size().size() as u8;
            op.address_size = mode.code_bits / 8;
            for n in 0..instr.op_count() {
                op.address_size = match instr.op_kind(n) {
                    OpKind::MemorySegSI | OpKind::MemoryESDI => 2,
                    OpKind::MemorySegESI | OpKind::MemoryESEDI => 4,
                    OpKind::MemorySegRSI | OpKind::MemoryESRDI => 8,
                    _ => continue,
                };
            }
            op.seg = segment_slot(instr.memory_segment());
            let input = matches!(instr.mnemonic(), M::Insb | M::Insw | M::Insd);
            Some(if input { ports::port_ins } else { ports::port_outs })
        }
        _ => None,
    }
}

fn flags_and_state(instr: &Instruction, mode: &Mode, op: &mut Op) -> Option<Handler> {
    match instr.mnemonic() {
        M::Cli => Some(flag_ops::cli),
        M::Sti => Some(flag_ops::sti),
        M::Stac => Some(flag_ops::stac),
        M::Clac => Some(flag_ops::clac),
        M::Pushf | M::Pushfd | M::Pushfq => {
            op.size = stack_width(instr, mode);
            Some(flag_ops::pushf)
        }
        M::Popf | M::Popfd | M::Popfq => {
            op.size = stack_width(instr, mode);
            Some(flag_ops::popf)
        }
        M::Fxsave | M::Fxsave64 => saved(op, instr.mnemonic() == M::Fxsave64, 0, extended::fxsave),
        M::Fxrstor | M::Fxrstor64 => saved(op, instr.mnemonic() == M::Fxrstor64, 0, extended::fxrstor),
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 => {
            let wide = matches!(instr.mnemonic(), M::Xsave64 | M::Xsaveopt64);
            saved(op, wide, extended::STANDARD, extended::xsave)
        }
        M::Xsavec | M::Xsavec64 => saved(
            op,
            instr.mnemonic() == M::Xsavec64,
            extended::COMPACTED,
            extended::xsave,
        ),
        M::Xsaves | M::Xsaves64 => saved(
            op,
            instr.mnemonic() == M::Xsaves64,
            extended::COMPACTED,
            extended::xsaves,
        ),
        M::Xrstors | M::Xrstors64 => saved(op, instr.mnemonic() == M::Xrstors64, 0, extended::xrstors),
        M::Xrstor | M::Xrstor64 => saved(op, instr.mnemonic() == M::Xrstor64, 0, extended::xrstor),
        _ => None,
    }
}

fn saved(op: &mut Op, wide: bool, format: u64, handler: Handler) -> Option<Handler> {
    op.dst = if wide { 8 } else { 4 };
    op.imm = format;
    Some(handler)
}

fn hints(instr: &Instruction) -> Option<Handler> {
    match instr.mnemonic() {
        M::Wbinvd | M::Invd | M::Wbnoinvd => Some(cache::flush_caches),
        M::Clflush | M::Clflushopt | M::Clwb => Some(cache::flush_line),
        M::Mfence | M::Serialize => Some(cache::full_fence),
        M::Lfence => Some(cache::load_fence),
        M::Sfence => Some(cache::store_fence),
        M::Prefetch
        | M::Prefetchw
        | M::Prefetchwt1
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Cldemote
        | M::Reservednop
        | M::Endbr32
        | M::Endbr64
        | M::Rdsspd
        | M::Rdsspq => Some(cache::nop),
        _ => None,
    }
}
