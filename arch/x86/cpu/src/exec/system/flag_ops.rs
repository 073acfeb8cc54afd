//! CLI, STI, PUSHF, POPF, STAC, CLAC, with the virtual interrupt flag of VME and PVI.

use crate::core::Attention;
use crate::exec::iret::replace_flags;
use crate::op::Op;
use crate::state::{CR4_PVI, CR4_VME, flags};
use crate::{Core, Fault, Step, World};

/// What CLI and STI act on.
enum Interrupts {
    Real,
    Virtual,
}

fn interrupts(core: &Core) -> Step<Interrupts> {
    let cpl = core.mode.cpl;
    if !core.state.protected() || core.state.flags.iopl() >= cpl {
        return Ok(Interrupts::Real);
    }
    let assisted = if core.state.flags.has(flags::VM) {
        CR4_VME
    } else {
        CR4_PVI
    };
    if cpl == 3 && core.state.cr4 & assisted != 0 {
        Ok(Interrupts::Virtual)
    } else {
        Err(Fault::GP0.into())
    }
}

pub fn cli(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    let cleared = match interrupts(core)? {
        Interrupts::Real => flags::IF,
        Interrupts::Virtual => flags::VIF,
    };
    core.state.flags.system &= !cleared;
    Ok(())
}

pub fn sti(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    match interrupts(core)? {
        Interrupts::Real => {
            if !core.state.flags.has(flags::IF) {
                core.state.flags.system |= flags::IF;
                core.state.interruptibility.sti_shadow = true;
                core.attention.0 |= Attention::WINDOW;
            }
        }
        Interrupts::Virtual => {
            if core.state.flags.has(flags::VIP) {
                return Err(Fault::GP0.into());
            }
            core.state.flags.system |= flags::VIF;
        }
    }
    Ok(())
}

/// Whether PUSHF and POPF act on VIF; #GP where the monitor has to see them.
pub(super) fn virtual_flags(core: &Core, size: u8) -> Step<bool> {
    if !core.state.virtual_8086() || core.state.flags.iopl() == 3 {
        return Ok(false);
    }
    if size == 2 && core.state.cr4 & CR4_VME != 0 {
        Ok(true)
    } else {
        Err(Fault::GP0.into())
    }
}

/// FLAGS as a virtual-8086 program with its own interrupt flag sees them.
pub(super) fn virtual_image(core: &Core) -> u64 {
    let image = core.state.rflags() & !flags::IF | flags::IOPL;
    if core.state.flags.has(flags::VIF) {
        image | flags::IF
    } else {
        image
    }
}

/// PUSHF, PUSHFD, PUSHFQ: `size` is the operand size.
pub fn pushf(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let image = if virtual_flags(core, op.size)? {
        virtual_image(core)
    } else {
        core.state.rflags() & !(flags::VM | flags::RF)
    };
    core.push(world, op.size, image)
}

/// POPF, POPFD, POPFQ: `size` is the operand size.
pub fn popf(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let virtualised = virtual_flags(core, op.size)?;
    let mut image = core.peek(world, op.size, 0)?;
    let mut mask = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT;
    if virtualised {
        let wants = image & flags::IF != 0;
        if image & flags::TF != 0 || wants && core.state.flags.has(flags::VIP) {
            return Err(Fault::GP0.into());
        }
        mask |= flags::VIF;
        image = image & !flags::VIF | if wants { flags::VIF } else { 0 };
    } else {
        let cpl = core.mode.cpl;
        if cpl <= core.state.flags.iopl() {
            mask |= flags::IF;
        }
        if cpl == 0 {
            mask |= flags::IOPL;
        }
        if op.size != 2 {
            mask |= flags::AC | flags::ID | flags::RF;
            image &= !flags::RF;
        }
    }
    core.release(u64::from(op.size));
    if image & mask & flags::IF != 0 && !core.state.flags.has(flags::IF) {
        core.attention.0 |= Attention::WINDOW;
    }
    replace_flags(core, mask, image);
    core.refresh_access();
    Ok(())
}

pub fn stac(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    set_ac(core, flags::AC)
}

pub fn clac(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    set_ac(core, 0)
}

fn set_ac(core: &mut Core, value: u64) -> Step {
    if core.mode.cpl != 0 {
        return Err(Fault::UD.into());
    }
    core.state.flags.system = core.state.flags.system & !flags::AC | value;
    core.refresh_access();
    Ok(())
}
