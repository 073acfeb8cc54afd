//! Far jumps and calls, and what they reach: code segments, call gates, task gates and task-state segments.
//! Returns are in `far_return` and `iret`.

use super::descriptor::{Descriptor, is_null, kind, rpl, selector_error};
use super::frame::Frame;
use super::segment::{far_pointer, null_stack};
use crate::event::TaskCause;
use crate::mmu::access::is_canonical;
use crate::op::{Op, OpFlags};
use crate::state::{CS, SS, Segment};
use crate::{Core, Fault, Step, World};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transfer {
    Jump,
    Call,
}

/// A code segment that was checked and may be entered.
#[derive(Clone, Copy)]
pub(crate) struct Code {
    pub descriptor: Descriptor,
    pub segment: Segment,
    pub offset: u64,
}

impl Core {
    /// The RIP of the instruction after `op`.
    pub(crate) fn following(&self, op: &Op) -> u64 {
        self.next_rip(op)
    }

    /// Checks that `offset` can be executed in a code segment, and makes the segment's register value.
    pub(crate) fn code_target(
        &self,
        descriptor: Descriptor,
        selector: u16,
        cpl: u8,
        offset: u64,
    ) -> Step<Code> {
        let segment = descriptor.segment(selector & 0xfffc | u16::from(cpl));
        let long = self.state.long_mode() && segment.attributes.long();
        let inside = if long {
            is_canonical(offset)
        } else {
            offset <= u64::from(segment.limit)
        };
        if inside {
            Ok(Code {
                descriptor,
                segment,
                offset,
            })
        } else {
            Err(Fault::GP0.into())
        }
    }

    /// Continues at `code`; the caller has set SS where the privilege level changes.
    pub(crate) fn enter_code(&mut self, code: &Code) {
        self.state.seg[CS] = code.segment;
        self.state.rip = code.offset;
        self.refresh();
    }

    /// The fault of a code segment that may not be present, or is both 64-bit and 32-bit.
    pub(crate) fn code_is_loadable(&self, descriptor: &Descriptor, selector: u16) -> Step {
        let rights = descriptor.attributes();
        if self.state.long_mode() && rights.long() && rights.big() {
            return Err(Fault::gp(selector_error(selector)).into());
        }
        if !rights.present() {
            return Err(Fault::np(selector_error(selector)).into());
        }
        Ok(())
    }
}

fn target(core: &mut Core, op: &Op, world: &mut dyn World) -> Step<(u16, u64)> {
    if op.flags.has(OpFlags::MEMORY) {
        far_pointer(core, op, world)
    } else {
        Ok(((op.imm >> 32) as u16, op.imm & 0xffff_ffff))
    }
}

/// JMP FAR: `size` is the offset's, an immediate pointer has its selector in bits 32..48 of `imm`.
pub fn jump_far(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let (selector, offset) = target(core, op, world)?;
    if core.mode.real_segments {
        return real_transfer(core, selector, offset);
    }
    transfer(core, op, world, selector, offset, Transfer::Jump)
}

/// CALL FAR, operands as for [`jump_far`].
pub fn call_far(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let (selector, offset) = target(core, op, world)?;
    if core.mode.real_segments {
        let mut frame = Frame::current(core);
        push_return(core, op, world, &mut frame, op.size)?;
        real_transfer(core, selector, offset)?;
        frame.commit(core);
        return Ok(());
    }
    transfer(core, op, world, selector, offset, Transfer::Call)
}

fn push_return(core: &mut Core, op: &Op, world: &mut dyn World, frame: &mut Frame, size: u8) -> Step {
    let next = core.following(op);
    frame.push(core, world, size, u64::from(core.state.seg[CS].selector))?;
    frame.push(core, world, size, next)
}

/// Loads CS:IP in real or virtual-8086 mode.
pub(crate) fn real_transfer(core: &mut Core, selector: u16, offset: u64) -> Step {
    let segment = core.real_segment(CS, selector);
    if offset > u64::from(segment.limit) {
        return Err(Fault::GP0.into());
    }
    core.state.seg[CS] = segment;
    core.state.rip = offset;
    core.refresh();
    Ok(())
}

fn transfer(
    core: &mut Core,
    op: &Op,
    world: &mut dyn World,
    selector: u16,
    offset: u64,
    how: Transfer,
) -> Step {
    if is_null(selector) {
        return Err(Fault::GP0.into());
    }
    let descriptor = core.descriptor(world, selector, Fault::gp, 0)?;
    if descriptor.is_system() {
        return system_transfer(core, op, world, selector, &descriptor, how);
    }
    let rights = descriptor.attributes();
    let cpl = core.mode.cpl;
    let allowed = if rights.is_conforming() {
        rights.dpl() <= cpl
    } else {
        rights.is_code() && rpl(selector) <= cpl && rights.dpl() == cpl
    };
    if !allowed {
        return Err(Fault::gp(selector_error(selector)).into());
    }
    core.code_is_loadable(&descriptor, selector)?;
    let code = core.code_target(descriptor, selector, cpl, offset)?;
    same_privilege(core, op, world, &code, how, op.size)
}

fn same_privilege(
    core: &mut Core,
    op: &Op,
    world: &mut dyn World,
    code: &Code,
    how: Transfer,
    size: u8,
) -> Step {
    let mut frame = Frame::current(core);
    if how == Transfer::Call {
        push_return(core, op, world, &mut frame, size)?;
    }
    core.mark_accessed(world, &code.descriptor)?;
    frame.commit(core);
    core.enter_code(code);
    Ok(())
}

/// The selector is not one of a code segment.
fn system_transfer(
    core: &mut Core,
    op: &Op,
    world: &mut dyn World,
    selector: u16,
    descriptor: &Descriptor,
    how: Transfer,
) -> Step {
    let error = selector_error(selector);
    let long = core.state.long_mode();
    let outer = rpl(selector).max(core.mode.cpl);
    let kind = descriptor.kind();
    let known = match kind {
        kind::CALL_GATE => true,
        kind::CALL_GATE16 | kind::TASK_GATE | kind::TSS | kind::TSS16 => !long,
        _ => false,
    };
    if !known || descriptor.dpl() < outer {
        return Err(Fault::gp(error).into());
    }
    if !descriptor.present() {
        return Err(Fault::np(error).into());
    }
    let cause = if how == Transfer::Call {
        TaskCause::Call
    } else {
        TaskCause::Jump
    };
    let next = core.following(op);
    let image = core.state.rflags();
    match kind {
        kind::TSS | kind::TSS16 => core.task_switch(world, selector, cause, next, image),
        kind::TASK_GATE => core.task_switch(world, descriptor.gate_selector(), cause, next, image),
        _ => call_gate(core, op, world, selector, how),
    }
}

fn call_gate(core: &mut Core, op: &Op, world: &mut dyn World, gate_selector: u16, how: Transfer) -> Step {
    let long = core.state.long_mode();
    let gate = core.system_descriptor(world, gate_selector, Fault::gp)?;
    // The upper half of a 64-bit gate must not look like a descriptor of its own.
    if long && gate.last & 0x1f00 != 0 {
        return Err(Fault::gp(selector_error(gate_selector)).into());
    }
    let size = match (long, gate.kind()) {
        (true, _) => 8,
        (false, kind::CALL_GATE) => 4,
        (false, _) => 2,
    };
    let selector = gate.gate_selector();
    if is_null(selector) {
        return Err(Fault::GP0.into());
    }
    let descriptor = core.descriptor(world, selector, Fault::gp, 0)?;
    let rights = descriptor.attributes();
    let cpl = core.mode.cpl;
    let wrong_size = long && (!rights.long() || rights.big());
    let inward = how == Transfer::Call && !rights.is_conforming() && rights.dpl() < cpl;
    let allowed = rights.dpl() == cpl || rights.dpl() < cpl && (rights.is_conforming() || inward);
    if !rights.is_code() || wrong_size || !allowed {
        return Err(Fault::gp(selector_error(selector)).into());
    }
    core.code_is_loadable(&descriptor, selector)?;
    let offset = gate.gate_offset(size);
    if !inward {
        let code = core.code_target(descriptor, selector, cpl, offset)?;
        return same_privilege(core, op, world, &code, how, size);
    }
    let code = core.code_target(descriptor, selector, rights.dpl(), offset)?;
    if long {
        inner_call64(core, op, world, &code)
    } else {
        inner_call(core, op, world, &code, size, (gate.high & 0x1f) as u8)
    }
}

/// A call through a gate to an inner level, with `count` parameters copied.
fn inner_call(core: &mut Core, op: &Op, world: &mut dyn World, code: &Code, size: u8, count: u8) -> Step {
    let cpl = code.segment.attributes.dpl();
    let stack = core.inner_stack(world, cpl, 0)?;
    let outer = Frame::current(core);
    let mut frame = stack.frame(core, 0);
    frame.push(core, world, size, u64::from(core.state.seg[SS].selector))?;
    frame.push(core, world, size, outer.sp)?;
    for n in (0..count).rev() {
        let value = outer.peek(core, world, u64::from(n) * u64::from(size), size)?;
        frame.push(core, world, size, value)?;
    }
    push_return(core, op, world, &mut frame, size)?;
    core.mark_accessed(world, &stack.descriptor)?;
    core.mark_accessed(world, &code.descriptor)?;
    core.state.seg[SS] = stack.segment;
    frame.commit(core);
    core.enter_code(code);
    Ok(())
}

fn inner_call64(core: &mut Core, op: &Op, world: &mut dyn World, code: &Code) -> Step {
    let cpl = code.segment.attributes.dpl();
    let sp = core.tss_stack64(world, 4 + 8 * u64::from(cpl), 0)?;
    let mut frame = Frame::long(core, sp, cpl, 0);
    frame.push(core, world, 8, u64::from(core.state.seg[SS].selector))?;
    frame.push(core, world, 8, core.state.gpr[crate::state::RSP])?;
    push_return(core, op, world, &mut frame, 8)?;
    core.mark_accessed(world, &code.descriptor)?;
    core.state.seg[SS] = null_stack(u16::from(cpl), cpl);
    frame.commit(core);
    core.enter_code(code);
    Ok(())
}
