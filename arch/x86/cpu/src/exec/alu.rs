//! Two-operand arithmetic and logic, and INC, DEC, NEG, NOT.

use crate::op::{Handler, Op, OpFlags, Width};
use crate::state::Flags;
use crate::world::Access;
use crate::{Core, Step, World};

/// One arithmetic or logical operation.
pub trait Alu {
    /// Whether the result is written back (not for CMP and TEST).
    const STORES: bool = true;
    const USES_CARRY: bool = false;
    fn compute<T: Width>(a: T, b: T, carry: bool) -> T;
    fn flags<T: Width>(flags: &mut Flags, a: T, b: T, result: T);
}

macro_rules! alu {
    ($name:ident, stores $stores:literal, carry $carry:literal, |$a:ident, $b:ident, $c:ident| $value:expr, $set:expr) => {
        pub struct $name;
        impl Alu for $name {
            const STORES: bool = $stores;
            const USES_CARRY: bool = $carry;
            #[inline(always)]
            fn compute<T: Width>(a: T, b: T, carry: bool) -> T {
                let ($a, $b, $c) = (a.to_u64(), b.to_u64(), u64::from(carry));
                let _ = $c;
                T::from_u64($value)
            }
            #[inline(always)]
            fn flags<T: Width>(flags: &mut Flags, a: T, b: T, result: T) {
                let set: fn(&mut Flags, T, T, T) = $set;
                set(flags, a, b, result)
            }
        }
    };
}

alu!(Add, stores true, carry false, |a, b, c| a.wrapping_add(b), |f, a, b, r| f.set_add(a, b, r));
alu!(Adc, stores true, carry true, |a, b, c| a.wrapping_add(b).wrapping_add(c), |f, a, b, r| f.set_add(a, b, r));
alu!(Sub, stores true, carry false, |a, b, c| a.wrapping_sub(b), |f, a, b, r| f.set_sub(a, b, r));
alu!(Sbb, stores true, carry true, |a, b, c| a.wrapping_sub(b).wrapping_sub(c), |f, a, b, r| f.set_sub(a, b, r));
alu!(Cmp, stores false, carry false, |a, b, c| a.wrapping_sub(b), |f, a, b, r| f.set_sub(a, b, r));
alu!(And, stores true, carry false, |a, b, c| a & b, |f, _, _, r| f.set_logic(r));
alu!(Or, stores true, carry false, |a, b, c| a | b, |f, _, _, r| f.set_logic(r));
alu!(Xor, stores true, carry false, |a, b, c| a ^ b, |f, _, _, r| f.set_logic(r));
alu!(Test, stores false, carry false, |a, b, c| a & b, |f, _, _, r| f.set_logic(r));

/// Where the two operands are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    RegReg,
    RegImm,
    RegMem,
    MemReg,
    MemImm,
}

#[inline(always)]
fn finish<A: Alu, T: Width>(core: &mut Core, a: T, b: T) -> T {
    let carry = A::USES_CARRY && core.state.flags.cf();
    let result = A::compute(a, b, carry);
    A::flags(&mut core.state.flags, a, b, result);
    result
}

fn reg_reg<A: Alu, T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let result = finish::<A, T>(core, core.reg(op.dst), core.reg(op.src));
    if A::STORES {
        core.set_reg(op.dst, result);
    }
    Ok(())
}

fn reg_imm<A: Alu, T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let result = finish::<A, T>(core, core.reg(op.dst), T::from_u64(op.imm));
    if A::STORES {
        core.set_reg(op.dst, result);
    }
    Ok(())
}

fn reg_mem<A: Alu, T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, T::BYTES, Access::Read)?;
    let b = core.read::<T>(world, linear, op.seg)?;
    let result = finish::<A, T>(core, core.reg(op.dst), b);
    if A::STORES {
        core.set_reg(op.dst, result);
    }
    Ok(())
}

#[inline(always)]
fn to_memory<A: Alu, T: Width>(core: &mut Core, op: &Op, world: &mut dyn World, b: T) -> Step {
    if A::STORES {
        let linear = core.address(op, T::BYTES, Access::Write)?;
        let carry = A::USES_CARRY && core.state.flags.cf();
        let lock = op.flags.has(OpFlags::LOCK);
        let a = core.modify(world, linear, op.seg, lock, |a| A::compute(a, b, carry))?;
        A::flags(&mut core.state.flags, a, b, A::compute(a, b, carry));
    } else {
        let linear = core.address(op, T::BYTES, Access::Read)?;
        let a = core.read::<T>(world, linear, op.seg)?;
        finish::<A, T>(core, a, b);
    }
    Ok(())
}

fn mem_reg<A: Alu, T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let b = core.reg(op.src);
    to_memory::<A, T>(core, op, world, b)
}

fn mem_imm<A: Alu, T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    to_memory::<A, T>(core, op, world, T::from_u64(op.imm))
}

/// The handler of `A` for a form and an operand size.
pub fn handler<A: Alu>(form: Form, size: u8) -> Option<Handler> {
    fn of<A: Alu, T: Width>(form: Form) -> Handler {
        match form {
            Form::RegReg => reg_reg::<A, T>,
            Form::RegImm => reg_imm::<A, T>,
            Form::RegMem => reg_mem::<A, T>,
            Form::MemReg => mem_reg::<A, T>,
            Form::MemImm => mem_imm::<A, T>,
        }
    }
    Some(match size {
        1 => of::<A, u8>(form),
        2 => of::<A, u16>(form),
        4 => of::<A, u32>(form),
        8 => of::<A, u64>(form),
        _ => return None,
    })
}

/// A one-operand operation.
pub trait Unary {
    fn compute<T: Width>(a: T) -> T;
    fn flags<T: Width>(flags: &mut Flags, a: T, result: T);
}

macro_rules! unary {
    ($name:ident, |$a:ident| $value:expr, $set:expr) => {
        pub struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn compute<T: Width>(a: T) -> T {
                let $a = a.to_u64();
                T::from_u64($value)
            }
            #[inline(always)]
            fn flags<T: Width>(flags: &mut Flags, a: T, result: T) {
                let set: fn(&mut Flags, T, T) = $set;
                set(flags, a, result)
            }
        }
    };
}

unary!(Inc, |a| a.wrapping_add(1), |f, a, r| f.set_inc(a, r));
unary!(Dec, |a| a.wrapping_sub(1), |f, a, r| f.set_dec(a, r));
unary!(Neg, |a| a.wrapping_neg(), |f, a, r| f.set_sub(
    T::from_u64(0),
    a,
    r
));
unary!(Not, |a| !a, |_, _, _| ());

fn unary_reg<U: Unary, T: Width>(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let a = core.reg::<T>(op.dst);
    let result = U::compute(a);
    U::flags(&mut core.state.flags, a, result);
    core.set_reg(op.dst, result);
    Ok(())
}

fn unary_mem<U: Unary, T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, T::BYTES, Access::Write)?;
    let lock = op.flags.has(OpFlags::LOCK);
    let a = core.modify(world, linear, op.seg, lock, U::compute::<T>)?;
    U::flags(&mut core.state.flags, a, U::compute(a));
    Ok(())
}

/// The handler of `U` for a register or memory operand of `size` bytes.
pub fn unary<U: Unary>(op: &Op) -> Option<Handler> {
    fn of<U: Unary, T: Width>(memory: bool) -> Handler {
        if memory {
            unary_mem::<U, T>
        } else {
            unary_reg::<U, T>
        }
    }
    let memory = op.flags.has(OpFlags::MEMORY);
    Some(match op.size {
        1 => of::<U, u8>(memory),
        2 => of::<U, u16>(memory),
        4 => of::<U, u32>(memory),
        8 => of::<U, u64>(memory),
        _ => return None,
    })
}
