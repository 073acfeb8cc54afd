//! INT n, INT3, INT1, INTO, BOUND, HLT.

use super::flag_ops::virtual_image;
use super::privileged;
use crate::core::Attention;
use crate::event::Event;
use crate::op::Op;
use crate::state::{CR4_VME, flags};
use crate::world::Access;
use crate::{Core, Fault, Step, Stop, Vector, World};

/// INT n: `imm` is the vector.
pub fn int(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let vector = op.imm as u8;
    let next = core.following(op);
    if core.state.virtual_8086() {
        let own_handler = core.state.cr4 & CR4_VME != 0 && !is_redirected(core, world, vector)?;
        if own_handler {
            return int_virtual(core, world, vector, next);
        }
        if core.state.flags.iopl() < 3 {
            return Err(Fault::GP0.into());
        }
    }
    deliver(core, world, Event::Software { vector, next })
}

/// INT3.
pub fn int3(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    if core.debug.intercept_bp {
        return Err(Stop::Intercepted(Vector::BP as u8));
    }
    let next = core.following(op);
    deliver(
        core,
        world,
        Event::Software {
            vector: Vector::BP as u8,
            next,
        },
    )
}

/// INT1.
pub fn int1(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    if core.debug.intercept_db {
        return Err(Stop::Intercepted(Vector::DB as u8));
    }
    let next = core.following(op);
    let held = core.debug_status;
    deliver(
        core,
        world,
        Event::PrivilegedSoftware {
            vector: Vector::DB as u8,
            next,
        },
    )?;
    // What a load of SS just before held back comes with this exception.
    if held != 0 {
        core.state.dr6 = core.state.dr6 & !0xf | held;
        core.debug_status &= !held;
    }
    Ok(())
}

/// INTO.
pub fn into(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let next = core.following(op);
    if core.state.flags.of() {
        return deliver(
            core,
            world,
            Event::Software {
                vector: Vector::OF as u8,
                next,
            },
        );
    }
    core.state.rip = next;
    Ok(())
}

/// A fault on the way is one of this instruction; the run loop raises it.
fn deliver(core: &mut Core, world: &mut dyn World, event: Event) -> Step {
    core.deliver_once(event, world)
}

/// Whether the redirection bitmap of the TSS sends an INT n of virtual-8086 mode to the monitor.
fn is_redirected(core: &mut Core, world: &mut dyn World, vector: u8) -> Step<bool> {
    let tr = core.state.tr;
    let mut map = [0; 2];
    let at = core.system_address(tr.base, 0x66);
    if tr.limit < 0x67 {
        return Err(Fault::GP0.into());
    }
    core.read_system(world, at, &mut map)?;
    let offset = u64::from(u16::from_le_bytes(map))
        .wrapping_sub(32)
        .wrapping_add(u64::from(vector / 8));
    if offset > u64::from(tr.limit) {
        return Err(Fault::GP0.into());
    }
    let mut byte = [0];
    let at = core.system_address(tr.base, offset);
    core.read_system(world, at, &mut byte)?;
    Ok(byte[0] >> (vector & 7) & 1 != 0)
}

fn int_virtual(core: &mut Core, world: &mut dyn World, vector: u8, next: u64) -> Step {
    if core.state.flags.iopl() == 3 {
        let image = core.state.rflags();
        core.deliver_virtual(vector, next, image, world)?;
        core.state.flags.system &= !(flags::IF | flags::TF);
    } else {
        let image = virtual_image(core);
        core.deliver_virtual(vector, next, image, world)?;
        core.state.flags.system &= !(flags::VIF | flags::TF);
    }
    Ok(())
}

/// BOUND: `dst` is the index register, `size` its width.
pub fn bound(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let size = u64::from(op.size);
    let linear = core.address(op, 2 * size, Access::Read)?;
    // It does not exist in 64-bit mode, so linear addresses have 32 bits.
    let above = linear.wrapping_add(size) & 0xffff_ffff;
    // Two operands, as far as alignment is concerned.
    let (low, high, index) = if op.size == 2 {
        let low = core.read::<u16>(world, linear, op.seg)? as i16;
        let high = core.read::<u16>(world, above, op.seg)? as i16;
        let index = core.reg::<u16>(op.dst) as i16;
        (i32::from(low), i32::from(high), i32::from(index))
    } else {
        let low = core.read::<u32>(world, linear, op.seg)? as i32;
        let high = core.read::<u32>(world, above, op.seg)? as i32;
        (low, high, core.reg::<u32>(op.dst) as i32)
    };
    if index < low || index > high {
        Err(Fault::plain(Vector::BR).into())
    } else {
        Ok(())
    }
}

pub fn hlt(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    privileged(core)?;
    core.attention.0 |= Attention::HALT;
    Ok(())
}
