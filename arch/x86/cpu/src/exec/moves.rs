//! Moves, exchanges, extensions, conditional moves and sets.

use crate::op::{Handler, Op, OpFlags, Width};
use crate::state::{RAX, RBX, RCX, RDX};
use crate::world::Access;
use crate::{Core, Fault, Step, World, state::flags};

/// Picks one of four instances of a generic handler by operand size.
#[macro_export]
macro_rules! by_size {
    ($size:expr, $handler:ident) => {
        $crate::by_size!($size, $handler,)
    };
    ($size:expr, $handler:ident, $($extra:ty),*) => {
        match $size {
            1 => Some($handler::<u8, $($extra),*> as $crate::op::Handler),
            2 => Some($handler::<u16, $($extra),*> as $crate::op::Handler),
            4 => Some($handler::<u32, $($extra),*> as $crate::op::Handler),
            8 => Some($handler::<u64, $($extra),*> as $crate::op::Handler),
            _ => None,
        }
    };
}

pub fn mov_reg_reg<T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    core.set_reg(op.dst, core.reg::<T>(op.src));
    Ok(())
}

pub fn mov_reg_imm<T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    core.set_reg(op.dst, T::from_u64(op.imm));
    Ok(())
}

pub fn mov_reg_mem<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, T::BYTES, Access::Read)?;
    let value = core.read::<T>(world, linear, op.seg)?;
    core.set_reg(op.dst, value);
    Ok(())
}

pub fn mov_mem_reg<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, T::BYTES, Access::Write)?;
    core.write(world, linear, op.seg, core.reg::<T>(op.src))
}

pub fn mov_mem_imm<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, T::BYTES, Access::Write)?;
    core.write(world, linear, op.seg, T::from_u64(op.imm))
}

/// MOVZX, MOVSX, MOVSXD from a register: `S` is the source's width, `op.size` the destination's.
pub fn extend_reg<S: Width, const SIGNED: bool>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let value = core.reg::<S>(op.src);
    let wide = if SIGNED {
        value.sign_extend()
    } else {
        value.to_u64()
    };
    core.set_reg_sized(op.dst, op.size, wide);
    Ok(())
}

pub fn extend_mem<S: Width, const SIGNED: bool>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, S::BYTES, Access::Read)?;
    let value = core.read::<S>(world, linear, op.seg)?;
    let wide = if SIGNED {
        value.sign_extend()
    } else {
        value.to_u64()
    };
    core.set_reg_sized(op.dst, op.size, wide);
    Ok(())
}

pub fn lea<T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let offset = core.offset(op) & crate::mmu::access::size_mask(op.address_size);
    core.set_reg(op.dst, T::from_u64(offset));
    Ok(())
}

pub fn xchg_reg<T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let (a, b) = (core.reg::<T>(op.dst), core.reg::<T>(op.src));
    core.set_reg(op.dst, b);
    core.set_reg(op.src, a);
    Ok(())
}

/// XCHG with memory is locked, with or without the prefix.
pub fn xchg_mem<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, T::BYTES, Access::Write)?;
    let new = core.reg::<T>(op.src);
    let old = core.modify(world, linear, op.seg, true, |_| new)?;
    core.set_reg(op.src, old);
    Ok(())
}

pub fn xadd_reg<T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let (a, b) = (core.reg::<T>(op.dst), core.reg::<T>(op.src));
    let sum = T::from_u64(a.to_u64().wrapping_add(b.to_u64()));
    core.state.flags.set_add(a, b, sum);
    core.set_reg(op.src, a);
    core.set_reg(op.dst, sum);
    Ok(())
}

pub fn xadd_mem<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, T::BYTES, Access::Write)?;
    let b = core.reg::<T>(op.src);
    let add = |a: T| T::from_u64(a.to_u64().wrapping_add(b.to_u64()));
    let a = core.modify(world, linear, op.seg, op.flags.has(OpFlags::LOCK), add)?;
    core.state.flags.set_add(a, b, add(a));
    core.set_reg(op.src, a);
    Ok(())
}

#[inline(always)]
fn compare_accumulator<T: Width>(core: &mut Core, seen: T) -> bool {
    let accumulator = core.reg::<T>(RAX as u8);
    let difference = T::from_u64(accumulator.to_u64().wrapping_sub(seen.to_u64()));
    core.state.flags.set_sub(accumulator, seen, difference);
    accumulator == seen
}

pub fn cmpxchg_reg<T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let seen = core.reg::<T>(op.dst);
    if compare_accumulator(core, seen) {
        core.set_reg(op.dst, core.reg::<T>(op.src));
    } else {
        core.set_reg(RAX as u8, seen);
    }
    Ok(())
}

pub fn cmpxchg_mem<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, T::BYTES, Access::Write)?;
    let expected = core.reg::<T>(RAX as u8);
    let new = core.reg::<T>(op.src);
    let swap = |old: T| if old == expected { new } else { old };
    let seen = core.modify(world, linear, op.seg, op.flags.has(OpFlags::LOCK), swap)?;
    if !compare_accumulator(core, seen) {
        core.set_reg(RAX as u8, seen);
    }
    Ok(())
}

pub fn cmpxchg8b(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let pair = |core: &Core, high: usize, low: usize| {
        u64::from(core.reg::<u32>(high as u8)) << 32 | u64::from(core.reg::<u32>(low as u8))
    };
    let linear = core.address(op, 8, Access::Write)?;
    let expected = pair(core, RDX, RAX);
    let new = pair(core, RCX, RBX);
    let swap = |old: u64| if old == expected { new } else { old };
    let seen = core.modify(world, linear, op.seg, op.flags.has(OpFlags::LOCK), swap)?;
    let equal = seen == expected;
    if !equal {
        core.set_reg(RAX as u8, seen as u32);
        core.set_reg(RDX as u8, (seen >> 32) as u32);
    }
    core.state
        .flags
        .update(flags::ZF, if equal { flags::ZF } else { 0 });
    Ok(())
}

pub fn cmpxchg16b(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let gpr = &core.state.gpr;
    let pair = |high: usize, low: usize| u128::from(gpr[high]) << 64 | u128::from(gpr[low]);
    let (expected, new) = (pair(RDX, RAX), pair(RCX, RBX));
    let linear = core.address(op, 16, Access::Write)?;
    if linear & 15 != 0 {
        return Err(Fault::GP0.into());
    }
    let seen = core.compare_exchange16(world, linear, op.seg, expected, new)?;
    let equal = seen == expected;
    if !equal {
        core.state.gpr[RAX] = seen as u64;
        core.state.gpr[RDX] = (seen >> 64) as u64;
    }
    core.state
        .flags
        .update(flags::ZF, if equal { flags::ZF } else { 0 });
    Ok(())
}

/// BSWAP of 4 or 8 bytes; of 2 bytes the result is undefined and processors give zero.
pub fn bswap<T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let value = core.reg::<T>(op.dst).to_u64().swap_bytes() >> (64 - T::BITS);
    core.set_reg(op.dst, T::from_u64(if T::BITS == 16 { 0 } else { value }));
    Ok(())
}

pub fn movbe_load<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, T::BYTES, Access::Read)?;
    let value = core.read::<T>(world, linear, op.seg)?.to_u64().swap_bytes() >> (64 - T::BITS);
    core.set_reg(op.dst, T::from_u64(value));
    Ok(())
}

pub fn movbe_store<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, T::BYTES, Access::Write)?;
    let value = core.reg::<T>(op.src).to_u64().swap_bytes() >> (64 - T::BITS);
    core.write(world, linear, op.seg, T::from_u64(value))
}

/// CMOVcc: `op.imm` is the condition. A 32-bit destination is cleared above even if nothing moves.
pub fn cmov_reg<T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let from = if core.state.flags.condition(op.imm as u8) {
        op.src
    } else {
        op.dst
    };
    core.set_reg(op.dst, core.reg::<T>(from));
    Ok(())
}

pub fn cmov_mem<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, T::BYTES, Access::Read)?;
    let value = core.read::<T>(world, linear, op.seg)?;
    let value = if core.state.flags.condition(op.imm as u8) {
        value
    } else {
        core.reg(op.dst)
    };
    core.set_reg(op.dst, value);
    Ok(())
}

pub fn setcc_reg(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    core.set_reg(op.dst, u8::from(core.state.flags.condition(op.imm as u8)));
    Ok(())
}

pub fn setcc_mem(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, 1, Access::Write)?;
    core.write(
        world,
        linear,
        op.seg,
        u8::from(core.state.flags.condition(op.imm as u8)),
    )
}

/// CBW, CWDE, CDQE: `op.size` is the result's size.
pub fn extend_accumulator(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let value = match op.size {
        2 => core.reg::<u8>(0).sign_extend(),
        4 => core.reg::<u16>(0).sign_extend(),
        _ => core.reg::<u32>(0).sign_extend(),
    };
    core.set_reg_sized(0, op.size, value);
    Ok(())
}

/// CWD, CDQ, CQO.
pub fn spread_sign<T: Width>(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    let sign = (core.reg::<T>(0).sign_extend() as i64 >> 63) as u64;
    core.set_reg(RDX as u8, T::from_u64(sign));
    Ok(())
}

pub fn xlat(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let offset = core.state.gpr[RBX].wrapping_add(core.state.gpr[RAX] & 0xff);
    let offset = offset & crate::mmu::access::size_mask(op.address_size);
    let linear = core.segmented(op.seg, offset, 1, Access::Read)?;
    let value = core.read::<u8>(world, linear, op.seg)?;
    core.set_reg(0, value);
    Ok(())
}

pub fn lahf(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    core.set_reg(crate::op::HIGH_BYTE, core.state.flags.bits() as u8);
    Ok(())
}

pub fn sahf(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    let bits = u64::from(core.reg::<u8>(crate::op::HIGH_BYTE));
    core.state
        .flags
        .update(flags::SF | flags::ZF | flags::AF | flags::PF | flags::CF, bits);
    Ok(())
}

/// CLC, STC, CMC: `op.imm` is 0, 1 or 2.
pub fn carry(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let value = match op.imm {
        0 => false,
        1 => true,
        _ => !core.state.flags.cf(),
    };
    core.state.flags.set_cf(value);
    Ok(())
}

pub fn cld(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    core.state.flags.system &= !flags::DF;
    Ok(())
}

pub fn std(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    core.state.flags.system |= flags::DF;
    Ok(())
}

pub fn nop(_: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    Ok(())
}

/// Picks MOV's handler for operands that [`crate::decode::integer`] has sorted into a form.
pub fn mov(form: super::alu::Form, size: u8) -> Option<Handler> {
    use super::alu::Form;
    match form {
        Form::RegReg => by_size!(size, mov_reg_reg),
        Form::RegImm => by_size!(size, mov_reg_imm),
        Form::RegMem => by_size!(size, mov_reg_mem),
        Form::MemReg => by_size!(size, mov_mem_reg),
        Form::MemImm => by_size!(size, mov_mem_imm),
    }
}
