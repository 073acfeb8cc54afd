//! Multiplication, division and the decimal adjustments.
//!
//! SF, ZF, AF and PF after a multiplication, and all flags after a division, are undefined; multiplications set
//! them from the low half of the product, divisions leave them alone.

use crate::op::{Op, OpFlags, Width};
use crate::state::{RAX, RDX, flags};
use crate::world::Access;
use crate::{Core, Fault, Step, World};

#[inline(always)]
fn operand<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step<T> {
    if op.flags.has(OpFlags::MEMORY) {
        let linear = core.address(op, T::BYTES, Access::Read)?;
        core.read(world, linear, op.seg)
    } else {
        Ok(core.reg(op.src))
    }
}

/// Stores a double-width result in AX, or in xDX:xAX.
#[inline(always)]
fn set_pair<T: Width>(core: &mut Core, low: T, high: T) {
    if T::BITS == 8 {
        core.set_reg(0, (high.to_u64() << 8 | low.to_u64()) as u16);
    } else {
        core.set_reg(RAX as u8, low);
        core.set_reg(RDX as u8, high);
    }
}

pub fn mul<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let factor = operand::<T>(core, op, world)?;
    let product = u128::from(core.reg::<T>(0).to_u64()) * u128::from(factor.to_u64());
    let (low, high) = (
        T::from_u64(product as u64),
        T::from_u64((product >> T::BITS) as u64),
    );
    let wide = high.to_u64() != 0;
    core.state.flags.set_result(low, wide, wide);
    set_pair(core, low, high);
    Ok(())
}

#[inline(always)]
fn signed_product<T: Width>(a: T, b: T) -> (T, T, bool) {
    let product = i128::from(a.sign_extend() as i64) * i128::from(b.sign_extend() as i64);
    let low = T::from_u64(product as u64);
    let wide = product != i128::from(low.sign_extend() as i64);
    (low, T::from_u64((product >> T::BITS) as u64), wide)
}

pub fn imul<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let factor = operand::<T>(core, op, world)?;
    let (low, high, wide) = signed_product(core.reg::<T>(0), factor);
    core.state.flags.set_result(low, wide, wide);
    set_pair(core, low, high);
    Ok(())
}

pub fn imul2<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let factor = operand::<T>(core, op, world)?;
    let (low, _, wide) = signed_product(core.reg::<T>(op.dst), factor);
    core.state.flags.set_result(low, wide, wide);
    core.set_reg(op.dst, low);
    Ok(())
}

pub fn imul3<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let factor = operand::<T>(core, op, world)?;
    let (low, _, wide) = signed_product(factor, T::from_u64(op.imm));
    core.state.flags.set_result(low, wide, wide);
    core.set_reg(op.dst, low);
    Ok(())
}

#[inline(always)]
fn dividend<T: Width>(core: &Core) -> u128 {
    if T::BITS == 8 {
        u128::from(core.reg::<u16>(0))
    } else {
        u128::from(core.reg::<T>(RDX as u8).to_u64()) << T::BITS | u128::from(core.reg::<T>(0).to_u64())
    }
}

pub fn div<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let divisor = u128::from(operand::<T>(core, op, world)?.to_u64());
    let dividend = dividend::<T>(core);
    if divisor == 0 {
        return Err(Fault::DE.into());
    }
    let (quotient, remainder) = if dividend >> 64 == 0 {
        let (n, d) = (dividend as u64, divisor as u64);
        (u128::from(n / d), n % d)
    } else {
        (dividend / divisor, (dividend % divisor) as u64)
    };
    if quotient >> T::BITS != 0 {
        return Err(Fault::DE.into());
    }
    set_pair(core, T::from_u64(quotient as u64), T::from_u64(remainder));
    Ok(())
}

pub fn idiv<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let divisor = i128::from(operand::<T>(core, op, world)?.sign_extend() as i64);
    let spare = 128 - 2 * T::BITS;
    let dividend = (dividend::<T>(core) << spare) as i128 >> spare;
    if divisor == 0 {
        return Err(Fault::DE.into());
    }
    let quotient = dividend.wrapping_div(divisor);
    if quotient != i128::from(T::from_u64(quotient as u64).sign_extend() as i64) {
        return Err(Fault::DE.into());
    }
    let remainder = dividend.wrapping_rem(divisor);
    set_pair(core, T::from_u64(quotient as u64), T::from_u64(remainder as u64));
    Ok(())
}

pub fn aam(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let (al, base) = (core.reg::<u8>(0), op.imm as u8);
    if base == 0 {
        return Err(Fault::DE.into());
    }
    let low = al % base;
    core.set_reg(0, u16::from(al / base) << 8 | u16::from(low));
    core.state.flags.set_logic(low);
    Ok(())
}

pub fn aad(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let ax = core.reg::<u16>(0);
    let al = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(op.imm as u8));
    core.set_reg(0, u16::from(al));
    core.state.flags.set_logic(al);
    Ok(())
}

/// AAA (`op.imm` 0) and AAS (1).
pub fn ascii_adjust(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let ax = core.reg::<u16>(0);
    let adjust = ax & 0xf > 9 || core.state.flags.af();
    let adjusted = match (adjust, op.imm) {
        (false, _) => ax,
        (true, 0) => ax.wrapping_add(0x106),
        (true, _) => ax.wrapping_sub(0x106),
    };
    core.set_reg(0, adjusted & 0xff0f);
    let carry = if adjust { flags::CF | flags::AF } else { 0 };
    core.state.flags.update(flags::CF | flags::AF, carry);
    Ok(())
}

/// DAA (`op.imm` 0) and DAS (1).
pub fn decimal_adjust(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let old = core.reg::<u8>(0);
    let (old_cf, old_af) = (core.state.flags.cf(), core.state.flags.af());
    let subtract = op.imm != 0;
    let apply = |value: u8, by: u8| {
        if subtract {
            value.wrapping_sub(by)
        } else {
            value.wrapping_add(by)
        }
    };
    let mut al = old;
    let mut carry = false;
    let low = old & 0xf > 9 || old_af;
    if low {
        carry = subtract && (old_cf || old < 6);
        al = apply(al, 6);
    }
    if old > 0x99 || old_cf {
        al = apply(al, 0x60);
        carry = true;
    }
    core.set_reg(0, al);
    core.state.flags.set_logic(al);
    let bits = if carry { flags::CF } else { 0 } | if low { flags::AF } else { 0 };
    core.state.flags.update(flags::CF | flags::AF, bits);
    Ok(())
}

/// SALC: AL becomes 0xff if CF is set, else 0.
pub fn salc(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    let value = if core.state.flags.cf() { 0xffu8 } else { 0 };
    core.set_reg(0, value);
    Ok(())
}
