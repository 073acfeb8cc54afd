//! MOV to and from debug registers.

use super::privileged;
use crate::op::Op;
use crate::state::{CR4_DE, DR6_BD, DR6_FIXED, DR7_ENABLES, DR7_FIXED, DR7_GD};
use crate::{Core, Fault, Step, Vector, World};

/// The bits of DR6 and DR7 that software can change.
pub(crate) const DR6_WRITABLE: u64 = 0xe00f;
pub(crate) const DR7_WRITABLE: u64 = 0xffff_23ff;

/// The register that a number means: DR4 and DR5 are other names of DR6 and DR7 unless CR4.DE is set.
fn number(core: &Core, code: u8) -> Step<usize> {
    match code {
        4 | 5 if core.state.cr4 & CR4_DE == 0 => Ok(usize::from(code) + 2),
        0..=3 | 6 | 7 => Ok(usize::from(code)),
        _ => Err(Fault::UD.into()),
    }
}

fn check(core: &mut Core, code: u8) -> Step<usize> {
    let register = number(core, code)?;
    privileged(core)?;
    // The client's debug registers are guarded as the guest's own are.
    if core.debug_registers().1 & DR7_GD != 0 {
        core.debug_status = DR6_BD;
        return Err(Fault::plain(Vector::DB).into());
    }
    Ok(register)
}

/// MOV r, DRn: `dst` is the general register, `src` the number.
pub fn read_debug(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let value = match check(core, op.src)? {
        6 => core.state.dr6,
        7 => core.state.dr7,
        n => core.state.dr[n & 3],
    };
    core.set_reg_sized(op.dst, op.size, value);
    Ok(())
}

/// MOV DRn, r: `dst` is the number, `src` the general register.
pub fn write_debug(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let register = check(core, op.dst)?;
    let value = core.reg_sized(op.src, op.size);
    if register >= 6 && value >> 32 != 0 {
        return Err(Fault::GP0.into());
    }
    let enabled = core.state.dr7 & DR7_ENABLES;
    match register {
        6 => core.state.dr6 = value & DR6_WRITABLE | DR6_FIXED,
        7 => core.state.dr7 = value & DR7_WRITABLE | DR7_FIXED,
        n => core.state.dr[n & 3] = value,
    }
    // Watched pages stay out of the TLB: what is there must be looked at anew.
    if register != 6 && (enabled | core.state.dr7 & DR7_ENABLES) != 0 {
        core.flush_tlb();
    }
    Ok(())
}
