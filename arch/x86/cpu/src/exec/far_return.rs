//! RETF, and what it shares with IRET: the checks of a return to the same or an outer privilege level.

use super::descriptor::{Descriptor, is_null, rpl, selector_error};
use super::far::{Code, real_transfer};
use super::frame::Frame;
use super::segment::null_stack;
use crate::op::Op;
use crate::state::{DS, ES, FS, GS, SS, Segment};
use crate::{Core, Fault, Step, World};

/// RETF: `size` is the operand size, `imm` the number of bytes to release.
pub fn return_far(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let mut frame = Frame::current(core);
    let offset = frame.pop(core, world, op.size)?;
    let selector = frame.pop(core, world, op.size)? as u16;
    if core.mode.real_segments {
        real_transfer(core, selector, offset)?;
        frame.skip(op.imm);
        frame.commit(core);
        return Ok(());
    }
    let code = return_code(core, world, selector, offset)?;
    frame.skip(op.imm);
    if rpl(selector) == core.mode.cpl {
        core.mark_accessed(world, &code.descriptor)?;
        frame.commit(core);
        core.enter_code(&code);
        return Ok(());
    }
    let sp = frame.pop(core, world, op.size)?;
    let stack_selector = frame.pop(core, world, op.size)? as u16;
    let stack = return_stack(core, world, stack_selector, &code)?;
    core.mark_accessed(world, &code.descriptor)?;
    stack.mark_accessed(core, world)?;
    leave_outward(core, &code, stack.segment, sp, op.imm);
    Ok(())
}

/// Checks the code segment that a return leads to; its RPL is the new privilege level.
pub(super) fn return_code(core: &mut Core, world: &mut dyn World, selector: u16, offset: u64) -> Step<Code> {
    if is_null(selector) {
        return Err(Fault::GP0.into());
    }
    let descriptor = core.descriptor(world, selector, Fault::gp, 0)?;
    let rights = descriptor.attributes();
    let level = rpl(selector);
    let allowed = rights.is_code()
        && level >= core.mode.cpl
        && if rights.is_conforming() {
            rights.dpl() <= level
        } else {
            rights.dpl() == level
        };
    if !allowed {
        return Err(Fault::gp(selector_error(selector)).into());
    }
    core.code_is_loadable(&descriptor, selector)?;
    core.code_target(descriptor, selector, level, offset)
}

/// A stack segment that was checked; a null one has no descriptor.
pub(super) struct Stack {
    pub segment: Segment,
    descriptor: Option<Descriptor>,
}

impl Stack {
    pub fn mark_accessed(&self, core: &mut Core, world: &mut dyn World) -> Step {
        match self.descriptor {
            Some(ref descriptor) => core.mark_accessed(world, descriptor),
            None => Ok(()),
        }
    }
}

/// Checks the stack segment that a return leads to along with `code`.
pub(super) fn return_stack(
    core: &mut Core,
    world: &mut dyn World,
    selector: u16,
    code: &Code,
) -> Step<Stack> {
    let level = rpl(code.segment.selector);
    if is_null(selector) {
        let long = core.state.long_mode() && code.segment.attributes.long();
        if long && level != 3 && rpl(selector) == level {
            return Ok(Stack {
                segment: null_stack(selector, level),
                descriptor: None,
            });
        }
        return Err(Fault::GP0.into());
    }
    let error = selector_error(selector);
    let descriptor = core.descriptor(world, selector, Fault::gp, 0)?;
    let rights = descriptor.attributes();
    if rpl(selector) != level || rights.dpl() != level || !rights.is_writable() {
        return Err(Fault::gp(error).into());
    }
    if !rights.present() {
        return Err(Fault::ss(error).into());
    }
    Ok(Stack {
        segment: descriptor.segment(selector),
        descriptor: Some(descriptor),
    })
}

/// Continues at an outer privilege level, on its stack.
pub(super) fn leave_outward(core: &mut Core, code: &Code, stack: Segment, sp: u64, release: u64) {
    core.state.seg[SS] = stack;
    core.enter_code(code);
    let mut frame = Frame::current(core);
    frame.sp = sp;
    frame.skip(release);
    frame.commit(core);
    drop_inner_segments(core);
}

/// Nulls the data segments that the (outer) current privilege level may not use.
fn drop_inner_segments(core: &mut Core) {
    let cpl = core.mode.cpl;
    for seg in [ES, DS, FS, GS] {
        let segment = core.state.seg[seg];
        let rights = segment.attributes;
        if rights.dpl() < cpl && !rights.is_conforming() {
            // The base is kept: 64-bit mode goes on using those of FS and GS.
            core.state.seg[seg] = Segment {
                base: segment.base,
                ..Segment::null(0)
            };
        }
    }
}
