//! Near jumps, calls and returns, conditional branches, loops.
//!
//! `op.imm` of a direct branch is its target relative to the block's start; `op.size` is the width of the
//! instruction pointer. Every handler here sets RIP, taken or not.

use crate::mmu::access::{is_canonical, size_mask};
use crate::op::{Op, OpFlags};
use crate::state::{CS, RCX, RIP_SLOT};
use crate::world::Access;
use crate::{Core, Fault, Step, World};

impl Core {
    /// The address of the instruction after `op`.
    #[inline(always)]
    pub fn next_rip(&self, op: &Op) -> u64 {
        self.mask_rip(self.state.gpr[usize::from(RIP_SLOT)].wrapping_add(u64::from(op.next)))
    }

    /// Checks a near target against the code segment, or for being canonical.
    #[inline(always)]
    pub fn check_target(&self, target: u64) -> Step {
        let reachable = if self.mode.code_bits == 64 {
            is_canonical(target)
        } else {
            target <= u64::from(self.state.seg[CS].limit)
        };
        if reachable { Ok(()) } else { Err(Fault::GP0.into()) }
    }

    #[inline(always)]
    fn direct_target(&self, op: &Op) -> u64 {
        self.state.gpr[usize::from(RIP_SLOT)].wrapping_add(op.imm) & size_mask(op.size)
    }

    #[inline(always)]
    fn go(&mut self, target: u64) -> Step {
        self.check_target(target)?;
        self.state.rip = target;
        Ok(())
    }

    #[inline(always)]
    fn branch(&mut self, op: &Op, taken: bool) -> Step {
        if taken {
            self.go(self.direct_target(op))
        } else {
            self.state.rip = self.next_rip(op);
            Ok(())
        }
    }
}

pub fn jmp(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    core.go(core.direct_target(op))
}

pub fn jcc<const CONDITION: u8>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    core.branch(op, core.state.flags.condition(CONDITION))
}

fn indirect_target(core: &mut Core, op: &Op, world: &mut dyn World) -> Step<u64> {
    if !op.flags.has(OpFlags::MEMORY) {
        return Ok(core.reg_sized(op.dst, op.size));
    }
    let linear = core.address(op, u64::from(op.size), Access::Read)?;
    match op.size {
        2 => core.read::<u16>(world, linear, op.seg).map(u64::from),
        4 => core.read::<u32>(world, linear, op.seg).map(u64::from),
        _ => core.read::<u64>(world, linear, op.seg),
    }
}

pub fn jmp_indirect(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let target = indirect_target(core, op, world)?;
    core.go(target)
}

pub fn call(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let target = core.direct_target(op);
    call_to(core, op, world, target)
}

#[inline(always)]
fn call_to(core: &mut Core, op: &Op, world: &mut dyn World, target: u64) -> Step {
    if let Err(stop) = core.check_target(target) {
        // What is wrong with the stack comes first.
        core.probe_push(world, op.size)?;
        return Err(stop);
    }
    core.push(world, op.size, core.next_rip(op))?;
    core.state.rip = target;
    Ok(())
}

pub fn call_indirect(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let target = indirect_target(core, op, world)?;
    call_to(core, op, world, target)
}

/// RET, and RET imm16 with the bytes to release in `op.imm`.
pub fn ret(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let target = core.peek(world, op.size, 0)?;
    core.go(target)?;
    core.release(u64::from(op.size) + op.imm);
    Ok(())
}

/// LOOPNE (0), LOOPE (1), LOOP (2), JrCXZ (3): which, in `op.src`; the counter is as wide as an address.
pub fn counted(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let counter = core.reg_sized(RCX as u8, op.address_size);
    if op.src == 3 {
        return core.branch(op, counter == 0);
    }
    let counter = counter.wrapping_sub(1) & size_mask(op.address_size);
    let taken = counter != 0
        && match op.src {
            0 => !core.state.flags.zf(),
            1 => core.state.flags.zf(),
            _ => true,
        };
    core.branch(op, taken)?;
    core.set_reg_sized(RCX as u8, op.address_size, counter);
    Ok(())
}
