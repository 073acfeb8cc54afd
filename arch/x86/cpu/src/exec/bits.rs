//! Bit tests, scans and counts.

use crate::op::{Op, OpFlags, Width};
use crate::state::flags;
use crate::world::Access;
use crate::{Core, Step, World};

/// What a bit test does to the bit: BT, BTS, BTR, BTC.
pub const KEEP: u8 = 0;
pub const SET: u8 = 1;
pub const RESET: u8 = 2;
pub const COMPLEMENT: u8 = 3;

#[inline(always)]
fn change<T: Width, const KIND: u8>(old: T, mask: u64) -> T {
    T::from_u64(match KIND {
        SET => old.to_u64() | mask,
        RESET => old.to_u64() & !mask,
        COMPLEMENT => old.to_u64() ^ mask,
        _ => old.to_u64(),
    })
}

/// Bit test of a register; the index is in register `op.src`, or in `op.imm` if `op.src` is 0xff.
pub fn test_reg<T: Width, const KIND: u8>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let index = if op.src == 0xff {
        op.imm
    } else {
        core.reg::<T>(op.src).to_u64()
    };
    let mask = 1 << (index & u64::from(T::BITS - 1));
    let old = core.reg::<T>(op.dst);
    core.state.flags.set_cf(old.to_u64() & mask != 0);
    if KIND != KEEP {
        core.set_reg(op.dst, change::<T, KIND>(old, mask));
    }
    Ok(())
}

/// Bit test in memory: an index in a register reaches beyond the operand, an immediate one does not.
pub fn test_mem<T: Width, const KIND: u8>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let access = if KIND == KEEP { Access::Read } else { Access::Write };
    let mut here = *op;
    let mut index = op.imm;
    if op.src != 0xff {
        index = core.reg::<T>(op.src).to_u64();
        let signed = T::from_u64(index).sign_extend() as i64;
        let words = signed >> T::BITS.trailing_zeros();
        here.disp = here.disp.wrapping_add((words as u64).wrapping_mul(T::BYTES));
    }
    let linear = core.address(&here, T::BYTES, access)?;
    let mask = 1 << (index & u64::from(T::BITS - 1));
    let old = if KIND == KEEP {
        core.read::<T>(world, linear, op.seg)?
    } else {
        let lock = op.flags.has(OpFlags::LOCK);
        core.modify::<T>(world, linear, op.seg, lock, |old| change::<T, KIND>(old, mask))?
    };
    core.state.flags.set_cf(old.to_u64() & mask != 0);
    Ok(())
}

#[inline(always)]
fn operand<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step<T> {
    if op.flags.has(OpFlags::MEMORY) {
        let linear = core.address(op, T::BYTES, Access::Read)?;
        core.read(world, linear, op.seg)
    } else {
        Ok(core.reg(op.src))
    }
}

/// BSF and BSR (`REVERSE`): a zero operand leaves the destination alone.
pub fn scan<T: Width, const REVERSE: bool>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let value = operand::<T>(core, op, world)?.to_u64();
    if value == 0 {
        core.state.flags.update(flags::ZF, flags::ZF);
        return Ok(());
    }
    let index = if REVERSE {
        63 - value.leading_zeros()
    } else {
        value.trailing_zeros()
    };
    core.state.flags.update(flags::ZF, 0);
    core.set_reg(op.dst, T::from_u64(u64::from(index)));
    Ok(())
}

/// TZCNT and LZCNT (`REVERSE`).
pub fn count_zeros<T: Width, const REVERSE: bool>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let value = operand::<T>(core, op, world)?.to_u64();
    let count = match (value, REVERSE) {
        (0, _) => T::BITS,
        (_, true) => value.leading_zeros() - (64 - T::BITS),
        (_, false) => value.trailing_zeros(),
    };
    let result = T::from_u64(u64::from(count));
    let bits = if value == 0 { flags::CF } else { 0 } | if count == 0 { flags::ZF } else { 0 };
    core.state.flags.update(flags::CF | flags::ZF, bits);
    core.set_reg(op.dst, result);
    Ok(())
}

pub fn popcnt<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let value = operand::<T>(core, op, world)?.to_u64();
    core.state
        .flags
        .set_arithmetic(if value == 0 { flags::ZF } else { 0 });
    core.set_reg(op.dst, T::from_u64(u64::from(value.count_ones())));
    Ok(())
}
