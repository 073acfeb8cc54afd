//! Caches, fences, hints: what has no effect here beyond its checks.

use super::privileged;
use crate::mmu::access::is_canonical;
use crate::op::Op;
use crate::world::Access;
use crate::{Core, Fault, Step, World};
use ring3_host::time::complete_loads;
use std::sync::atomic::{Ordering, fence};

pub fn nop(_: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    Ok(())
}

/// PAUSE: a guest that spins gives way to the other threads of its processor core.
pub fn pause(_: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    std::hint::spin_loop();
    Ok(())
}

/// INVD, WBINVD, WBNOINVD.
pub fn flush_caches(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    privileged(core)
}

/// CLFLUSH and its like: faults as a load of one byte does.
pub fn flush_line(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let linear = core.address(op, 1, Access::Read)?;
    if core.mode.code_bits == 64 && !is_canonical(linear) {
        return Err(Fault::GP0.into());
    }
    core.probe_read(world, linear, op.seg)
}

/// MFENCE, SERIALIZE.
pub fn full_fence(_: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    fence(Ordering::SeqCst);
    Ok(())
}

/// SFENCE: ordinary stores are in order by themselves.
pub fn store_fence(_: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    fence(Ordering::AcqRel);
    Ok(())
}

/// LFENCE: ordinary loads are in order by themselves, but RDTSC is not behind them.
pub fn load_fence(_: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    complete_loads();
    Ok(())
}
