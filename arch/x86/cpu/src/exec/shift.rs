//! Shifts and rotates, single and double.

use crate::op::{Handler, Op, OpFlags, Width};
use crate::state::{Flags, RCX};
use crate::world::Access;
use crate::{Core, Step, World};

/// A shift or rotate by a count that is not zero after masking.
pub trait Shift {
    fn compute<T: Width>(value: T, count: u32, carry: bool) -> T;
    fn flags<T: Width>(flags: &mut Flags, old: T, result: T, count: u32);
}

#[inline(always)]
fn bit(value: u64, index: u32) -> bool {
    index < 64 && value >> index & 1 != 0
}

#[inline(always)]
fn top<T: Width>(value: T) -> bool {
    bit(value.to_u64(), T::BITS - 1)
}

pub struct Shl;
impl Shift for Shl {
    #[inline(always)]
    fn compute<T: Width>(value: T, count: u32, _: bool) -> T {
        T::from_u64(value.to_u64() << count)
    }
    #[inline(always)]
    fn flags<T: Width>(flags: &mut Flags, old: T, result: T, count: u32) {
        let cf = count <= T::BITS && bit(old.to_u64(), T::BITS.wrapping_sub(count));
        flags.set_result(result, cf, top(result) != cf);
    }
}

pub struct Shr;
impl Shift for Shr {
    #[inline(always)]
    fn compute<T: Width>(value: T, count: u32, _: bool) -> T {
        T::from_u64(value.to_u64() >> count)
    }
    #[inline(always)]
    fn flags<T: Width>(flags: &mut Flags, old: T, result: T, count: u32) {
        flags.set_result(result, bit(old.to_u64(), count - 1), top(old));
    }
}

pub struct Sar;
impl Shift for Sar {
    #[inline(always)]
    fn compute<T: Width>(value: T, count: u32, _: bool) -> T {
        T::from_u64((value.sign_extend() as i64 >> count) as u64)
    }
    #[inline(always)]
    fn flags<T: Width>(flags: &mut Flags, old: T, result: T, count: u32) {
        flags.set_result(result, bit(old.sign_extend(), count - 1), false);
    }
}

pub struct Rol;
impl Shift for Rol {
    #[inline(always)]
    fn compute<T: Width>(value: T, count: u32, _: bool) -> T {
        let (v, c) = (value.to_u64(), count % T::BITS);
        T::from_u64(if c == 0 { v } else { v << c | v >> (T::BITS - c) })
    }
    #[inline(always)]
    fn flags<T: Width>(flags: &mut Flags, _: T, result: T, _: u32) {
        let cf = bit(result.to_u64(), 0);
        flags.set_cf_of(cf, top(result) != cf);
    }
}

pub struct Ror;
impl Shift for Ror {
    #[inline(always)]
    fn compute<T: Width>(value: T, count: u32, _: bool) -> T {
        let (v, c) = (value.to_u64(), count % T::BITS);
        T::from_u64(if c == 0 { v } else { v >> c | v << (T::BITS - c) })
    }
    #[inline(always)]
    fn flags<T: Width>(flags: &mut Flags, _: T, result: T, _: u32) {
        let cf = top(result);
        flags.set_cf_of(cf, cf != bit(result.to_u64(), T::BITS - 2));
    }
}

pub struct Rcl;
impl Shift for Rcl {
    #[inline(always)]
    fn compute<T: Width>(value: T, count: u32, carry: bool) -> T {
        let wide = u128::from(value.to_u64()) | u128::from(carry) << T::BITS;
        let (c, width) = (count % (T::BITS + 1), T::BITS + 1);
        T::from_u64(if c == 0 {
            wide
        } else {
            wide << c | wide >> (width - c)
        } as u64)
    }
    #[inline(always)]
    fn flags<T: Width>(flags: &mut Flags, old: T, result: T, count: u32) {
        let c = count % (T::BITS + 1);
        let cf = if c == 0 {
            flags.cf()
        } else {
            bit(old.to_u64(), T::BITS - c)
        };
        flags.set_cf_of(cf, top(result) != cf);
    }
}

pub struct Rcr;
impl Shift for Rcr {
    #[inline(always)]
    fn compute<T: Width>(value: T, count: u32, carry: bool) -> T {
        let wide = u128::from(value.to_u64()) | u128::from(carry) << T::BITS;
        let (c, width) = (count % (T::BITS + 1), T::BITS + 1);
        T::from_u64(if c == 0 {
            wide
        } else {
            wide >> c | wide << (width - c)
        } as u64)
    }
    #[inline(always)]
    fn flags<T: Width>(flags: &mut Flags, old: T, result: T, count: u32) {
        let c = count % (T::BITS + 1);
        let cf = if c == 0 {
            flags.cf()
        } else {
            bit(old.to_u64(), c - 1)
        };
        flags.set_cf_of(cf, top(result) != bit(result.to_u64(), T::BITS - 2));
    }
}

#[inline(always)]
fn mask<T: Width>(count: u64) -> u32 {
    count as u32 & if T::BITS == 64 { 63 } else { 31 }
}

#[inline(always)]
fn shift_reg<S: Shift, T: Width>(core: &mut Core, op: &Op, count: u64) -> Step {
    let count = mask::<T>(count);
    let old = core.reg::<T>(op.dst);
    if count == 0 {
        // A 32-bit destination is still cleared above.
        core.set_reg(op.dst, old);
        return Ok(());
    }
    let result = S::compute(old, count, core.state.flags.cf());
    S::flags(&mut core.state.flags, old, result, count);
    core.set_reg(op.dst, result);
    Ok(())
}

#[inline(always)]
fn shift_mem<S: Shift, T: Width>(core: &mut Core, op: &Op, world: &mut dyn World, count: u64) -> Step {
    let count = mask::<T>(count);
    let linear = core.address(op, T::BYTES, Access::Write)?;
    let carry = core.state.flags.cf();
    let change = |old| {
        if count == 0 {
            old
        } else {
            S::compute(old, count, carry)
        }
    };
    let old = core.modify::<T>(world, linear, op.seg, false, change)?;
    if count != 0 {
        S::flags(&mut core.state.flags, old, change(old), count);
    }
    Ok(())
}

fn reg_imm<S: Shift, T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    shift_reg::<S, T>(core, op, op.imm)
}
fn reg_cl<S: Shift, T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    shift_reg::<S, T>(core, op, core.state.gpr[RCX])
}
fn mem_imm<S: Shift, T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    shift_mem::<S, T>(core, op, world, op.imm)
}
fn mem_cl<S: Shift, T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    shift_mem::<S, T>(core, op, world, core.state.gpr[RCX])
}

/// The handler of `S`; `by_cl` if the count is in CL rather than in `op.imm`.
pub fn handler<S: Shift>(op: &Op, by_cl: bool) -> Option<Handler> {
    fn of<S: Shift, T: Width>(memory: bool, by_cl: bool) -> Handler {
        match (memory, by_cl) {
            (false, false) => reg_imm::<S, T>,
            (false, true) => reg_cl::<S, T>,
            (true, false) => mem_imm::<S, T>,
            (true, true) => mem_cl::<S, T>,
        }
    }
    let memory = op.flags.has(OpFlags::MEMORY);
    Some(match op.size {
        1 => of::<S, u8>(memory, by_cl),
        2 => of::<S, u16>(memory, by_cl),
        4 => of::<S, u32>(memory, by_cl),
        8 => of::<S, u64>(memory, by_cl),
        _ => return None,
    })
}

/// SHLD (`LEFT`) or SHRD of `old` with bits from `fill`, by less than their width.
#[inline(always)]
fn double<T: Width, const LEFT: bool>(old: T, fill: T, count: u32) -> (T, bool) {
    let (o, f) = (u128::from(old.to_u64()), u128::from(fill.to_u64()));
    let bits = T::BITS;
    if LEFT {
        let wide = o << bits | f;
        let result = wide << count >> bits;
        (T::from_u64(result as u64), wide >> (2 * bits - count) & 1 != 0)
    } else {
        let wide = f << bits | o;
        (T::from_u64((wide >> count) as u64), wide >> (count - 1) & 1 != 0)
    }
}

fn double_count<T: Width>(core: &Core, op: &Op) -> u32 {
    // The decoder marks "by CL" with an immediate that no instruction can have.
    let raw = if op.imm == u64::MAX {
        core.state.gpr[RCX]
    } else {
        op.imm
    };
    mask::<T>(raw)
}

pub fn double_reg<T: Width, const LEFT: bool>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let count = double_count::<T>(core, op);
    let old = core.reg::<T>(op.dst);
    if count == 0 {
        core.set_reg(op.dst, old);
        return Ok(());
    }
    let (result, cf) = double::<T, LEFT>(old, core.reg(op.src), count);
    core.state.flags.set_result(result, cf, top(old) != top(result));
    core.set_reg(op.dst, result);
    Ok(())
}

pub fn double_mem<T: Width, const LEFT: bool>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let count = double_count::<T>(core, op);
    let fill = core.reg::<T>(op.src);
    let linear = core.address(op, T::BYTES, Access::Write)?;
    let change = |old| {
        if count == 0 {
            old
        } else {
            double::<T, LEFT>(old, fill, count).0
        }
    };
    let old = core.modify::<T>(world, linear, op.seg, false, change)?;
    if count != 0 {
        let (result, cf) = double::<T, LEFT>(old, fill, count);
        core.state.flags.set_result(result, cf, top(old) != top(result));
    }
    Ok(())
}
