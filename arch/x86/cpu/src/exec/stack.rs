//! The stack: PUSH, POP, PUSHA, POPA, ENTER, LEAVE.

use crate::mmu::access::size_mask;
use crate::op::{Op, OpFlags};
use crate::state::{RBP, RSP, SS};
use crate::world::Access;
use crate::{Core, Step, World};

impl Core {
    #[inline(always)]
    fn stack_mask(&self) -> u64 {
        size_mask(self.mode.stack_size)
    }

    /// RSP with the part that the stack's address size covers replaced.
    #[inline(always)]
    fn with_pointer(&self, pointer: u64) -> u64 {
        let mask = self.stack_mask();
        self.state.gpr[RSP] & !mask | pointer & mask
    }

    /// Pushes one value of `size` bytes. RSP changes only if the store succeeds.
    #[inline(always)]
    pub fn push(&mut self, world: &mut dyn World, size: u8, value: u64) -> Step {
        if self.mode.stack_size == 8 && size == 8 {
            let pointer = self.state.gpr[RSP].wrapping_sub(8);
            self.write::<u64>(world, pointer, SS as u8, value)?;
            self.state.gpr[RSP] = pointer;
            return Ok(());
        }
        self.push_at(world, size, u64::from(size), value)?;
        self.state.gpr[RSP] = self.with_pointer(self.state.gpr[RSP].wrapping_sub(u64::from(size)));
        Ok(())
    }

    /// Checks that a push of `size` bytes would succeed.
    pub fn probe_push(&mut self, world: &mut dyn World, size: u8) -> Step {
        let pointer = self.state.gpr[RSP].wrapping_sub(u64::from(size)) & self.stack_mask();
        let linear = self.segmented(SS as u8, pointer, u64::from(size), Access::Write)?;
        self.probe_write(world, linear, usize::from(size), SS as u8)
    }

    /// Stores `size` bytes at `below` bytes below the stack pointer, without moving it.
    pub fn push_at(&mut self, world: &mut dyn World, size: u8, below: u64, value: u64) -> Step {
        let pointer = self.state.gpr[RSP].wrapping_sub(below) & self.stack_mask();
        let linear = self.segmented(SS as u8, pointer, u64::from(size), Access::Write)?;
        match size {
            2 => self.write::<u16>(world, linear, SS as u8, value as u16),
            4 => self.write::<u32>(world, linear, SS as u8, value as u32),
            _ => self.write::<u64>(world, linear, SS as u8, value),
        }
    }

    /// Reads `size` bytes at `above` bytes above the stack pointer, without moving it.
    #[inline(always)]
    pub fn peek(&mut self, world: &mut dyn World, size: u8, above: u64) -> Step<u64> {
        if self.mode.stack_size == 8 && size == 8 {
            return self.read::<u64>(world, self.state.gpr[RSP].wrapping_add(above), SS as u8);
        }
        let pointer = self.state.gpr[RSP].wrapping_add(above) & self.stack_mask();
        let linear = self.segmented(SS as u8, pointer, u64::from(size), Access::Read)?;
        match size {
            2 => self.read::<u16>(world, linear, SS as u8).map(u64::from),
            4 => self.read::<u32>(world, linear, SS as u8).map(u64::from),
            _ => self.read::<u64>(world, linear, SS as u8),
        }
    }

    /// Moves the stack pointer up.
    #[inline(always)]
    pub fn release(&mut self, bytes: u64) {
        self.state.gpr[RSP] = self.with_pointer(self.state.gpr[RSP].wrapping_add(bytes));
    }
}

pub fn push_reg(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    core.push(world, op.size, core.state.gpr[usize::from(op.dst & 15)])
}

pub fn push_imm(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    core.push(world, op.size, op.imm)
}

pub fn push_mem(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, u64::from(op.size), Access::Read)?;
    let value = match op.size {
        2 => u64::from(core.read::<u16>(world, linear, op.seg)?),
        4 => u64::from(core.read::<u32>(world, linear, op.seg)?),
        _ => core.read::<u64>(world, linear, op.seg)?,
    };
    core.push(world, op.size, value)
}

/// PUSH of a segment register: only two bytes are written of a 4-byte slot.
pub fn push_seg(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let selector = u64::from(core.state.seg[usize::from(op.dst).min(5)].selector);
    if op.size == 4 {
        core.push_at(world, 2, 4, selector)?;
        core.state.gpr[RSP] = core.with_pointer(core.state.gpr[RSP].wrapping_sub(4));
        return Ok(());
    }
    core.push(world, op.size, selector)
}

pub fn pop_reg(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let value = core.peek(world, op.size, 0)?;
    core.release(u64::from(op.size));
    core.set_reg_sized(op.dst, op.size, value);
    Ok(())
}

/// POP to memory: an operand based on RSP is addressed with the pointer already moved.
pub fn pop_mem(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let value = core.peek(world, op.size, 0)?;
    let before = core.state.gpr[RSP];
    core.release(u64::from(op.size));
    let stored = core
        .address(op, u64::from(op.size), Access::Write)
        .and_then(|linear| match op.size {
            2 => core.write::<u16>(world, linear, op.seg, value as u16),
            4 => core.write::<u32>(world, linear, op.seg, value as u32),
            _ => core.write::<u64>(world, linear, op.seg, value),
        });
    if stored.is_err() {
        core.state.gpr[RSP] = before;
    }
    stored
}

pub fn pusha(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let size = u64::from(op.size);
    // A fault leaves what was pushed before it below the stack pointer, as on a processor.
    for slot in 0..8u64 {
        let value = core.state.gpr[slot as usize];
        core.push_at(world, op.size, (slot + 1) * size, value)?;
    }
    core.release(0u64.wrapping_sub(8 * size));
    Ok(())
}

pub fn popa(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    // A fault leaves the registers popped before it, and the stack pointer, so that it can be done again.
    for slot in (0..8u8).rev() {
        let above = u64::from(7 - slot) * u64::from(op.size);
        let value = core.peek(world, op.size, above)?;
        if usize::from(slot) != RSP {
            core.set_reg_sized(slot, op.size, value);
        }
    }
    core.release(8 * u64::from(op.size));
    Ok(())
}

/// ENTER: `op.imm` holds the frame size, `op.src` the nesting level.
pub fn enter(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let size = u64::from(op.size);
    let level = u64::from(op.src & 31);
    let mask = core.stack_mask();
    let frame = core.state.gpr[RSP].wrapping_sub(size);
    let mut below = size;
    core.push_at(world, op.size, below, core.state.gpr[RBP])?;
    for n in 1..level {
        let pointer = core.state.gpr[RBP].wrapping_sub(n * size) & mask;
        let linear = core.segmented(SS as u8, pointer, size, Access::Read)?;
        let link = match op.size {
            2 => u64::from(core.read::<u16>(world, linear, SS as u8)?),
            4 => u64::from(core.read::<u32>(world, linear, SS as u8)?),
            _ => core.read::<u64>(world, linear, SS as u8)?,
        };
        below += size;
        core.push_at(world, op.size, below, link)?;
    }
    if level > 0 {
        below += size;
        core.push_at(world, op.size, below, core.with_pointer(frame))?;
    }
    // The new top of the stack must be writable, though nothing is written there.
    let top = core.state.gpr[RSP].wrapping_sub(below + op.imm) & mask;
    let linear = core.segmented(SS as u8, top, size, Access::Write)?;
    core.probe_write(world, linear, size as usize, SS as u8)?;
    let old_pointer = core.with_pointer(frame);
    core.state.gpr[RSP] = core.with_pointer(core.state.gpr[RSP].wrapping_sub(below + op.imm));
    core.set_reg_sized(RBP as u8, op.size, old_pointer);
    Ok(())
}

pub fn leave(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let before = core.state.gpr[RSP];
    core.state.gpr[RSP] = core.with_pointer(core.state.gpr[RBP]);
    match core.peek(world, op.size, 0) {
        Ok(frame) => {
            core.release(u64::from(op.size));
            core.set_reg_sized(RBP as u8, op.size, frame);
            Ok(())
        }
        Err(stop) => {
            core.state.gpr[RSP] = before;
            Err(stop)
        }
    }
}

/// Whether a stack instruction's operand is in memory.
pub fn is_memory(op: &Op) -> bool {
    op.flags.has(OpFlags::MEMORY)
}
