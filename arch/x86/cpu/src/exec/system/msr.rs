//! RDMSR, WRMSR, XGETBV, XSETBV, RDPKRU, WRPKRU, SWAPGS, and the FS and GS base instructions.

use super::privileged;
use crate::core::Attention;
use crate::mmu::access::is_canonical;
use crate::op::Op;
use crate::state::{CR4_FSGSBASE, CR4_OSXSAVE, CR4_PKE, EFER_NXE, FS, GS, RAX, RCX, RDX};
use crate::{Core, Fault, Step, World};

fn edx_eax(core: &Core) -> u64 {
    u64::from(core.state.gpr[RAX] as u32) | core.state.gpr[RDX] << 32
}

/// Splits a value over EDX:EAX.
pub(super) fn set_edx_eax(core: &mut Core, value: u64) {
    core.state.gpr[RAX] = value & 0xffff_ffff;
    core.state.gpr[RDX] = value >> 32;
}

pub fn rdmsr(core: &mut Core, _: &Op, world: &mut dyn World) -> Step {
    privileged(core)?;
    let index = core.state.gpr[RCX] as u32;
    core.attention.0 |= Attention::RETIRED;
    let value = world.read_msr(&mut core.state, index)?;
    set_edx_eax(core, value);
    Ok(())
}

pub fn wrmsr(core: &mut Core, _: &Op, world: &mut dyn World) -> Step {
    privileged(core)?;
    let index = core.state.gpr[RCX] as u32;
    let value = edx_eax(core);
    let efer = core.state.efer;
    core.attention.0 |= Attention::RETIRED;
    world.write_msr(&mut core.state, index, value)?;
    if (efer ^ core.state.efer) & EFER_NXE != 0 {
        core.flush_tlb();
    }
    // An interrupt controller's register may have let an interrupt through.
    core.attention.0 |= Attention::WINDOW;
    core.refresh();
    Ok(())
}

pub fn xgetbv(core: &mut Core, _: &Op, world: &mut dyn World) -> Step {
    if core.state.cr4 & CR4_OSXSAVE == 0 {
        return Err(Fault::UD.into());
    }
    let value = match core.state.gpr[RCX] as u32 {
        0 => core.state.xcr0,
        1 if world.cpuid(&core.state, 0xd, 1)[0] & 1 << 2 != 0 => {
            core.state.xcr0 & core.state.components_in_use()
        }
        _ => return Err(Fault::GP0.into()),
    };
    set_edx_eax(core, value);
    Ok(())
}

pub fn xsetbv(core: &mut Core, _: &Op, world: &mut dyn World) -> Step {
    if core.state.cr4 & CR4_OSXSAVE == 0 {
        return Err(Fault::UD.into());
    }
    privileged(core)?;
    let value = edx_eax(core);
    let [low, _, _, high] = world.cpuid(&core.state, 0xd, 0);
    let offered = u64::from(low) | u64::from(high) << 32;
    if core.state.gpr[RCX] as u32 != 0 || value & !offered != 0 || !is_consistent(value) {
        return Err(Fault::GP0.into());
    }
    core.state.xcr0 = value;
    core.refresh();
    Ok(())
}

/// Whether XCR0 may have this value: x87 always on, AVX only with SSE, groups of components all or none.
pub fn is_consistent(xcr0: u64) -> bool {
    let whole = |mask: u64| xcr0 & mask == 0 || xcr0 & mask == mask;
    let avx = xcr0 & 4 != 0;
    let avx512 = xcr0 & 0xe0 != 0;
    xcr0 & 1 != 0
        && (!avx || xcr0 & 2 != 0)
        && whole(0x18)
        && whole(0xe0)
        && (!avx512 || avx)
        && whole(0x6_0000)
}

fn keys_enabled(core: &Core) -> Step {
    if core.state.cr4 & CR4_PKE == 0 {
        return Err(Fault::UD.into());
    }
    if core.state.gpr[RCX] as u32 != 0 {
        return Err(Fault::GP0.into());
    }
    Ok(())
}

pub fn rdpkru(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    keys_enabled(core)?;
    set_edx_eax(core, core.state.pkru.into());
    Ok(())
}

pub fn wrpkru(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    keys_enabled(core)?;
    if core.state.gpr[RDX] as u32 != 0 {
        return Err(Fault::GP0.into());
    }
    let before = core.state.pkru;
    core.state.pkru = core.state.gpr[RAX] as u32;
    core.keys_changed(before);
    Ok(())
}

pub fn swapgs(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    privileged(core)?;
    std::mem::swap(&mut core.state.seg[GS].base, &mut core.state.msr.kernel_gs_base);
    Ok(())
}

fn bases_enabled(core: &Core) -> Step {
    if core.state.cr4 & CR4_FSGSBASE == 0 {
        Err(Fault::UD.into())
    } else {
        Ok(())
    }
}

fn read_base(core: &mut Core, op: &Op, seg: usize) -> Step {
    bases_enabled(core)?;
    core.set_reg_sized(op.dst, op.size, core.state.seg[seg].base);
    Ok(())
}

fn write_base(core: &mut Core, op: &Op, seg: usize) -> Step {
    bases_enabled(core)?;
    let base = core.reg_sized(op.dst, op.size);
    if !is_canonical(base) {
        return Err(Fault::GP0.into());
    }
    core.state.seg[seg].base = base;
    Ok(())
}

pub fn rdfsbase(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    read_base(core, op, FS)
}

pub fn rdgsbase(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    read_base(core, op, GS)
}

pub fn wrfsbase(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    write_base(core, op, FS)
}

pub fn wrgsbase(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    write_base(core, op, GS)
}
