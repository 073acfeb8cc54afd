//! RSM's second half: the saved state becomes the processor's, if it is one that a processor can be in.

use super::Saved;
use super::layout::Form;
use crate::exec::system::control::{CR0_KNOWN, cr4_allowed};
use crate::exec::system::debug::{DR6_WRITABLE, DR7_WRITABLE};
use crate::mmu::access::is_canonical;
use crate::state::*;
use crate::{Core, World};

/// The saved state is none that can be loaded.
pub(super) struct Invalid;

fn require(condition: bool) -> Result<(), Invalid> {
    if condition { Ok(()) } else { Err(Invalid) }
}

/// The bits of EFER that the guest's CPUID offers, LMA left out.
fn efer_allowed(core: &Core, world: &mut dyn World) -> u64 {
    let [_, _, ecx, edx] = world.cpuid(&core.state, 0x8000_0001, 0);
    let rows = [
        (edx >> 11, EFER_SCE),
        (edx >> 20, EFER_NXE),
        (edx >> 25, EFER_FFXSR),
        (edx >> 29, EFER_LME),
        (ecx >> 2, EFER_SVME),
    ];
    rows.into_iter()
        .filter(|(offered, _)| offered & 1 != 0)
        .fold(0, |all, (_, bit)| all | bit)
}

/// EFER with LMA as the rest of the state implies it.
fn efer(core: &Core, world: &mut dyn World, saved: &Saved, form: Form) -> Result<u64, Invalid> {
    if form == Form::Legacy {
        return Ok(core.state.efer);
    }
    let efer = saved.efer & !EFER_LMA;
    require(efer & !efer_allowed(core, world) == 0)?;
    let long = efer & EFER_LME != 0 && saved.cr0 & CR0_PG != 0;
    Ok(if long { efer | EFER_LMA } else { efer })
}

fn check(core: &Core, world: &mut dyn World, saved: &Saved, efer: u64) -> Result<(), Invalid> {
    let long = efer & EFER_LMA != 0;
    require(saved.dr6 >> 32 == 0 && saved.dr7 >> 32 == 0)?;
    require(saved.cr0 >> 32 == 0)?;
    require(saved.cr0 & CR0_NW == 0 || saved.cr0 & CR0_CD != 0)?;
    require(saved.cr0 & CR0_PG == 0 || saved.cr0 & CR0_PE != 0)?;
    require(saved.cr4 & !cr4_allowed(core, world) == 0)?;
    require(!long || saved.cr4 & CR4_PAE != 0)?;
    require(saved.cr4 & CR4_PCIDE == 0 || long)?;
    require(saved.cr3 >> core.state.physical_bits == 0)?;
    // A segment of 64-bit code is nothing to return to without long mode, nor is a place outside of the address space.
    let code = &saved.seg[CS].attributes;
    require(!long || !code.long() || is_canonical(saved.rip))
}

pub(super) fn load(core: &mut Core, world: &mut dyn World, saved: &Saved, form: Form) -> Result<(), Invalid> {
    let efer = efer(core, world, saved, form)?;
    check(core, world, saved, efer)?;
    let state = &mut core.state;
    let count = if form == Form::Long { 16 } else { 8 };
    state.gpr[..count].copy_from_slice(&saved.gpr[..count]);
    state.rip = saved.rip;
    state.set_rflags(saved.rflags);
    state.dr6 = saved.dr6 & DR6_WRITABLE | DR6_FIXED;
    state.dr7 = saved.dr7 & DR7_WRITABLE | DR7_FIXED;
    state.cr0 = saved.cr0 & CR0_KNOWN | CR0_ET;
    state.cr3 = saved.cr3;
    state.cr4 = saved.cr4;
    state.efer = efer;
    state.smm.base = saved.base;
    state.interruptibility.mov_ss_shadow = saved.shadow & 1 != 0;
    state.interruptibility.sti_shadow = saved.shadow & 2 != 0;
    state.seg = saved.seg;
    state.ldtr = saved.ldtr;
    state.tr = saved.tr;
    state.gdtr = saved.gdtr;
    state.idtr = saved.idtr;
    if state.paging() && state.cr4 & CR4_PAE != 0 && !state.long_mode() {
        return core.load_pdptrs(world).map_err(|_| Invalid);
    }
    Ok(())
}
