//! Control registers: MOV to and from CR0-CR8, LMSW, SMSW, CLTS, XSETBV, and the TLB instructions.

use super::{privileged, user_may_look};
use crate::core::Attention;
use crate::exec::segment::{read_selector, store_word};
use crate::mmu::{Cached, access::is_canonical};
use crate::op::Op;
use crate::state::*;
use crate::world::{Access, Posted};
use crate::{Core, Fault, Step, World};

/// The bits of CR0 that exist.
pub(crate) const CR0_KNOWN: u64 =
    CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
/// The bits of CR4 that every processor here has; others hang on CPUID.
const CR4_ALWAYS: u64 = CR4_VME
    | CR4_PVI
    | CR4_TSD
    | CR4_DE
    | CR4_PSE
    | CR4_PAE
    | CR4_MCE
    | CR4_PGE
    | CR4_PCE
    | CR4_OSFXSR
    | CR4_OSXMMEXCPT;
/// Bit 63 of a value for CR3: keep the translations of the PCID.
const CR3_NO_FLUSH: u64 = 1 << 63;

/// MOV r, CRn: `dst` is the general register, `src` the number.
pub fn read_control(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    privileged(core)?;
    let value = match op.src {
        0 => core.state.cr0,
        2 => core.state.cr2,
        3 => core.state.cr3,
        4 => core.state.cr4,
        8 => u64::from(world.task_priority(&core.state)),
        _ => return Err(Fault::UD.into()),
    };
    core.set_reg_sized(op.dst, op.size, value);
    Ok(())
}

/// MOV CRn, r: `dst` is the number, `src` the general register.
pub fn write_control(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    privileged(core)?;
    let value = core.reg_sized(op.src, op.size);
    match op.dst {
        0 => write_cr0(core, world, value),
        2 => {
            core.state.cr2 = value;
            Ok(())
        }
        3 => write_cr3(core, world, value),
        4 => write_cr4(core, world, value),
        8 => write_cr8(core, world, value),
        _ => Err(Fault::UD.into()),
    }
}

fn write_cr0(core: &mut Core, world: &mut dyn World, value: u64) -> Step {
    let old = core.state.cr0;
    let invalid = value >> 32 != 0
        || value & CR0_PG != 0 && value & CR0_PE == 0
        || value & CR0_NW != 0 && value & CR0_CD == 0;
    if invalid {
        return Err(Fault::GP0.into());
    }
    let new = value & CR0_KNOWN | CR0_ET;
    let mut efer = core.state.efer;
    if new & !old & CR0_PG != 0 {
        if efer & EFER_LME != 0 {
            if core.state.cr4 & CR4_PAE == 0 || core.state.seg[CS].attributes.long() {
                return Err(Fault::GP0.into());
            }
            efer |= EFER_LMA;
        } else if core.state.cr4 & CR4_PAE != 0 {
            core.load_pdptrs(world)?;
        }
    }
    if old & !new & CR0_PG != 0 {
        if core.mode.code_bits == 64 || core.state.cr4 & CR4_PCIDE != 0 {
            return Err(Fault::GP0.into());
        }
        efer &= !EFER_LMA;
    }
    core.state.cr0 = new;
    core.state.efer = efer;
    if (old ^ new) & (CR0_PG | CR0_PE | CR0_WP) != 0 {
        core.flush_tlb();
    }
    core.refresh();
    Ok(())
}

fn write_cr3(core: &mut Core, world: &mut dyn World, value: u64) -> Step {
    let pcids = core.state.cr4 & CR4_PCIDE != 0;
    let old = core.state.cr3;
    let mut new = value;
    if core.state.long_mode() {
        if pcids {
            new &= !CR3_NO_FLUSH;
        }
        if new >> core.state.physical_bits != 0 {
            return Err(Fault::GP0.into());
        }
    } else {
        new &= 0xffff_ffff;
    }
    core.state.cr3 = new;
    if core.state.paging()
        && core.state.cr4 & CR4_PAE != 0
        && !core.state.long_mode()
        && let Err(stop) = core.load_pdptrs(world)
    {
        core.state.cr3 = old;
        return Err(stop);
    }
    core.switch_space(if pcids && value & CR3_NO_FLUSH != 0 {
        Cached::Kept
    } else {
        Cached::Void
    });
    Ok(())
}

/// The bits of CR4 that CPUID lets the guest set.
pub(crate) fn cr4_allowed(core: &Core, world: &mut dyn World) -> u64 {
    let mut allowed = CR4_ALWAYS;
    let [top, ..] = world.cpuid(&core.state, 0, 0);
    let [_, _, c, _] = world.cpuid(&core.state, 1, 0);
    let mut offer = |register: u32, bit: u32, cr4: u64| {
        if register >> bit & 1 != 0 {
            allowed |= cr4;
        }
    };
    offer(c, 17, CR4_PCIDE);
    offer(c, 26, CR4_OSXSAVE);
    if top >= 7 {
        let [_, b, c, _] = world.cpuid(&core.state, 7, 0);
        offer(b, 0, CR4_FSGSBASE);
        offer(b, 7, CR4_SMEP);
        offer(b, 20, CR4_SMAP);
        offer(c, 2, CR4_UMIP);
        offer(c, 3, CR4_PKE);
    }
    allowed
}

fn write_cr4(core: &mut Core, world: &mut dyn World, new: u64) -> Step {
    let old = core.state.cr4;
    // What is set already may stay, so that a register the client set never faults by itself.
    if new & !old & !cr4_allowed(core, world) != 0 {
        return Err(Fault::GP0.into());
    }
    let long = core.state.long_mode();
    if long && new & CR4_PAE == 0 {
        return Err(Fault::GP0.into());
    }
    if new & !old & CR4_PCIDE != 0 && (!long || core.state.cr3 & 0xfff != 0) {
        return Err(Fault::GP0.into());
    }
    core.state.cr4 = new;
    let pae_paging = core.state.paging() && new & CR4_PAE != 0 && !long;
    if pae_paging
        && (old ^ new) & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP) != 0
        && let Err(stop) = core.load_pdptrs(world)
    {
        core.state.cr4 = old;
        return Err(stop);
    }
    if (old ^ new) & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PCIDE) != 0 {
        core.flush_tlb();
    }
    core.refresh();
    Ok(())
}

fn write_cr8(core: &mut Core, world: &mut dyn World, value: u64) -> Step {
    if value > 15 {
        return Err(Fault::GP0.into());
    }
    if world.set_task_priority(&mut core.state, value as u8) == Posted::Pause {
        core.attention.0 |= Attention::POSTED;
    }
    core.attention.0 |= Attention::WINDOW;
    Ok(())
}

/// LMSW: sets PE, MP, EM and TS; cannot clear PE.
pub fn lmsw(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    privileged(core)?;
    let value = u64::from(read_selector(core, op, world)?);
    let old = core.state.cr0;
    let new = old & !(CR0_MP | CR0_EM | CR0_TS) | value & (CR0_PE | CR0_MP | CR0_EM | CR0_TS);
    write_cr0(core, world, new)
}

/// SMSW: CR0, cut to the operand.
pub fn smsw(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    user_may_look(core)?;
    let value = core.state.cr0;
    store_word(core, op, world, value)
}

pub fn clts(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    privileged(core)?;
    core.state.cr0 &= !CR0_TS;
    core.refresh();
    Ok(())
}

pub fn invlpg(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    privileged(core)?;
    // The operand is an address only: neither limits nor rights matter, and a bad one does nothing.
    let offset = core.offset(op) & crate::mmu::access::size_mask(op.address_size);
    let base = match core.mode.code_bits {
        64 if usize::from(op.seg) < FS => 0,
        _ => core.state.seg[usize::from(op.seg).min(5)].base,
    };
    let linear = core.system_address(base, offset);
    if is_canonical(linear) {
        core.invalidate_page(linear);
    }
    Ok(())
}

/// INVPCID: `dst` is the register with the type.
pub fn invpcid(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    privileged(core)?;
    let linear = core.address(op, 16, Access::Read)?;
    let mut bytes = [0; 16];
    core.read_bytes(world, linear, &mut bytes, op.seg)?;
    let descriptor = u128::from_le_bytes(bytes);
    let (low, address) = (descriptor as u64, (descriptor >> 64) as u64);
    let pcid = (low & 0xfff) as u16;
    let pcids = core.state.cr4 & CR4_PCIDE != 0;
    let kind = if core.mode.code_bits == 64 {
        core.reg::<u64>(op.dst)
    } else {
        u64::from(core.reg::<u32>(op.dst))
    };
    let invalid = kind > 3 || low >> 12 != 0 || kind < 2 && pcid != 0 && !pcids;
    if invalid || kind == 0 && !is_canonical(address) {
        return Err(Fault::GP0.into());
    }
    match kind {
        0 => core.invalidate_page_of(pcid, address),
        1 => core.invalidate_space(pcid),
        2 => core.flush_tlb(),
        _ => core.invalidate_spaces(),
    }
    Ok(())
}
