//! LAR, LSL, VERR, VERW, ARPL.

use super::protected_only;
use crate::exec::descriptor::{Descriptor, is_null, kind, rpl};
use crate::exec::segment::read_selector;
use crate::op::{Op, OpFlags};
use crate::state::flags;
use crate::world::Access;
use crate::{Core, Fault, Step, Stop, Vector, World};

/// The descriptor of the operand, if the current privilege level may see it.
fn visible(core: &mut Core, op: &Op, world: &mut dyn World) -> Step<Option<Descriptor>> {
    protected_only(core)?;
    let selector = read_selector(core, op, world)?;
    if is_null(selector) {
        return Ok(None);
    }
    let descriptor = match core.descriptor(world, selector, Fault::gp, 0) {
        Ok(descriptor) => descriptor,
        Err(Stop::Fault(fault)) if fault.vector == Vector::GP => return Ok(None),
        Err(stop) => return Err(stop),
    };
    let outer = rpl(selector).max(core.mode.cpl);
    let seen = descriptor.attributes().is_conforming() || descriptor.dpl() >= outer;
    Ok(seen.then_some(descriptor))
}

fn set_zf(core: &mut Core, zf: bool) {
    core.state.flags.update(flags::ZF, if zf { flags::ZF } else { 0 });
}

/// LAR: `dst` is the result register, `size` its width.
pub fn lar(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let long = core.state.long_mode();
    let found = visible(core, op, world)?.filter(|descriptor| {
        !descriptor.is_system()
            || match descriptor.kind() {
                kind::LDT | kind::TSS | kind::TSS_BUSY | kind::CALL_GATE => true,
                kind::TSS16 | kind::TSS16_BUSY | kind::CALL_GATE16 | kind::TASK_GATE => !long,
                _ => false,
            }
    });
    if let Some(descriptor) = found {
        core.set_reg_sized(op.dst, op.size, u64::from(descriptor.high & 0x00f0_ff00));
    }
    set_zf(core, found.is_some());
    Ok(())
}

/// LSL: `dst` is the result register, `size` its width.
pub fn lsl(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let long = core.state.long_mode();
    let found = visible(core, op, world)?.filter(|descriptor| {
        !descriptor.is_system()
            || match descriptor.kind() {
                kind::LDT | kind::TSS | kind::TSS_BUSY => true,
                kind::TSS16 | kind::TSS16_BUSY => !long,
                _ => false,
            }
    });
    if let Some(descriptor) = found {
        core.set_reg_sized(op.dst, op.size, u64::from(descriptor.limit()));
    }
    set_zf(core, found.is_some());
    Ok(())
}

pub fn verr(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let found = visible(core, op, world)?;
    set_zf(
        core,
        found.is_some_and(|descriptor| descriptor.attributes().is_readable()),
    );
    Ok(())
}

pub fn verw(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let found = visible(core, op, world)?;
    set_zf(
        core,
        found.is_some_and(|descriptor| descriptor.attributes().is_writable()),
    );
    Ok(())
}

/// ARPL: the destination is memory or `dst`, `src` the other register.
pub fn arpl(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    protected_only(core)?;
    let wanted = core.reg::<u16>(op.src) & 3;
    let adjust = |selector: u16| {
        if selector & 3 < wanted {
            selector & !3 | wanted
        } else {
            selector
        }
    };
    let old = if op.flags.has(OpFlags::MEMORY) {
        let linear = core.address(op, 2, Access::Read)?;
        let old = core.read::<u16>(world, linear, op.seg)?;
        if adjust(old) != old {
            let linear = core.address(op, 2, Access::Write)?;
            core.write(world, linear, op.seg, adjust(old))?;
        }
        old
    } else {
        let old = core.reg::<u16>(op.dst);
        core.set_reg(op.dst, adjust(old));
        old
    };
    set_zf(core, old & 3 < wanted);
    Ok(())
}
