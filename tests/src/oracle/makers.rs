//! What processors of different makers do differently, each as the manuals allow. Ours mostly does as AMD's do; from an end
//! that an Intel processor comes to, the rules here make the one that an AMD processor would have come to. A rule does so
//! only where the host's end is the very one that is known of Intel's processors, so that any other difference stays one.

use super::layout::{self, PAGE};
use super::values::{AC, STATUS, read};
use super::{CODE32, CODE64, Machine, Trap};
use iced_x86::{EncodingKind, Instruction, Mnemonic as M, OpKind, Register};
use ring3_host::native::xsave::{PointerWidth, XFEATURE_HI16_ZMM, XFEATURE_X87, XFEATURES, XSAVE_HEADER};

/// How one case ended.
#[derive(Clone)]
pub struct End {
    pub machine: Machine,
    pub trap: Trap,
}

/// What both ends came of, and ours.
struct Case<'a> {
    instr: &'a Instruction,
    start: &'a Machine,
    ours: &'a Machine,
    trap: Trap,
}

type Rule = fn(&Case<'_>, &mut End) -> Option<()>;

/// By instruction, how Intel's processors end it otherwise. A rule that does not apply leaves the end as it is.
const RULES: &[(&[M], Rule)] = &[
    (
        &[
            M::Movsb,
            M::Movsw,
            M::Movsd,
            M::Movsq,
            M::Stosb,
            M::Stosw,
            M::Stosd,
            M::Stosq,
            M::Lodsb,
            M::Lodsw,
            M::Lodsd,
            M::Lodsq,
            M::Cmpsb,
            M::Cmpsw,
            M::Cmpsd,
            M::Cmpsq,
            M::Scasb,
            M::Scasw,
            M::Scasd,
            M::Scasq,
        ],
        narrow_repetition,
    ),
    (
        &[
            M::Cmpsb,
            M::Cmpsw,
            M::Cmpsd,
            M::Cmpsq,
            M::Scasb,
            M::Scasw,
            M::Scasd,
            M::Scasq,
        ],
        restored_flags,
    ),
    (&[M::Bound], lower_bound),
    (&[M::Call], return_address),
    (&[M::Cmpxchg, M::Cmpxchg8b], last_bytes),
    (
        &[M::Fst, M::Fstp, M::Fist, M::Fistp, M::Fisttp, M::Fbstp],
        x87_exception,
    ),
    (&[M::Fstp, M::Fbstp], first_part),
    (&[M::Movd, M::Movq, M::Movntq], mmx_store),
    (
        &[M::Vmaskmovps, M::Vmaskmovpd, M::Vpmaskmovd, M::Vpmaskmovq],
        masked_store,
    ),
    (
        &[
            M::Vpgatherdd,
            M::Vpgatherdq,
            M::Vpgatherqd,
            M::Vpgatherqq,
            M::Vgatherdps,
            M::Vgatherdpd,
            M::Vgatherqps,
            M::Vgatherqpd,
        ],
        gather,
    ),
    (&[M::Vcvtps2ph], half_precision),
    (&[M::Xsave, M::Xsaveopt, M::Xsavec], registers_in_use),
    (&[M::Xrstor, M::Xrstor64], legacy_registers),
    (&[M::Vpcompressb, M::Vpcompressw], compressed_store),
];

const BREAKPOINT: u64 = 3;
const BOUND_EXCEEDED: u64 = 5;
const STACK: u64 = 12;
const PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
const ALIGNMENT: u64 = 17;
const SIMD: u64 = 19;

/// The host's end as another maker's processor would have come to it, as far as the rules say.
pub fn elsewhere(
    instr: &Instruction,
    start: &Machine,
    host: (&Machine, Trap),
    ours: (&Machine, Trap),
) -> Option<End> {
    let case = Case {
        instr,
        start,
        ours: ours.0,
        trap: ours.1,
    };
    let mut rules = RULES
        .iter()
        .filter(|(names, _)| names.contains(&instr.mnemonic()))
        .peekable();
    rules.peek()?;
    let mut end = End {
        machine: host.0.clone(),
        trap: host.1,
    };
    for (_, rule) in rules {
        rule(&case, &mut end);
    }
    Some(end)
}

impl Case<'_> {
    /// Whether ours ended with a fault of the access to memory.
    fn access_faulted(&self) -> bool {
        matches!(self.trap.vector, STACK | PROTECTION | PAGE_FAULT | ALIGNMENT)
    }

    /// Whether both ended with the same fault.
    fn same_fault(&self, end: &End) -> bool {
        self.trap.vector != BREAKPOINT && self.trap.vector == end.trap.vector
    }

    fn repeats(&self) -> bool {
        let prefix = self.instr.has_rep_prefix() || self.instr.has_repne_prefix();
        prefix && self.instr.is_string_instruction()
    }

    fn long(&self) -> bool {
        self.start.registers.cs == CODE64
    }

    /// Where the segments begin.
    fn base(&self) -> u64 {
        match self.start.registers.cs {
            CODE64 | CODE32 => 0,
            _ => layout::CODE,
        }
    }

    /// The linear address of the memory operand, which the instruction has not changed a register of.
    fn address(&self) -> Option<u64> {
        let registers = &self.ours.registers;
        let operand = self.instr.op_kinds().position(|kind| kind == OpKind::Memory)?;
        self.instr
            .virtual_address(operand as u32, 0, |register, _, _| match register {
                Register::FS if self.long() => Some(registers.fs_base),
                Register::GS if self.long() => Some(registers.gs_base),
                _ if register.is_segment_register() => Some(self.base()),
                _ if register.is_gpr() => {
                    let whole = registers.gpr.get(register.full_register().number())?;
                    Some(whole & u64::MAX >> (64 - 8 * register.size()))
                }
                _ => None,
            })
    }
}

/// Nothing, if the condition does not hold.
fn only_if(condition: bool) -> Option<()> {
    condition.then_some(())
}

/// Takes bytes of ours for those of the host's, from `at` on, that are as is known: given where, the host's and ours.
fn take_bytes(
    case: &Case<'_>,
    end: &mut End,
    at: u64,
    size: u64,
    known: impl Fn(u64, u8, u8) -> bool,
) -> Option<()> {
    for n in 0..size {
        let place = layout::offset(at.wrapping_add(n))?;
        let ours = case.ours.memory[place];
        let host = &mut end.machine.memory[place];
        if known(n, *host, ours) {
            *host = ours;
        }
    }
    Some(())
}

/// With 32-bit addresses in 64-bit code, Intel's processors clear the upper halves of the count and of the pointers even if
/// they do nothing else.
fn narrow_repetition(case: &Case<'_>, end: &mut End) -> Option<()> {
    let narrow = |kind| matches!(kind, OpKind::MemorySegESI | OpKind::MemoryESEDI);
    only_if(case.repeats() && case.long() && case.instr.op_kinds().any(narrow))?;
    for register in [Register::RCX, Register::RSI, Register::RDI] {
        let ours = case.ours.registers.gpr[register.number()];
        let host = &mut end.machine.registers.gpr[register.number()];
        if *host == ours & 0xffff_ffff {
            *host = ours;
        }
    }
    Some(())
}

/// Where a repeated comparison faults, Intel's processors have the flags again that were there before it; on AMD's they are
/// the last iteration's.
fn restored_flags(case: &Case<'_>, end: &mut End) -> Option<()> {
    only_if(case.repeats() && case.same_fault(end))?;
    let host = &mut end.machine.registers.rflags;
    // What an instruction before it left is not known here.
    let alone = case.ours.registers.rip == case.start.registers.rip;
    only_if(!alone || (*host ^ case.start.registers.rflags) & STATUS == 0)?;
    *host = *host & !STATUS | case.ours.registers.rflags & STATUS;
    Some(())
}

/// Intel's processors do not read the upper bound if the index is below the lower one.
fn lower_bound(case: &Case<'_>, end: &mut End) -> Option<()> {
    only_if(end.trap.vector == BOUND_EXCEEDED && case.access_faulted())?;
    let register = case.instr.op0_register();
    let at = case.address()? & 0xffff_ffff;
    layout::offset(at).and(layout::offset(at + register.size() as u64 - 1))?;
    let signed = |value: u64| match register.size() {
        2 => i64::from(value as i16),
        _ => i64::from(value as i32),
    };
    let index = *case.ours.registers.gpr.get(register.full_register().number())?;
    let bound = read(&case.start.memory, at, register.size());
    only_if(signed(index) < signed(bound))?;
    end.trap = case.trap;
    Some(())
}

/// Intel's processors look at where a call leads only when the return address is already below the stack pointer.
fn return_address(case: &Case<'_>, end: &mut End) -> Option<()> {
    only_if(case.same_fault(end) && case.trap.vector == PROTECTION)?;
    let registers = &case.ours.registers;
    let size = u64::from(case.instr.stack_pointer_increment().unsigned_abs());
    let mask = match registers.cs {
        CODE64 => u64::MAX,
        CODE32 => 0xffff_ffff,
        _ => 0xffff,
    };
    let at = (registers.gpr[Register::RSP.number()].wrapping_sub(size) & mask).wrapping_add(case.base());
    let address = registers.rip + case.instr.len() as u64;
    take_bytes(case, end, at, size, |n, host, _| {
        host == (address >> (8 * n)) as u8
    })
}

/// The manual leaves open whether what runs beyond the last of 4 GiB exceeds a segment's limit. To Intel's processors these
/// instructions do not, and what is there cannot be accessed either.
fn last_bytes(case: &Case<'_>, end: &mut End) -> Option<()> {
    const LAST: u64 = 0xffff_ffff;
    only_if(case.start.registers.cs == CODE32)?;
    only_if(matches!(case.trap.vector, STACK | PROTECTION) && end.trap.vector == PAGE_FAULT)?;
    let beyond = case.address()? + case.instr.memory_size().size() as u64 - 1 > LAST;
    only_if(beyond && (end.trap.cr2 ^ LAST) & LAST < PAGE)?;
    end.trap = case.trap;
    Some(())
}

/// Status flags of the x87: exceptions that keep a result from being stored.
const UNSTORED: u16 = 1 << 0 | 1 << 3 | 1 << 4;

/// Intel's processors find an x87 exception that leaves nothing to store before they look at where it would go.
fn x87_exception(case: &Case<'_>, end: &mut End) -> Option<()> {
    /// Besides the exceptions, their summary and its twin: C1.
    const CHANGED: u16 = 0x80ff | 1 << 9;
    let registers = &mut end.machine.registers;
    let next = case.ours.registers.rip + case.instr.len() as u64;
    only_if(case.access_faulted() && end.trap.vector == BREAKPOINT && registers.rip == next + 1)?;
    let (host, ours) = (&mut end.machine.vector.x87, &case.ours.vector.x87);
    only_if(host.exception_pending() && host.fsw() & !host.fcw() & UNSTORED != 0)?;
    only_if((host.fsw() ^ ours.fsw()) & !CHANGED == 0)?;
    host.set_fsw(ours.fsw());
    host.pointers = ours.pointers;
    registers.rip = case.ours.registers.rip;
    end.trap = case.trap;
    Some(())
}

/// Intel's processors store ten bytes in two parts, the first of which may be done when the second faults.
fn first_part(case: &Case<'_>, end: &mut End) -> Option<()> {
    const PART: u64 = 8;
    /// What is stored of an empty register.
    const INDEFINITE: u64 = 0xc000_0000_0000_0000;
    only_if(case.instr.memory_size().size() == 10 && case.same_fault(end) && case.access_faulted())?;
    let x87 = &case.ours.vector.x87;
    let full = x87.abridged_tags() >> (x87.fsw() >> 11 & 7) & 1 != 0;
    let value = match x87.st(0).first_chunk() {
        Some(low) if full => u64::from_le_bytes(*low),
        _ => INDEFINITE,
    };
    let is_number = case.instr.mnemonic() == M::Fstp;
    take_bytes(case, end, case.address()?, PART, |n, host, _| {
        !is_number || host == (value >> (8 * n)) as u8
    })
}

/// On Intel's processors, the x87's TOP is already zero, for MMX, when a store of such a register faults.
fn mmx_store(case: &Case<'_>, end: &mut End) -> Option<()> {
    const TOP: u16 = 0x3800;
    let stores = case.instr.op0_kind() == OpKind::Memory && case.instr.op1_register().is_mm();
    only_if(stores && case.same_fault(end))?;
    let (host, ours) = (&mut end.machine.vector.x87, &case.ours.vector.x87);
    let top = usize::from((ours.fsw() & TOP) >> 11);
    let turned = (0..8).all(|n| host.st(n) == ours.st((n + 8 - top) & 7));
    let words = (host.fcw(), host.fsw(), host.abridged_tags());
    only_if(turned && words == (ours.fcw(), ours.fsw() & !TOP, ours.abridged_tags()))?;
    host.clone_from(ours);
    Some(())
}

/// Of a faulting store under a mask, Intel's processors name any address in the page.
fn masked_store(case: &Case<'_>, end: &mut End) -> Option<()> {
    only_if(case.instr.op0_kind() == OpKind::Memory && case.same_fault(end))?;
    only_if(end.trap.vector == PAGE_FAULT && (end.trap.cr2 ^ case.trap.cr2) < PAGE)?;
    end.trap.cr2 = case.trap.cr2;
    Some(())
}

/// When a gather of AVX2's faults, Intel's processors have already spread the signs in the mask and cleared what lies above
/// the vectors.
fn gather(case: &Case<'_>, end: &mut End) -> Option<()> {
    only_if(case.instr.encoding() == EncodingKind::VEX && case.same_fault(end))?;
    let (data, mask) = (case.instr.op0_register(), case.instr.op2_register());
    let element = case.instr.memory_size().size();
    let whole = data.size().max(case.instr.memory_index().size());
    let ours = &case.ours.vector;
    let host = &mut end.machine.vector;
    let mut spread = ours.zmm[mask.number()];
    for lane in 0..64 / element {
        let set = lane < whole / element && spread.lane(element, lane) >> (8 * element - 1) != 0;
        spread.set_lane(element, lane, if set { u64::MAX } else { 0 });
    }
    if host.zmm[mask.number()] == spread {
        host.zmm[mask.number()] = ours.zmm[mask.number()];
    }
    for size in [data.size(), whole] {
        let mut cleared = ours.zmm[data.number()];
        cleared.0[size / 8..].fill(0);
        if host.zmm[data.number()] == cleared {
            host.zmm[data.number()] = ours.zmm[data.number()];
        }
    }
    Some(())
}

/// Intel's processors convert, and find what is wrong with the numbers, before they look at where the result would go.
fn half_precision(case: &Case<'_>, end: &mut End) -> Option<()> {
    const FLAGS: u32 = 0x3f;
    only_if(case.instr.op0_kind() == OpKind::Memory && case.access_faulted())?;
    let host = &mut end.machine.vector;
    let (theirs, mine) = (host.mxcsr(), case.ours.vector.mxcsr());
    let more_flags = theirs & !FLAGS == mine & !FLAGS && theirs & mine == mine;
    let unmasked = theirs & FLAGS & !(theirs >> 7) != 0;
    only_if(more_flags && (end.trap.vector == case.trap.vector || end.trap.vector == SIMD && unmasked))?;
    end.trap = case.trap;
    host.set_mxcsr(mine).ok()
}

/// Outside of 64-bit mode, Intel's processors never call the upper sixteen registers in use.
fn registers_in_use(case: &Case<'_>, end: &mut End) -> Option<()> {
    only_if(!case.long())?;
    let header = case.address()?.wrapping_add(XSAVE_HEADER as u64);
    let upper = XFEATURE_HI16_ZMM as u8;
    take_bytes(case, end, header, 1, |_, host, ours| host == ours & !upper)
}

/// Of an image in the compacted format, Intel's processors have loaded x87 and XMM registers, and reset what the image has
/// not, when they find MXCSR wrong.
fn legacy_registers(case: &Case<'_>, end: &mut End) -> Option<()> {
    const COMPACTED: u8 = 0x80;
    only_if(case.same_fault(end) && case.trap.vector == PROTECTION)?;
    let at = layout::offset(case.address()?)?;
    let image = case.start.memory.get(at..at + XSAVE_HEADER + 16)?;
    let (requested, present) = (case.ours.registers.gpr[0], u64::from(image[XSAVE_HEADER]));
    let mut loaded = case.ours.vector.clone();
    only_if(image[XSAVE_HEADER + 15] & COMPACTED != 0 && loaded.load_mxcsr(image).is_err())?;
    loaded.reset(requested & !present & XFEATURES);
    if !case.long() {
        loaded.zmm[8..].copy_from_slice(&case.ours.vector.zmm[8..]);
    }
    if requested & present & XFEATURE_X87 != 0 {
        loaded.load_x87(image, PointerWidth::Quad);
    }
    loaded.load_xmm(image, if case.long() { 16 } else { 8 });
    let (host, ours) = (&mut end.machine.vector, &case.ours.vector);
    if (host.zmm, host.k) == (loaded.zmm, loaded.k) {
        (host.zmm, host.k) = (ours.zmm, ours.k);
    }
    loaded.x87.pointers = host.x87.pointers;
    if host.x87 == loaded.x87 {
        host.x87.clone_from(&ours.x87);
    }
    Some(())
}

/// In which pieces compressed bytes and words are stored, and whether these have to be aligned, seems to be chance on AMD's
/// processors.
fn compressed_store(case: &Case<'_>, end: &mut End) -> Option<()> {
    let checks = case.ours.registers.rflags & AC != 0 && case.instr.op0_kind() == OpKind::Memory;
    only_if(checks && end.trap.vector == ALIGNMENT && case.address()? % 16 != 0)?;
    end.machine.clone_from(case.ours);
    end.trap = case.trap;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::compare::differences;
    use super::super::{Mode, values};
    use super::*;
    use fastrand::Rng;
    use iced_x86::{Decoder, DecoderOptions};

    const WRITE_FAULT: Trap = Trap {
        vector: PAGE_FAULT,
        error: 7,
        cr2: layout::READ_ONLY,
    };

    /// Whether a host's end is taken for ours, which has changed nothing and faults.
    fn is_known(code: &[u8], prepare: impl Fn(&mut Machine), end: impl Fn(&mut Machine)) -> bool {
        let instr = Decoder::new(64, code, DecoderOptions::NONE).decode();
        let mut rng = Rng::with_seed(1);
        let memory = values::memory(&mut rng);
        let mut start = values::machine(&mut rng, memory, Mode::Long);
        prepare(&mut start);
        let mut host = start.clone();
        end(&mut host);
        differences(&instr, &start, (&host, WRITE_FAULT), (&start, WRITE_FAULT)).is_empty()
    }

    #[test]
    fn a_store_of_mmx_may_have_turned_the_registers_and_no_more() {
        // movq [rdi], mm1
        let code = [0x0f, 0x7f, 0x0f];
        let prepare = |start: &mut Machine| start.vector.x87.set_fsw(2 << 11);
        let turn = |host: &mut Machine| {
            let before = host.vector.x87.clone();
            host.vector.x87.set_fsw(0);
            for n in 0..8 {
                host.vector.x87.set_st(n, before.st((n + 6) & 7));
            }
        };
        assert!(is_known(&code, prepare, turn));
        let more = |host: &mut Machine| {
            turn(host);
            host.vector.x87.set_st(3, [0x55; 10]);
        };
        assert!(!is_known(&code, prepare, more));
        // movq [rdi], xmm1
        assert!(!is_known(&[0x66, 0x0f, 0xd6, 0x0f], prepare, turn));
    }

    #[test]
    fn a_narrow_repetition_may_have_cleared_upper_halves_and_no_more() {
        // rep stosb [edi]
        let code = [0x67, 0xf3, 0xaa];
        let prepare = |start: &mut Machine| {
            start.registers.gpr[1] = 0x1_0000_0005;
            start.registers.gpr[7] = 0x1_0000_0000 | layout::READ_ONLY;
        };
        let clear = |host: &mut Machine| {
            host.registers.gpr[1] = 5;
            host.registers.gpr[7] = layout::READ_ONLY;
        };
        assert!(is_known(&code, prepare, clear));
        let step = |host: &mut Machine| host.registers.gpr[1] = 4;
        assert!(!is_known(&code, prepare, step));
        // rep stosb [rdi]
        assert!(!is_known(&code[1..], prepare, clear));
    }
}
