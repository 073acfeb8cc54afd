//! Telling two ends of the same case apart, but for what the architecture leaves undefined.

use super::layout::{self, PAGE};
use super::{CODE64, Machine, Trap, VectorState, makers, save};
use iced_x86::{CodeSize, Instruction, Mnemonic as M, OpKind, Register, RflagsBits};

/// One difference, in words.
pub type Difference = String;

/// RFLAGS.RF tells how the exception came about and not what the code did; IF is the operating system's.
const NOT_COMPARED: u64 = 1 << 16 | 1 << 9;

const BREAKPOINT: u64 = 3;

/// How `ours` differs from `host`, whoever made that.
pub fn differences(
    instr: &Instruction,
    start: &Machine,
    host: (&Machine, Trap),
    ours: (&Machine, Trap),
) -> Vec<Difference> {
    let found = strict(instr, start, host, ours);
    if found.is_empty() {
        return found;
    }
    match makers::elsewhere(instr, start, host, ours) {
        Some(end) => strict(instr, start, (&end.machine, end.trap), ours),
        None => found,
    }
}

/// How `ours` differs from `host`, where both are to do the same.
pub fn strict(
    instr: &Instruction,
    start: &Machine,
    host: (&Machine, Trap),
    ours: (&Machine, Trap),
) -> Vec<Difference> {
    let mut found = Vec::new();
    traps(instr, host.1, ours.1, &mut found);
    let (host, ours, trap) = (host.0, ours.0, host.1);
    let mut word = |name: &str, host: u64, ours: u64| {
        if host != ours {
            found.push(format!("{name}: host {host:#x}, ours {ours:#x}"));
        }
    };
    // 32-bit code has eight registers, and the upper halves of those are undefined.
    let (count, kept) = match start.registers.cs {
        CODE64 => (16, u64::MAX),
        _ => (8, 0xffff_ffff),
    };
    let pairs = host.registers.gpr.iter().zip(&ours.registers.gpr);
    for (name, (h, o)) in GPR.iter().zip(pairs).take(count) {
        word(name, h & kept, o & kept);
    }
    let (h, o) = (&host.registers, &ours.registers);
    word("rip", h.rip, o.rip);
    let undefined = match trap.vector {
        BREAKPOINT => undefined_flags(instr, start),
        _ => 0,
    };
    let mask = !(undefined | NOT_COMPARED);
    word("rflags", h.rflags & mask, o.rflags & mask);
    word("fs_base", h.fs_base, o.fs_base);
    word("gs_base", h.gs_base, o.gs_base);
    // A faulting MASKMOVQ may or may not have turned the x87 registers over to MMX.
    let moved = instr.mnemonic() == M::Maskmovq && trap.vector != BREAKPOINT;
    vectors(&host.vector, &ours.vector, &mut found);
    if !moved {
        x87(instr, &start.vector, (&host.vector, &ours.vector), &mut found);
    }
    memory(host, ours, &mut found);
    found
}

const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

fn traps(instr: &Instruction, host: Trap, ours: Trap, found: &mut Vec<Difference>) {
    const STACK: u64 = 12;
    const PROTECTION: u64 = 13;
    const ALIGNMENT: u64 = 17;
    const PAGE_FAULT: u64 = 14;
    // The kernel calls all of its half of the addresses present, and the page below the middle, lest processes learn what
    // is there.
    const FIRST_KEPT: u64 = 0x7fff_ffff_f000;
    let kept_secret = u64::from(host.vector == PAGE_FAULT && host.cr2 >= FIRST_KEPT);
    // AMD's processors call some sums of a segment's base and a wild offset not canonical that are.
    let based = matches!(instr.memory_segment(), Register::FS | Register::GS);
    let wild = based && (host.vector, ours.vector) == (PROTECTION, PAGE_FAULT) && ours.cr2 >> 63 != 0;
    let both_fault = host.vector != BREAKPOINT && ours.vector != BREAKPOINT;
    // What is misaligned and partly beyond a segment's limit: the order depends on the pieces an operand is taken in.
    let limit = |vector| matches!(vector, STACK | PROTECTION);
    let either =
        host.vector == ALIGNMENT && limit(ours.vector) || ours.vector == ALIGNMENT && limit(host.vector);
    let beyond = either && instr.code_size() != CodeSize::Code64;
    if wild || beyond || both_fault && has_free_order(instr) {
        return;
    }
    if host.vector != ours.vector {
        found.push(format!("exception: host {host:x?}, ours {ours:x?}"));
    } else if (host.error ^ ours.error) & !kept_secret != 0 {
        found.push(format!(
            "error code: host {:#x}, ours {:#x}",
            host.error, ours.error
        ));
    } else if host.vector == PAGE_FAULT && (host.cr2 ^ ours.cr2) & !uncertain_address(instr) != 0 {
        found.push(format!("cr2: host {:#x}, ours {:#x}", host.cr2, ours.cr2));
    }
}

/// Whether each processor touches the parts of its memory operands in an order of its own, so that of two faults either
/// may be the one.
fn has_free_order(instr: &Instruction) -> bool {
    let compares = matches!(instr.mnemonic(), M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq);
    // Not the CMPSD of SSE.
    compares && instr.is_string_instruction()
        || save::is_extended(instr)
        || matches!(
            instr.mnemonic(),
            M::Fnstenv
                | M::Fldenv
                | M::Fnsave
                | M::Frstor
                | M::Fxsave
                | M::Fxsave64
                | M::Fxrstor
                | M::Fxrstor64
                | M::Maskmovq
                | M::Maskmovdqu
                | M::Vmaskmovdqu
        )
}

/// The bits of a faulting address that are each processor's own affair.
fn uncertain_address(instr: &Instruction) -> u64 {
    // Of an operand with masked elements, the page is certain and not the byte.
    if instr.op_mask() == Register::None {
        0
    } else {
        PAGE - 1
    }
}

fn vectors(host: &VectorState, ours: &VectorState, found: &mut Vec<Difference>) {
    if host == ours {
        return;
    }
    for (n, (h, o)) in host.zmm.iter().zip(&ours.zmm).enumerate() {
        if h != o {
            found.push(format!("zmm{n}: host {:x?}, ours {:x?}", h.0, o.0));
        }
    }
    for (n, (h, o)) in host.k.iter().zip(&ours.k).enumerate() {
        if h != o {
            found.push(format!("k{n}: host {h:#x}, ours {o:#x}"));
        }
    }
    if host.mxcsr() != ours.mxcsr() {
        found.push(format!(
            "mxcsr: host {:#x}, ours {:#x}",
            host.mxcsr(),
            ours.mxcsr()
        ));
    }
}

fn x87(
    instr: &Instruction,
    start: &VectorState,
    (host, ours): (&VectorState, &VectorState),
    found: &mut Vec<Difference>,
) {
    let (h, o) = (&host.x87, &ours.x87);
    if h == o {
        return;
    }
    /// How much of a pointer is kept is the processor's affair, but never less than this.
    const POINTER: u64 = 0xffff_ffff_ffff;
    let words = [
        ("fcw", u64::from(h.fcw()), u64::from(o.fcw())),
        ("fsw", h.fsw().into(), o.fsw().into()),
        ("ftw", h.abridged_tags().into(), o.abridged_tags().into()),
    ];
    // The pointers are part of what an exception leaves; AMD's processors save them only while one is pending.
    let pointers = [
        ("fop", h.pointers.fop.into(), o.pointers.fop.into()),
        ("fip", h.pointers.fip & POINTER, o.pointers.fip & POINTER),
        ("fdp", h.pointers.fdp & POINTER, o.pointers.fdp & POINTER),
    ];
    // In a program the last operand may be that of an instruction before the one that made the exception pending: Intel's
    // processors forget it then.
    let has_memory = (0..instr.op_count()).any(|n| instr.op_kind(n) == OpKind::Memory);
    let earlier = !has_memory && o.pointers.fdp != start.x87.pointers.fdp;
    let count = if earlier { 2 } else { 3 };
    let pending = if h.exception_pending() {
        &pointers[..count]
    } else {
        &[]
    };
    for (name, h, o) in words.iter().chain(pending) {
        if h != o {
            found.push(format!("{name}: host {h:#x}, ours {o:#x}"));
        }
    }
    for n in 0..8 {
        if h.st(n) != o.st(n) {
            found.push(format!("st{n}: host {:x?}, ours {:x?}", h.st(n), o.st(n)));
        }
    }
}

fn memory(host: &Machine, ours: &Machine, found: &mut Vec<Difference>) {
    if host.memory == ours.memory {
        return;
    }
    let different = |at: &usize| host.memory[*at] != ours.memory[*at];
    let all: Vec<usize> = (0..host.memory.len()).filter(different).collect();
    for &at in all.iter().take(8) {
        found.push(format!(
            "[{:#x}]: host {:#x}, ours {:#x}",
            layout::address(at),
            host.memory[at],
            ours.memory[at]
        ));
    }
    if all.len() > 8 {
        found.push(format!("and {} more bytes", all.len() - 8));
    }
}

/// The status flags that the manuals leave undefined after this instruction.
fn undefined_flags(instr: &Instruction, start: &Machine) -> u64 {
    if matches!(
        instr.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    ) && shift_count(instr, start) == 0
    {
        return 0;
    }
    let mut bits = instr.rflags_undefined();
    if matches!(instr.mnemonic(), M::Rcl | M::Rcr) && shift_count(instr, start) != 1 {
        // Also if the count is a multiple of what is rotated, and nothing moves.
        bits |= RflagsBits::OF;
    }
    [
        (RflagsBits::CF, 0),
        (RflagsBits::PF, 2),
        (RflagsBits::AF, 4),
        (RflagsBits::ZF, 6),
        (RflagsBits::SF, 7),
        (RflagsBits::OF, 11),
    ]
    .into_iter()
    .filter(|(bit, _)| bits & bit != 0)
    .fold(0, |mask, (_, at)| mask | 1 << at)
}

/// How far a shift goes.
fn shift_count(instr: &Instruction, start: &Machine) -> u64 {
    let last = instr.op_count() - 1;
    let count = if instr.op_kind(last) == iced_x86::OpKind::Register {
        start.registers.gpr[1]
    } else {
        instr.immediate(last)
    };
    let wide = if instr.op0_kind() == iced_x86::OpKind::Memory {
        instr.memory_size().size() == 8
    } else {
        instr.op0_register().size() == 8
    };
    count & if wide { 63 } else { 31 }
}
