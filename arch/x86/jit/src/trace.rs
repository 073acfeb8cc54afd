//! What is translated as one piece: an instruction that runs into another page, or blocks that follow each other within one,
//! along the way that was taken most often while they were interpreted.
//!
//! A trace goes on behind calls (the callee returns there), behind what only the interpreter can do, and through jumps; the
//! other way of a conditional jump leaves it. If it comes back to its beginning, it holds the loop twice: the first time for
//! what every round shares, the second time to stay in.

use crate::callout::Kind;
use crate::{flat, registers};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic};
use ring3_x86_cpu::block::{Block, Blocks};
use ring3_x86_cpu::op::Op;
use ring3_x86_cpu::{Core, decode};

/// Instructions of a trace, and of a loop's two copies.
const MOST: usize = 160;
/// Blocks of a trace.
const MOST_BLOCKS: usize = 20;

/// Where a trace goes on after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// At the next one in memory.
    Next,
    /// Where it branches to.
    Taken,
}

/// An instruction of a trace.
#[derive(Clone)]
pub struct Step {
    pub instr: Instruction,
    pub op: Op,
    /// The general registers that it uses in any way, and those that it writes.
    pub used: [bool; 16],
    pub written: [bool; 16],
    /// The linear address of its block.
    pub block: u64,
    pub bytes: [u8; decode::MAX_INSTRUCTION],
    pub way: Way,
    /// How many instructions its block has, for the first of them.
    pub begins: Option<usize>,
}

impl Step {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.instr.len().min(decode::MAX_INSTRUCTION)]
    }

    /// What its operation can do to what follows it.
    pub fn kind(&self) -> Kind {
        if decode::sets_rip(&self.instr) {
            Kind::Branches
        } else if self.may_shadow() {
            Kind::MayShadow
        } else if decode::ends_block(&self.instr) {
            Kind::Changes
        } else {
            Kind::Plain
        }
    }

    /// Whether translations of addresses may be others behind it.
    pub fn is_barrier(&self) -> bool {
        let flow = self.instr.flow_control();
        matches!(self.kind(), Kind::Changes | Kind::MayShadow)
            || matches!(flow, FlowControl::Call | FlowControl::IndirectCall)
    }

    /// Whether interrupts may be held back for one instruction behind it.
    pub fn may_shadow(&self) -> bool {
        self.instr.mnemonic() == Mnemonic::Sti
    }
}

/// What follows the last instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The instruction with this number: where the second copy begins.
    Loop(usize),
    /// The code at this address.
    To(u64),
    /// The same, but the interpreter is to execute it.
    Leave(u64),
    /// Nothing: the last instruction goes elsewhere.
    Nothing,
}

pub struct Trace {
    pub steps: Vec<Step>,
    pub end: End,
}

/// The trace that begins with a block at a linear address; `None` if its first instruction must be the interpreter's.
pub fn collect(core: &Core, blocks: &Blocks, head: u32, linear: u64) -> Option<Trace> {
    if core.mode.code_bits == 32 && linear >= flat::LAST_PAGE {
        return None;
    }
    let mut collector = Collector {
        core,
        blocks,
        first: head,
        head: linear,
        heads: vec![linear],
        steps: Vec::new(),
        info: InstructionInfoFactory::new(),
    };
    let end = collector.all();
    (!collector.steps.is_empty()).then_some(Trace {
        steps: collector.steps,
        end,
    })
}

struct Collector<'a> {
    core: &'a Core,
    blocks: &'a Blocks,
    first: u32,
    head: u64,
    /// Where the blocks of the trace begin.
    heads: Vec<u64>,
    steps: Vec<Step>,
    info: InstructionInfoFactory,
}

impl Collector<'_> {
    fn all(&mut self) -> End {
        let (mut index, mut linear) = (self.first, self.head);
        loop {
            if let Some(end) = self.block(self.blocks.get(index), linear) {
                return end;
            }
            let Some((way, next)) = self.onward() else {
                return End::Nothing;
            };
            if let Some(last) = self.steps.last_mut() {
                last.way = way;
            }
            if next == self.head
                && !self.blocks.get(self.first).crosses_page()
                && self.steps.len() * 2 <= MOST
            {
                let again = self.steps.len();
                self.steps.extend_from_within(..);
                return End::Loop(again);
            }
            let follows = self.follows(next);
            let Some(found) = follows.filter(|_| self.has_room() && !self.heads.contains(&next)) else {
                return if self.steps.last().is_some_and(Step::may_shadow) {
                    End::Leave(next)
                } else {
                    End::To(next)
                };
            };
            self.heads.push(next);
            (index, linear) = (found, next);
        }
    }

    fn has_room(&self) -> bool {
        self.steps.len() < MOST / 2 && self.heads.len() < MOST_BLOCKS
    }

    /// Adds the instructions of a block, up to the first that must be the interpreter's.
    fn block(&mut self, block: &Block, linear: u64) -> Option<End> {
        let Some(code) = self.blocks.code(block) else {
            return Some(End::Leave(linear));
        };
        let first = self.steps.len();
        let bits = self.core.mode.code_bits.into();
        let mut decoder = Decoder::with_ip(bits, &code, linear, DecoderOptions::NONE);
        let mut end = None;
        for op in &block.ops {
            // What precedes an instruction may have to be skipped.
            let start = usize::from(op.start);
            if decoder.position() != start && decoder.set_position(start).is_ok() {
                decoder.set_ip(linear.wrapping_add(u64::from(op.start)));
            }
            let instr = flat::widened(decoder.decode());
            if instr.is_invalid() || !self.core.features.include(&instr) {
                end = Some(End::Leave(linear.wrapping_add(u64::from(op.start))));
                break;
            }
            let mut bytes = [0; decode::MAX_INSTRUCTION];
            if let Some(these) = code.get(usize::from(op.start)..usize::from(op.next)) {
                bytes[..these.len()].copy_from_slice(these);
            }
            let (used, written) = registers::used_and_written(&instr, &mut self.info);
            self.steps.push(Step {
                instr,
                op: *op,
                used,
                written,
                block: linear,
                bytes,
                way: Way::Next,
                begins: None,
            });
        }
        let count = self.steps.len() - first;
        if let Some(step) = self.steps.get_mut(first) {
            step.begins = Some(count);
        }
        end
    }

    /// Where the trace goes on after its last instruction, if that says so.
    fn onward(&self) -> Option<(Way, u64)> {
        let instr = &self.steps.last()?.instr;
        if decode::sets_rip(instr) && !is_near_branch(instr) {
            return None;
        }
        match instr.flow_control() {
            FlowControl::UnconditionalBranch => Some((Way::Taken, instr.near_branch64())),
            FlowControl::IndirectBranch | FlowControl::Return => None,
            FlowControl::ConditionalBranch if instr.is_jcc_short_or_near() => {
                let (taken, next) = (instr.near_branch64(), instr.next_ip());
                if taken == self.head || self.heat(taken) > self.heat(next) {
                    Some((Way::Taken, taken))
                } else {
                    Some((Way::Next, next))
                }
            }
            FlowControl::ConditionalBranch => None,
            _ => Some((Way::Next, instr.next_ip())),
        }
    }

    /// The block at an address of the same page, if there is one that can follow. An instruction that runs into the next page
    /// is a trace by itself.
    fn follows(&self, linear: u64) -> Option<u32> {
        if self.blocks.get(self.first).crosses_page() || linear >> 12 != self.head >> 12 {
            return None;
        }
        let index = self.blocks.neighbour(self.first, linear)?;
        let block = self.blocks.get(index);
        (!block.crosses_page() && !block.ops.is_empty()).then_some(index)
    }

    /// How often the block there was interpreted.
    fn heat(&self, linear: u64) -> u32 {
        match self
            .follows(linear)
            .map(|index| self.blocks.get(index).translated.heat)
        {
            None => 0,
            Some(crate::NEVER | 0) => 1,
            Some(heat) => heat,
        }
    }
}

/// Whether a branch stays in its segment.
fn is_near_branch(instr: &Instruction) -> bool {
    instr.is_jcc_short_or_near()
        || instr.is_jmp_short_or_near()
        || instr.is_call_near()
        || instr.is_call_near_indirect()
        || instr.is_jmp_near_indirect()
        || instr.is_loopcc()
        || instr.is_loop()
        || instr.is_jcx_short()
        || matches!(instr.mnemonic(), Mnemonic::Ret)
}

#[cfg(test)]
pub mod testing {
    use super::{Step, Way};
    use crate::registers;
    use iced_x86::{Instruction, InstructionInfoFactory};
    use ring3_x86_cpu::{Core, decode};

    /// A step of an instruction, good for looking at it.
    pub fn step(instr: Instruction) -> Step {
        let mut core = Core::new();
        Step {
            instr,
            used: [false; 16],
            written: registers::used_and_written(&instr, &mut InstructionInfoFactory::new()).1,
            op: decode::operation(&mut core, &instr, &[], 0, 0),
            block: 0,
            bytes: [0; decode::MAX_INSTRUCTION],
            way: Way::Next,
            begins: None,
        }
    }
}
