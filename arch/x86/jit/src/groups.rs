//! Accesses that share one lookup: those of a block off the same register, unchanged between them, near each other.
//!
//! The first of them looks up the whole span, and leaves where it is in the host for the others. RSP counts as unchanged
//! where pushes, pops and sums with constants move it. If the span is not to be had at once (it may cross a page, or not be
//! mapped), the first access takes its slow way and leaves the translation. Where that happens again and again, the page's code
//! is translated anew without the group.
//!
//! Nothing is shared across a call or what may void translations. What a loop does not change is looked up
//! before its second copy.

use crate::registers;
use crate::trace::{End, Step, Trace};
use crate::translate::Touch;
use iced_x86::{Code, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

/// Groups in a trace.
pub const MOST: usize = 16;
/// Bytes that a group spans.
const WIDEST: i64 = 256;
const RSP: usize = 4;
const RBP: usize = 5;

/// Accesses that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub span: usize,
    pub touch: Touch,
}

/// An access's part in its group.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub group: usize,
    /// Where the access lies in the span.
    pub offset: i32,
    /// The guest register, and how far from its value at this instruction the span begins.
    pub base: u8,
    pub from_base: i32,
}

/// An access by one instruction.
struct Access {
    base: usize,
    displacement: i64,
    size: i64,
    touch: Touch,
}

/// A group being collected. Places count from the register's value when it was last changed.
struct Open {
    base: usize,
    version: u32,
    low: i64,
    high: i64,
    touch: Touch,
    /// Instruction, the access's place, and how far the register has moved there.
    members: Vec<(usize, i64, i64)>,
}

/// The registers' versions, and how far RSP has moved since its last.
#[derive(Default)]
struct Versions {
    of: [u32; 16],
    moved: i64,
}

impl Versions {
    fn step(&mut self, step: &Step) {
        if step.is_barrier() {
            self.bump_all(|_| true);
            return;
        }
        let moved = moves_stack(&step.instr);
        self.bump_all(|register| step.written[register] && (register != RSP || moved.is_none()));
        self.moved += moved.unwrap_or(0);
    }

    fn bump_all(&mut self, which: impl Fn(usize) -> bool) {
        for register in (0..16).filter(|register| which(*register)) {
            self.of[register] += 1;
            if register == RSP {
                self.moved = 0;
            }
        }
    }
}

/// The registers that these steps change.
fn changed(steps: &[Step]) -> [bool; 16] {
    let mut versions = Versions::default();
    for step in steps {
        versions.step(step);
    }
    let stack = steps.iter().any(|step| moves_stack(&step.instr).is_some());
    std::array::from_fn(|register| versions.of[register] != 0 || register == RSP && stack)
}

/// The registers that a loop changes otherwise than by a small constant in every round.
pub fn wild(trace: &Trace) -> [bool; 16] {
    let End::Loop(first) = trace.end else {
        return [true; 16];
    };
    let mut wild = [false; 16];
    for step in &trace.steps[first..] {
        let mut versions = Versions::default();
        versions.step(step);
        let by_constant = is_step(&step.instr).map(registers::number);
        for register in (0..16).filter(|register| Some(*register) != by_constant) {
            wild[register] |= versions.of[register] != 0;
        }
    }
    wild
}

/// Whether a step stays in its page most often.
fn is_short(step: u64) -> bool {
    (step as i64).unsigned_abs() <= 128
}

/// The register to which an instruction adds a constant, if that is all it does.
fn is_step(instr: &Instruction) -> Option<Register> {
    let register = instr.op0_register();
    let on_register = instr.op0_kind() == OpKind::Register && register.is_gpr() && register.size() >= 4;
    let steps = match instr.mnemonic() {
        Mnemonic::Inc | Mnemonic::Dec => true,
        Mnemonic::Add | Mnemonic::Sub => {
            !matches!(instr.op1_kind(), OpKind::Register | OpKind::Memory) && is_short(instr.immediate(1))
        }
        Mnemonic::Lea => {
            instr.memory_base() == register
                && instr.memory_index() == Register::None
                && is_short(registers::displacement(instr) as u64)
        }
        _ => false,
    };
    (on_register && steps).then_some(register)
}

/// The groups of a trace, and for each instruction its part in one. No group begins with an access that is to be `apart`.
pub fn plan(
    trace: &Trace,
    info: &mut InstructionInfoFactory,
    apart: impl Fn(&Instruction) -> bool,
) -> (Vec<Group>, Vec<Option<Member>>) {
    let steps = &trace.steps;
    let mut versions = Versions::default();
    let mut open: Vec<Open> = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        if trace.end == End::Loop(n) {
            let changed = changed(&steps[n..]);
            versions.bump_all(|register| changed[register]);
        }
        if let Some(access) = access(&step.instr, info) {
            let delta = if access.base == RSP { versions.moved } else { 0 };
            collect(&mut open, n, &access, versions.of[access.base], delta);
        }
        versions.step(step);
    }
    let mut groups = Vec::new();
    let mut members = vec![None; steps.len()];
    for found in open
        .into_iter()
        .filter(|found| found.members.len() > 1 && !apart(&steps[found.members[0].0].instr))
        .take(MOST)
    {
        for (n, place, delta) in &found.members {
            members[*n] = Some(Member {
                group: groups.len(),
                offset: (place - found.low) as i32,
                base: found.base as u8,
                from_base: (found.low - delta) as i32,
            });
        }
        groups.push(Group {
            span: (found.high - found.low) as usize,
            touch: found.touch,
        });
    }
    (groups, members)
}

fn collect(open: &mut Vec<Open>, n: usize, access: &Access, version: u32, delta: i64) {
    let low = access.displacement + delta;
    let high = low + access.size;
    let mut fitting = open.iter_mut().rev().filter(|group| {
        group.base == access.base
            && group.version == version
            && group.high.max(high) - group.low.min(low) <= WIDEST
    });
    match fitting.next() {
        Some(group) => {
            group.low = group.low.min(low);
            group.high = group.high.max(high);
            if access.touch == Touch::Write {
                group.touch = Touch::Write;
            }
            group.members.push((n, low, delta));
        }
        None => open.push(Open {
            base: access.base,
            version,
            low,
            high,
            touch: access.touch,
            members: vec![(n, low, delta)],
        }),
    }
}

/// The one access of an instruction, if it has one off a plain register.
fn access(instr: &Instruction, info: &mut InstructionInfoFactory) -> Option<Access> {
    let slot = |base, displacement, touch| {
        Some(Access {
            base,
            displacement,
            size: registers::width(instr).bytes().into(),
            touch,
        })
    };
    let pushed = -i64::from(registers::width(instr).bytes());
    let by_register = instr.op0_kind() == OpKind::Register;
    match instr.code() {
        code if pushes(code) => return slot(RSP, pushed, Touch::Write),
        Code::Call_rel32_64 | Code::Call_rel32_32 => return slot(RSP, pushed, Touch::Write),
        Code::Call_rm64 | Code::Call_rm32 if by_register => return slot(RSP, pushed, Touch::Write),
        Code::Pop_r64 | Code::Retnq | Code::Retnq_imm16 | Code::Pop_r32 | Code::Retnd | Code::Retnd_imm16 => {
            return slot(RSP, 0, Touch::Read);
        }
        Code::Leaveq | Code::Leaved => return slot(RBP, 0, Touch::Read),
        _ => {}
    }
    let operands = (0..instr.op_count())
        .filter(|n| instr.op_kind(*n) == OpKind::Memory)
        .count();
    let base = instr.memory_base();
    let plain = operands == 1
        && base.is_gpr()
        && base.size() as i32 == registers::width(instr).bytes()
        && instr.memory_index() == Register::None
        && registers::is_in_flat_segment(instr)
        && instr.flow_control() == iced_x86::FlowControl::Next
        && !instr.is_stack_instruction()
        && instr.mnemonic() != Mnemonic::Lea;
    let size = instr.memory_size().size() as i64;
    let used = info.info(instr).used_memory();
    let displacement = registers::displacement(instr);
    if !plain || !(1..=64).contains(&size) || used.len() != 1 || displacement.unsigned_abs() > 1 << 30 {
        return None;
    }
    let reads = matches!(used[0].access(), OpAccess::Read | OpAccess::CondRead);
    Some(Access {
        base: base.number(),
        displacement,
        size,
        touch: if reads { Touch::Read } else { Touch::Write },
    })
}

/// Pushes of a register or a constant, as wide as the stack's slots are. Each code is of one width.
fn pushes(code: Code) -> bool {
    use Code as C;
    matches!(
        code,
        C::Push_r64 | C::Pushq_imm8 | C::Pushq_imm32 | C::Push_r32 | C::Pushd_imm8 | C::Pushd_imm32
    )
}

/// How far an instruction moves RSP, if it moves it by a constant.
pub fn moves_stack(instr: &Instruction) -> Option<i64> {
    let slot = i64::from(registers::width(instr).bytes());
    let register = instr.op0_register();
    let on_rsp = instr.op0_kind() == OpKind::Register
        && registers::number(register) == RSP
        && register.size() as i64 == slot;
    match instr.code() {
        code if pushes(code) => Some(-slot),
        Code::Pop_r64 | Code::Pop_r32 if !on_rsp => Some(slot),
        Code::Add_rm64_imm8 | Code::Add_rm64_imm32 if on_rsp => Some(instr.immediate(1) as i64),
        Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 if on_rsp => Some(-(instr.immediate(1) as i64)),
        Code::Add_rm32_imm8 | Code::Add_rm32_imm32 if on_rsp => Some((instr.immediate(1) as i32).into()),
        Code::Sub_rm32_imm8 | Code::Sub_rm32_imm32 if on_rsp => Some(-i64::from(instr.immediate(1) as i32)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn planned(code: &[u8]) -> (Vec<Group>, Vec<Option<Member>>) {
        planned_without(code, |_| false)
    }

    fn planned_without(
        code: &[u8],
        apart: impl Fn(&Instruction) -> bool,
    ) -> (Vec<Group>, Vec<Option<Member>>) {
        let steps = Decoder::new(64, code, DecoderOptions::NONE)
            .into_iter()
            .map(crate::trace::testing::step)
            .collect();
        let end = End::Nothing;
        plan(&Trace { steps, end }, &mut InstructionInfoFactory::new(), apart)
    }

    #[test]
    fn pushes_share_one_lookup() {
        // push rbp; push rbx; sub rsp, 24; mov [rsp+8], rax
        let (groups, members) = planned(&[0x55, 0x53, 0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x44, 0x24, 0x08]);
        assert_eq!(
            (groups.len(), groups[0].span, groups[0].touch),
            (1, 32, Touch::Write)
        );
        let place = |n: usize| members[n].map(|m| (m.offset, m.from_base));
        assert_eq!(place(0), Some((24, -32)));
        assert_eq!(place(1), Some((16, -24)));
        assert_eq!(place(2), None);
        assert_eq!(place(3), Some((0, 8)));
    }

    #[test]
    fn a_changed_register_begins_another_group() {
        // mov rax, [rbx]; mov rbx, [rbx+8]; mov rcx, [rbx]; mov rdx, [rbx+4]
        let (groups, members) = planned(&[
            0x48, 0x8b, 0x03, 0x48, 0x8b, 0x5b, 0x08, 0x48, 0x8b, 0x0b, 0x48, 0x8b, 0x53, 0x04,
        ]);
        assert_eq!(groups.iter().map(|g| g.span).collect::<Vec<_>>(), [16, 12]);
        let group = |n: usize| members[n].map(|m| m.group);
        assert_eq!(
            [group(0), group(1), group(2), group(3)],
            [Some(0), Some(0), Some(1), Some(1)]
        );
        assert!(groups.iter().all(|g| g.touch == Touch::Read));
    }

    #[test]
    fn what_is_to_be_apart_begins_no_group() {
        // push rbp; push rbx; mov rax, [rsi]; mov rcx, [rsi+8]
        let code = [0x55, 0x53, 0x48, 0x8b, 0x06, 0x48, 0x8b, 0x4e, 0x08];
        let (groups, members) = planned_without(&code, |instr| instr.ip() == 0);
        assert_eq!(groups.len(), 1);
        assert!(members[0].is_none() && members[1].is_none() && members[2].is_some() && members[3].is_some());
    }

    #[test]
    fn what_is_far_away_or_alone_is_not_grouped() {
        // mov rax, [rbx]; mov rcx, [rbx+400h]; mov rdx, [rsi]
        let (groups, members) = planned(&[
            0x48, 0x8b, 0x03, 0x48, 0x8b, 0x8b, 0x00, 0x04, 0x00, 0x00, 0x48, 0x8b, 0x16,
        ]);
        assert!(groups.is_empty() && members.iter().all(Option::is_none));
    }
}
