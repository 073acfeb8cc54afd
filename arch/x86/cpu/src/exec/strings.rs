//! MOVS, STOS, LODS, CMPS, SCAS, with their repeat prefixes.
//!
//! A repeated operation commits whole iterations and returns [`Stop::Again`] every so often, so that signals and
//! interrupts get in. Runs that move forward within one page on either side are done at once.

use crate::core::Attention;
use crate::mmu::access::size_mask;
use crate::op::{Op, OpFlags, Width};
use crate::state::{ES, RAX, RCX, RDI, RSI, flags};
use crate::world::Access;
use crate::{Core, Step, Stop, World};

/// Iterations that one call may do before it lets the run loop look around.
const BATCH: u64 = 1024;

impl Core {
    fn string_register(&self, register: usize, op: &Op) -> u64 {
        self.state.gpr[register] & size_mask(op.address_size)
    }

    /// Adds to a string register, as wide as an address.
    #[inline(always)]
    fn advance(&mut self, register: usize, op: &Op, by: u64) {
        let value = self.state.gpr[register].wrapping_add(by);
        self.set_reg_sized(
            register as u8,
            op.address_size,
            value & size_mask(op.address_size),
        );
    }

    #[inline(always)]
    fn stride<T: Width>(&self) -> u64 {
        if self.state.flags.has(flags::DF) {
            0u64.wrapping_sub(T::BYTES)
        } else {
            T::BYTES
        }
    }

    fn source<T: Width>(&self, op: &Op) -> Step<u64> {
        self.segmented(op.seg, self.string_register(RSI, op), T::BYTES, Access::Read)
    }

    fn destination<T: Width>(&self, op: &Op, access: Access) -> Step<u64> {
        self.segmented(ES as u8, self.string_register(RDI, op), T::BYTES, access)
    }

    /// Iterations that a fast run may cover: forward, inside the page of `linear`, by `count` at most; none in
    /// segments that are not flat.
    fn run_length<T: Width>(&self, op: &Op, linear: u64, count: u64) -> u64 {
        let flat = self.mode.code_bits == 64 && op.address_size == 8;
        if !flat || self.state.flags.has(flags::DF) || self.single_iteration() {
            return 0;
        }
        count.min((4096 - (linear & 0xfff)) / T::BYTES)
    }

    /// Whether a debugger or the trap flag wants to see each iteration.
    pub(super) fn single_iteration(&self) -> bool {
        self.state.flags.has(flags::TF) || self.debug.single_step
    }
}

/// Repeats `body` while the count lasts. `body` does one iteration or, given a count, as many as it likes, and
/// returns how many it did and whether a REPE/REPNE condition ends the loop.
#[inline(always)]
fn repeat(
    core: &mut Core,
    op: &Op,
    world: &mut dyn World,
    body: impl Fn(&mut Core, &Op, &mut dyn World, u64) -> Step<(u64, bool)>,
) -> Step {
    if !op.flags.has(OpFlags::REP) && !op.flags.has(OpFlags::REPNE) {
        return body(core, op, world, 1).map(|_| ());
    }
    let mut budget = BATCH;
    loop {
        let count = core.reg_sized(RCX as u8, op.address_size);
        if count == 0 {
            return Ok(());
        }
        let (done, ended) = body(core, op, world, count)?;
        core.advance(RCX, op, 0u64.wrapping_sub(done));
        if ended || count == done {
            return Ok(());
        }
        budget = budget.saturating_sub(done);
        let leave = Attention::POSTED | Attention::RESYNC | Attention::DEBUG | Attention::RETIRED;
        if budget == 0 || core.attention.0 & leave != 0 || core.single_iteration() {
            return Err(Stop::Again);
        }
    }
}

pub fn movs<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    repeat(core, op, world, |core, op, world, count| {
        let from = core.source::<T>(op)?;
        let to = match core.destination::<T>(op, Access::Write) {
            Ok(to) => to,
            Err(stop) => {
                // What is wrong with the source comes first.
                core.read::<T>(world, from, op.seg)?;
                return Err(stop);
            }
        };
        let run = core.run_length::<T>(op, from, core.run_length::<T>(op, to, count));
        if run > 1 && core.copy_run(from, to, (run * T::BYTES) as usize) {
            core.advance(RSI, op, run * T::BYTES);
            core.advance(RDI, op, run * T::BYTES);
            return Ok((run, false));
        }
        let value = core.read::<T>(world, from, op.seg)?;
        core.write::<T>(world, to, ES as u8, value)?;
        let stride = core.stride::<T>();
        core.advance(RSI, op, stride);
        core.advance(RDI, op, stride);
        Ok((1, false))
    })
}

pub fn stos<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    repeat(core, op, world, |core, op, world, count| {
        let to = core.destination::<T>(op, Access::Write)?;
        let value = core.reg::<T>(RAX as u8);
        let run = core.run_length::<T>(op, to, count);
        if run > 1 && core.fill_run(to, value, run) {
            core.advance(RDI, op, run * T::BYTES);
            return Ok((run, false));
        }
        core.write::<T>(world, to, ES as u8, value)?;
        let stride = core.stride::<T>();
        core.advance(RDI, op, stride);
        Ok((1, false))
    })
}

pub fn lods<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    repeat(core, op, world, |core, op, world, _| {
        let from = core.source::<T>(op)?;
        let value = core.read::<T>(world, from, op.seg)?;
        core.set_reg(RAX as u8, value);
        let stride = core.stride::<T>();
        core.advance(RSI, op, stride);
        Ok((1, false))
    })
}

#[inline(always)]
fn compare<T: Width>(core: &mut Core, op: &Op, a: T, b: T) -> bool {
    let difference = T::from_u64(a.to_u64().wrapping_sub(b.to_u64()));
    core.state.flags.set_sub(a, b, difference);
    if op.flags.has(OpFlags::REPNE) {
        a == b
    } else {
        a != b
    }
}

pub fn cmps<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    repeat(core, op, world, |core, op, world, _| {
        let from = core.source::<T>(op)?;
        let to = core.destination::<T>(op, Access::Read)?;
        // In the order in which processors find the faults.
        let b = core.read::<T>(world, to, ES as u8)?;
        let a = core.read::<T>(world, from, op.seg)?;
        let ended = compare(core, op, a, b);
        let stride = core.stride::<T>();
        core.advance(RSI, op, stride);
        core.advance(RDI, op, stride);
        Ok((1, ended))
    })
}

pub fn scas<T: Width>(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    repeat(core, op, world, |core, op, world, _| {
        let to = core.destination::<T>(op, Access::Read)?;
        let b = core.read::<T>(world, to, ES as u8)?;
        let ended = compare(core, op, core.reg::<T>(RAX as u8), b);
        let stride = core.stride::<T>();
        core.advance(RDI, op, stride);
        Ok((1, ended))
    })
}

impl Core {
    /// Copies `len` bytes between two pages if both are in the TLB and the copy does not read what it wrote.
    fn copy_run(&mut self, from: u64, to: u64, len: usize) -> bool {
        let source = *self.mmu.entry(from);
        let target = *self.mmu.entry(to);
        if source.read != from & !0xfff || target.write != to & !0xfff {
            return false;
        }
        let (from, to) = ((from & 0xfff) as usize, (to & 0xfff) as usize);
        if source.page == target.page && to > from && to < from + len {
            return false;
        }
        let mut buffer = [0u8; 4096];
        let Some(buffer) = buffer.get_mut(..len) else {
            return false;
        };
        source.page.read(from, buffer).is_ok() && target.page.write(to, buffer).is_ok()
    }

    /// Fills `count` elements of one page if it is in the TLB.
    fn fill_run<T: Width>(&mut self, to: u64, value: T, count: u64) -> bool {
        let target = *self.mmu.entry(to);
        if target.write != to & !0xfff {
            return false;
        }
        let mut buffer = [0u8; 4096];
        let bytes = value.to_u64().to_le_bytes();
        let len = (count * T::BYTES) as usize;
        let Some(buffer) = buffer.get_mut(..len) else {
            return false;
        };
        for piece in buffer.chunks_exact_mut(T::BYTES as usize) {
            piece.copy_from_slice(&bytes[..T::BYTES as usize]);
        }
        target.page.write((to & 0xfff) as usize, buffer).is_ok()
    }
}
