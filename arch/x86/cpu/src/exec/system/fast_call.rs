//! SYSCALL, SYSRET, SYSENTER, SYSEXIT. Where the vendors differ, CPUID leaf 0 says which one this processor is.

use super::privileged;
use crate::core::Attention;
use crate::mmu::access::is_canonical;
use crate::op::Op;
use crate::state::{Attributes, CS, DR6_BS, EFER_SCE, RCX, RDX, RSP, SS, Segment, flags};
use crate::{Core, Fault, Step, World};

/// The register index of R11.
const R11: usize = 11;
/// The flags that SYSRET takes from R11.
const SYSRET_FLAGS: u64 = 0x003c_7fd7;

fn is_intel(core: &Core, world: &mut dyn World) -> bool {
    let [_, b, c, d] = world.cpuid(&core.state, 0, 0);
    (b, d, c) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e)
}

fn flat(selector: u16, attributes: u32, dpl: u32) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: 0xffff_ffff,
        attributes: Attributes(attributes | dpl << 5),
    }
}

const CODE64: u32 = 0xa09b;
const CODE32: u32 = 0xc09b;
const DATA: u32 = 0xc093;

fn enter(core: &mut Core, selector: u16, code: u32, cpl: u32) {
    core.state.seg[CS] = flat(selector, code, cpl);
    core.state.seg[SS] = flat(selector.wrapping_add(8) & !3 | cpl as u16, DATA, cpl);
    core.refresh();
}

pub fn syscall(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let code64 = core.mode.code_bits == 64;
    if core.state.efer & EFER_SCE == 0
        || !core.state.protected()
        || core.state.flags.has(flags::VM)
        || !code64 && is_intel(core, world)
    {
        return Err(Fault::UD.into());
    }
    let next = core.following(op);
    let selector = (core.state.msr.star >> 32) as u16 & !3;
    core.state.gpr[RCX] = next;
    if core.state.long_mode() {
        core.state.gpr[R11] = core.state.rflags();
        core.state.rip = if code64 {
            core.state.msr.lstar
        } else {
            core.state.msr.cstar
        };
        let kept = core.state.rflags() & !core.state.msr.fmask & !flags::RF;
        core.state.set_rflags(kept);
        enter(core, selector, CODE64, 0);
    } else {
        core.state.rip = core.state.msr.star & 0xffff_ffff;
        core.state.flags.system &= !(flags::IF | flags::RF | flags::VM);
        enter(core, selector, CODE32, 0);
    }
    trap_if_single_stepping(core);
    Ok(())
}

/// SYSRET: `size` is 8 for a return to 64-bit mode.
pub fn sysret(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let long = core.state.long_mode();
    if core.state.efer & EFER_SCE == 0 || core.mode.real_segments || !long && is_intel(core, world) {
        return Err(Fault::UD.into());
    }
    privileged(core)?;
    let wide = op.size == 8 && long;
    let rip = if wide {
        core.state.gpr[RCX]
    } else {
        core.state.gpr[RCX] & 0xffff_ffff
    };
    // Intel faults here, AMD on the first fetch at the target.
    if !is_canonical(rip) && is_intel(core, world) {
        return Err(Fault::GP0.into());
    }
    let star = (core.state.msr.star >> 48) as u16;
    core.state.rip = rip;
    if long {
        let image = core.state.gpr[R11] & SYSRET_FLAGS;
        core.state.set_rflags(image);
    } else {
        core.state.flags.system |= flags::IF;
    }
    core.state.seg[CS] = if wide {
        flat(star.wrapping_add(16) | 3, CODE64, 3)
    } else {
        flat(star | 3, CODE32, 3)
    };
    core.state.seg[SS] = flat(star.wrapping_add(8) | 3, DATA, 3);
    core.refresh();
    trap_if_single_stepping(core);
    opened(core);
    Ok(())
}

/// SYSCALL and SYSRET trap if TF is set once they are done, whatever it was before; see [`crate::run`].
fn trap_if_single_stepping(core: &mut Core) {
    if core.state.flags.has(flags::TF) {
        core.debug_status |= DR6_BS;
        core.attention.0 |= Attention::DEBUG;
    }
}

fn opened(core: &mut Core) {
    if core.state.flags.has(flags::IF) {
        core.attention.0 |= Attention::WINDOW;
    }
}

pub fn sysenter(core: &mut Core, _: &Op, world: &mut dyn World) -> Step {
    let long = core.state.long_mode();
    if long && !is_intel(core, world) {
        return Err(Fault::UD.into());
    }
    let selector = core.state.msr.sysenter_cs as u16 & !3;
    if !core.state.protected() || selector == 0 {
        return Err(Fault::GP0.into());
    }
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    core.state.flags.system &= !(flags::VM | flags::IF | flags::RF);
    core.state.gpr[RSP] = core.state.msr.sysenter_esp & mask;
    core.state.rip = core.state.msr.sysenter_eip & mask;
    enter(core, selector, if long { CODE64 } else { CODE32 }, 0);
    Ok(())
}

/// SYSEXIT: `size` is 8 for a return to 64-bit mode.
pub fn sysexit(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    if core.state.long_mode() && !is_intel(core, world) {
        return Err(Fault::UD.into());
    }
    let base = core.state.msr.sysenter_cs as u16 & !3;
    if core.mode.real_segments || core.mode.cpl != 0 || base == 0 {
        return Err(Fault::GP0.into());
    }
    let wide = op.size == 8 && core.state.long_mode();
    let mask = if wide { u64::MAX } else { 0xffff_ffff };
    let (rip, rsp) = (core.state.gpr[RDX] & mask, core.state.gpr[RCX] & mask);
    if wide && (!is_canonical(rip) || !is_canonical(rsp)) {
        return Err(Fault::GP0.into());
    }
    core.state.rip = rip;
    core.state.gpr[RSP] = rsp;
    let (selector, code) = if wide {
        (base.wrapping_add(32), CODE64)
    } else {
        (base.wrapping_add(16), CODE32)
    };
    enter(core, selector | 3, code, 3);
    Ok(())
}
