//! IRET in every mode.

use super::descriptor::rpl;
use super::far::real_transfer;
use super::far_return::{leave_outward, return_code, return_stack};
use super::frame::Frame;
use crate::core::Attention;
use crate::event::TaskCause;
use crate::op::Op;
use crate::state::{CR4_VME, CS, DS, ES, FS, GS, RSP, SS, Segment, flags};
use crate::{Core, Fault, Step, World};

const TASK_FLAGS: u64 = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT;
const WIDE_FLAGS: u64 = flags::RF | flags::AC | flags::ID;

/// IRET, IRETD, IRETQ: `size` is the operand size.
pub fn interrupt_return(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    if core.mode.real_segments {
        return_real(core, op, world)?;
    } else if core.state.flags.has(flags::NT) {
        if core.state.long_mode() {
            return Err(Fault::GP0.into());
        }
        return_to_task(core, op, world)?;
    } else {
        return_protected(core, op, world)?;
    }
    core.state.interruptibility.nmi_blocked = false;
    core.attention.0 |= Attention::WINDOW;
    Ok(())
}

/// Replaces the flags in `mask` by those in `bits`.
pub(crate) fn replace_flags(core: &mut Core, mask: u64, bits: u64) {
    let all = core.state.rflags() & !mask | bits & mask;
    core.state.set_rflags(all);
}

fn return_real(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let mut mask = TASK_FLAGS | flags::IF | flags::IOPL;
    if op.size != 2 {
        mask |= WIDE_FLAGS;
    }
    let mut virtualised = false;
    if core.state.flags.has(flags::VM) {
        mask &= !flags::IOPL;
        if core.state.flags.iopl() < 3 {
            if op.size != 2 || core.state.cr4 & CR4_VME == 0 {
                return Err(Fault::GP0.into());
            }
            virtualised = true;
            mask &= !flags::IF;
        }
    }
    let mut frame = Frame::current(core);
    let offset = frame.pop(core, world, op.size)?;
    let selector = frame.pop(core, world, op.size)? as u16;
    let mut image = frame.pop(core, world, op.size)?;
    if virtualised {
        let wants = image & flags::IF != 0;
        if image & flags::TF != 0 || wants && core.state.flags.has(flags::VIP) {
            return Err(Fault::GP0.into());
        }
        mask |= flags::VIF;
        image = image & !flags::VIF | if wants { flags::VIF } else { 0 };
    }
    real_transfer(core, selector, offset)?;
    frame.commit(core);
    replace_flags(core, mask, image);
    core.refresh();
    Ok(())
}

fn return_to_task(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let mut link = [0; 2];
    let at = core.system_address(core.state.tr.base, 0);
    core.read_system(world, at, &mut link)?;
    let next = core.following(op);
    let image = core.state.rflags();
    core.task_switch(world, u16::from_le_bytes(link), TaskCause::Return, next, image)
}

fn return_protected(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let mut frame = Frame::current(core);
    let offset = frame.pop(core, world, op.size)?;
    let selector = frame.pop(core, world, op.size)? as u16;
    let image = frame.pop(core, world, op.size)?;
    let cpl = core.mode.cpl;
    if image & flags::VM != 0 && op.size == 4 && cpl == 0 && !core.state.long_mode() {
        return return_virtual(core, world, frame, selector, offset, image);
    }
    let code = return_code(core, world, selector, offset)?;
    let mask = return_mask(core, op.size);
    let outward = rpl(selector) != cpl;
    if !outward && core.mode.code_bits != 64 {
        core.mark_accessed(world, &code.descriptor)?;
        frame.commit(core);
        replace_flags(core, mask, image);
        core.enter_code(&code);
        return Ok(());
    }
    let sp = frame.pop(core, world, op.size)?;
    let stack_selector = frame.pop(core, world, op.size)? as u16;
    let stack = return_stack(core, world, stack_selector, &code)?;
    core.mark_accessed(world, &code.descriptor)?;
    stack.mark_accessed(core, world)?;
    replace_flags(core, mask, image);
    if outward {
        leave_outward(core, &code, stack.segment, sp, 0);
    } else {
        core.state.seg[SS] = stack.segment;
        core.state.gpr[RSP] = sp;
        core.enter_code(&code);
    }
    Ok(())
}

/// The flags that IRET may change at the current privilege level.
fn return_mask(core: &Core, size: u8) -> u64 {
    let cpl = core.mode.cpl;
    let mut mask = TASK_FLAGS;
    if cpl <= core.state.flags.iopl() {
        mask |= flags::IF;
    }
    if cpl == 0 {
        mask |= flags::IOPL;
    }
    if size != 2 {
        mask |= WIDE_FLAGS;
        if cpl == 0 {
            mask |= flags::VIF | flags::VIP;
        }
    }
    mask
}

/// A return to virtual-8086 mode.
fn return_virtual(
    core: &mut Core,
    world: &mut dyn World,
    mut frame: Frame,
    selector: u16,
    offset: u64,
    image: u64,
) -> Step {
    let sp = frame.pop(core, world, 4)?;
    let mut selectors = [0; 5];
    for slot in &mut selectors {
        *slot = frame.pop(core, world, 4)? as u16;
    }
    if offset > 0xffff {
        return Err(Fault::GP0.into());
    }
    core.state.set_rflags(image);
    core.state.seg[CS] = Segment::real(selector, 0xf3);
    for (seg, selector) in [SS, ES, DS, FS, GS].into_iter().zip(selectors) {
        core.state.seg[seg] = Segment::real(selector, 0xf3);
    }
    core.state.rip = offset;
    core.state.gpr[RSP] = sp;
    core.refresh();
    Ok(())
}
