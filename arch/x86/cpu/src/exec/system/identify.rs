//! CPUID, time stamps, random numbers, MONITOR and MWAIT, hypercalls.

use super::msr::set_edx_eax;
use super::privileged;
use crate::core::Attention;
use crate::op::Op;
use crate::state::{CR4_PCE, CR4_TSD, CS, RAX, RBX, RCX, RDX, flags};
use crate::world::{Foreign, Hypercall};
use crate::{Core, Fault, Step, Stop, World};
use ring3_host::time::complete_loads;

pub fn cpuid(core: &mut Core, _: &Op, world: &mut dyn World) -> Step {
    let (leaf, subleaf) = (core.state.gpr[RAX] as u32, core.state.gpr[RCX] as u32);
    let answer = world.cpuid(&core.state, leaf, subleaf);
    for (register, value) in [RAX, RBX, RCX, RDX].into_iter().zip(answer) {
        core.state.gpr[register] = u64::from(value);
    }
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(())
}

fn may_read_time(core: &Core) -> Step {
    if core.state.cr4 & CR4_TSD != 0 {
        privileged(core)
    } else {
        Ok(())
    }
}

pub fn rdtsc(core: &mut Core, _: &Op, world: &mut dyn World) -> Step {
    may_read_time(core)?;
    let now = world.tsc(&core.state);
    set_edx_eax(core, now);
    Ok(())
}

pub fn rdtscp(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    complete_loads();
    rdtsc(core, op, world)?;
    core.state.gpr[RCX] = core.state.msr.tsc_aux & 0xffff_ffff;
    Ok(())
}

/// RDPID: `dst` is the register.
pub fn rdpid(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    core.set_reg_sized(op.dst, op.size, core.state.msr.tsc_aux);
    Ok(())
}

pub fn rdpmc(core: &mut Core, _: &Op, world: &mut dyn World) -> Step {
    let index = core.state.gpr[RCX] as u32;
    if core.state.cr4 & CR4_PCE == 0 && !world.counter_is_open(index) {
        privileged(core)?;
    }
    let value = world
        .performance_counter(&mut core.state, index)
        .ok_or(Fault::GP0)?;
    set_edx_eax(core, value);
    Ok(())
}

/// RDRAND, RDSEED: `dst` is the register.
pub fn random(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let number = ring3_host::random::word();
    core.set_reg_sized(op.dst, op.size, number.unwrap_or(0));
    core.state
        .flags
        .set_arithmetic(if number.is_some() { flags::CF } else { 0 });
    Ok(())
}

/// MONITOR and MWAIT wait for nothing: a spurious wake-up is always allowed.
pub fn monitor(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    if core.mode.cpl == 0 {
        Ok(())
    } else {
        Err(Fault::UD.into())
    }
}

/// VMCALL.
pub fn vmcall(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    hypercall(core, op, world, Hypercall::Vmcall)
}

/// VMMCALL.
pub fn vmmcall(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    hypercall(core, op, world, Hypercall::Vmmcall)
}

fn hypercall(core: &mut Core, op: &Op, world: &mut dyn World, instruction: Hypercall) -> Step {
    match world.foreign_hypercall(&core.state, instruction) {
        Foreign::Served => {}
        Foreign::Undefined => return Err(Fault::UD.into()),
        Foreign::Replaced(own) => {
            // The next attempt finds the other instruction.
            let at = core.code_address().wrapping_add(u64::from(op.start));
            core.write_bytes(world, at, own.bytes(), CS as u8)?;
            return Err(Stop::Again);
        }
    }
    let next = core.following(op);
    core.attention.0 |= Attention::RETIRED;
    world.hypercall(&mut core.state)?;
    core.state.rip = next;
    core.refresh();
    Ok(())
}
