//! FXSAVE, FXRSTOR and the XSAVE family. There are no supervisor components: IA32_XSS stays zero.

use super::privileged;
use crate::mmu::Class;
use crate::op::Op;
use crate::state::{CR0_EM, CR0_TS, CR4_OSFXSR, CR4_OSXSAVE, RAX, RDX, State};
use crate::world::Access;
use crate::{Core, Fault, Step, Stop, World};
use ring3_host::native::xsave::{
    PointerWidth, XFEATURE_AVX, XFEATURE_HI16_ZMM, XFEATURE_SSE, XFEATURE_X87, XFEATURE_ZMM_HI256, XFEATURES,
    XSAVE_HEADER, component, is_aligned,
};
use ring3_host::native::{MXCSR_DEFAULT, VectorState};

/// XSAVE, and XSAVEOPT, whose optimisation is of no consequence here.
pub const STANDARD: u64 = 0;
pub const COMPACTED: u64 = 1;
/// XCOMP_BV's mark of the compacted format.
const COMPACT: u64 = 1 << 63;
const HEADER_END: usize = XSAVE_HEADER + 64;
const FXSAVE_SIZE: usize = 512;
/// Of those that code outside of 64-bit mode knows in part.
const LARGEST_PART: usize = 1024;

/// `dst` 8: the form with REX.W, whose pointers are 64 bits wide.
fn width(op: &Op) -> PointerWidth {
    if op.dst == 8 {
        PointerWidth::Quad
    } else {
        PointerWidth::Selector
    }
}

fn xmm_count(core: &Core) -> usize {
    if core.mode.code_bits == 64 { 16 } else { 8 }
}

fn aligned(core: &Core, op: &Op, size: u64, alignment: u64, access: Access) -> Step<u64> {
    let linear = core.address(op, size, access)?;
    if linear & (alignment - 1) == 0 {
        Ok(linear)
    } else {
        Err(Fault::GP0.into())
    }
}

/// Where alignment is checked, #AC comes before the #GP that is due anyway, but only for what is no multiple of four.
fn fxsave_area(core: &Core, op: &Op, access: Access) -> Step<u64> {
    let linear = core.address(op, FXSAVE_SIZE as u64, access)?;
    if linear & 3 != 0 && core.mmu.class() == Class::Checked {
        return Err(Fault::AC0.into());
    }
    aligned(core, op, FXSAVE_SIZE as u64, 16, access)
}

fn check_fxsave(core: &Core) -> Step {
    if core.state.cr0 & (CR0_EM | CR0_TS) != 0 {
        Err(Fault::NM.into())
    } else {
        Ok(())
    }
}

fn check_xsave(core: &Core) -> Step {
    if core.state.cr4 & CR4_OSXSAVE == 0 {
        return Err(Fault::UD.into());
    }
    if core.state.cr0 & CR0_TS != 0 {
        Err(Fault::NM.into())
    } else {
        Ok(())
    }
}

pub fn fxsave(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    check_fxsave(core)?;
    let linear = fxsave_area(core, op, Access::Write)?;
    core.probe_write(world, linear, FXSAVE_SIZE, op.seg)?;
    let mut area = [0; FXSAVE_SIZE];
    core.read_bytes(world, linear, &mut area, op.seg)?;
    let vector = &core.state.vector;
    vector.save_x87(&mut area, width(op));
    vector.save_mxcsr(&mut area);
    if core.state.cr4 & CR4_OSFXSR != 0 {
        vector.save_xmm(&mut area, xmm_count(core));
    }
    core.write_bytes(world, linear, &area, op.seg)
}

pub fn fxrstor(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    check_fxsave(core)?;
    let linear = fxsave_area(core, op, Access::Read)?;
    let mut area = [0; FXSAVE_SIZE];
    core.read_bytes(world, linear, &mut area, op.seg)?;
    let count = xmm_count(core);
    let sse = core.state.cr4 & CR4_OSFXSR != 0;
    let vector = &mut core.state.vector;
    if sse {
        vector.load_mxcsr(&area).map_err(|_| Fault::GP0)?;
        vector.load_xmm(&area, count);
    }
    vector.load_x87(&area, width(op));
    Ok(())
}

/// The components that the instruction names and XCR0 has.
fn requested(core: &Core) -> u64 {
    let mask = core.state.gpr[RDX] << 32 | core.state.gpr[RAX] & 0xffff_ffff;
    mask & core.state.xcr0
}

/// Where each component in `features` lies, in order: bit, offset, size.
fn layout(features: u64, compacted: bool) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut next = HEADER_END;
    let mut left = features & !(XFEATURE_X87 | XFEATURE_SSE);
    std::iter::from_fn(move || {
        let feature = left & left.wrapping_neg();
        left ^= feature;
        let (offset, size) = component(feature)?;
        if compacted && is_aligned(feature) {
            next = next.next_multiple_of(64);
        }
        let at = if compacted { next } else { offset };
        next += size;
        Some((feature, at, size))
    })
}

fn end_of(features: u64, compacted: bool) -> usize {
    layout(features, compacted)
        .map(|(_, at, size)| at + size)
        .fold(HEADER_END, usize::max)
}

/// XSAVE and XSAVEOPT (`imm` 0), XSAVEC (1).
pub fn xsave(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    check_xsave(core)?;
    let compacted = op.imm == COMPACTED;
    let wanted = requested(core);
    let end = end_of(wanted, compacted);
    let linear = aligned(core, op, end as u64, 64, Access::Write)?;
    core.probe_write(world, linear, end, op.seg)?;
    // A disabled component looks as if it were in its initial state.
    let hidden = core.state.msr.xfd;
    let mut used = core.state.components_in_use() & wanted & !hidden;
    if compacted && core.state.vector.mxcsr() != MXCSR_DEFAULT {
        // In this format MXCSR is part of the component.
        used |= wanted & XFEATURE_SSE;
    }
    let mut area = vec![0u8; end];
    core.read_bytes(world, linear, &mut area[..HEADER_END], op.seg)?;
    let count = xmm_count(core);
    let vector = &core.state.vector;
    let saved = if compacted { used } else { wanted };
    if saved & XFEATURE_X87 != 0 {
        vector.save_x87(&mut area[..], width(op));
    }
    let has_mxcsr = if compacted {
        saved & XFEATURE_SSE
    } else {
        wanted & (XFEATURE_SSE | XFEATURE_AVX)
    };
    if has_mxcsr != 0 {
        vector.save_mxcsr(&mut area[..]);
    }
    if saved & XFEATURE_SSE != 0 {
        vector.save_xmm(&mut area[..], count);
    }
    let before = word(&area[..], XSAVE_HEADER);
    let present = if compacted { used } else { before & !wanted | used };
    area[XSAVE_HEADER..XSAVE_HEADER + 8].copy_from_slice(&present.to_le_bytes());
    if compacted {
        area[XSAVE_HEADER + 8..XSAVE_HEADER + 16].copy_from_slice(&(wanted | COMPACT).to_le_bytes());
    }
    for (feature, at, size) in layout(wanted, compacted) {
        if saved & !hidden & feature != 0 {
            core.state.save_component(feature, &mut area[at..at + size]);
        }
    }
    core.write_bytes(world, linear, &area[..HEADER_END], op.seg)?;
    for (feature, at, size) in layout(wanted, compacted) {
        if saved & feature != 0 {
            core.write_bytes(
                world,
                linear.wrapping_add(at as u64),
                &area[at..at + known(core, feature, size)],
                op.seg,
            )?;
        }
    }
    Ok(())
}

/// XSAVES: as XSAVEC, for the operating system alone. That nothing may be written that did not change is not made use of.
pub fn xsaves(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    check_xsave(core)?;
    privileged(core)?;
    xsave(core, op, world)
}

/// How many bytes of a component code of the current mode knows: there are eight registers outside of 64-bit mode.
fn known(core: &Core, feature: u64, size: usize) -> usize {
    match feature {
        _ if core.mode.code_bits == 64 => size,
        XFEATURE_AVX | XFEATURE_ZMM_HI256 => size / 2,
        XFEATURE_HI16_ZMM => 0,
        _ => size,
    }
}

/// Loads the first bytes of a component, and leaves the others.
fn load_part(state: &mut State, feature: u64, size: usize, part: &[u8]) {
    if part.len() == size {
        return state.load_component(feature, part);
    }
    let mut whole = [0; LARGEST_PART];
    let Some(whole) = whole.get_mut(..size) else {
        return;
    };
    state.save_component(feature, whole);
    whole[..part.len()].copy_from_slice(part);
    state.load_component(feature, whole);
}

/// Puts components into their initial configuration, as far as the mode knows them.
fn reset(core: &mut Core, features: u64) {
    if core.mode.code_bits == 64 {
        return core.state.reset_components(features);
    }
    core.state
        .reset_components(features & (XFEATURE_X87 | !XFEATURES));
    if features & XFEATURE_SSE != 0 {
        core.state.vector.load_xmm(&[0; FXSAVE_SIZE], xmm_count(core));
    }
    for (feature, _, size) in layout(features & XFEATURES, false) {
        let zeroes = [0; LARGEST_PART];
        let part = &zeroes[..known(core, feature, size).min(LARGEST_PART)];
        load_part(&mut core.state, feature, size, part);
    }
}

impl Core {
    /// #NM, if what an instruction wants of these components is disabled.
    pub(crate) fn check_disabled(&mut self, features: u64) -> Step {
        let disabled = features & self.state.msr.xfd;
        if disabled == 0 {
            return Ok(());
        }
        self.state.msr.xfd_err = disabled;
        Err(Stop::Fault(Fault::NM))
    }
}

fn word(area: &[u8], at: usize) -> u64 {
    area.get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

/// XRSTORS: as XRSTOR, for the operating system alone, and from the compacted format alone.
pub fn xrstors(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    check_xsave(core)?;
    privileged(core)?;
    let linear = aligned(core, op, HEADER_END as u64, 64, Access::Read)?;
    let mut format = [0; 8];
    core.read_bytes(
        world,
        linear.wrapping_add(XSAVE_HEADER as u64 + 8),
        &mut format,
        op.seg,
    )?;
    if u64::from_le_bytes(format) & COMPACT == 0 {
        return Err(Fault::GP0.into());
    }
    xrstor(core, op, world)
}

pub fn xrstor(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    check_xsave(core)?;
    let wanted = requested(core);
    let linear = aligned(core, op, HEADER_END as u64, 64, Access::Read)?;
    let mut area = vec![0u8; HEADER_END];
    core.read_bytes(world, linear, &mut area, op.seg)?;
    let present = word(&area[..], XSAVE_HEADER);
    let format = word(&area[..], XSAVE_HEADER + 8);
    let compacted = format & COMPACT != 0;
    let rest_is_zero = area[XSAVE_HEADER + 16..HEADER_END].iter().all(|byte| *byte == 0);
    let valid = if compacted {
        format & !COMPACT & !core.state.xcr0 == 0 && present & !(format & !COMPACT) == 0 && rest_is_zero
    } else {
        format == 0 && present & !core.state.xcr0 == 0 && area[XSAVE_HEADER + 16..XSAVE_HEADER + 24] == [0; 8]
    };
    if !valid {
        return Err(Fault::GP0.into());
    }
    core.check_disabled(wanted & present)?;
    let stored = if compacted {
        format & !COMPACT
    } else {
        wanted & present
    };
    area.resize(end_of(stored, compacted), 0);
    for (feature, at, size) in layout(stored, compacted) {
        if wanted & present & feature != 0 {
            let part = &mut area[at..at + known(core, feature, size)];
            core.read_bytes(world, linear.wrapping_add(at as u64), part, op.seg)?;
        }
    }
    let count = xmm_count(core);
    let width = width(op);
    let vector: &mut VectorState = &mut core.state.vector;
    let has_mxcsr = if compacted {
        present & XFEATURE_SSE
    } else {
        XFEATURE_SSE | XFEATURE_AVX
    };
    if wanted & has_mxcsr != 0 {
        vector.load_mxcsr(&area[..]).map_err(|_| Fault::GP0)?;
    } else if compacted && wanted & XFEATURE_SSE != 0 {
        // In this format MXCSR is part of the component, which takes its initial configuration.
        vector.set_mxcsr(MXCSR_DEFAULT).map_err(|_| Fault::GP0)?;
    }
    let keys = core.state.pkru;
    reset(core, wanted & !present);
    let vector = &mut core.state.vector;
    if wanted & present & XFEATURE_X87 != 0 {
        vector.load_x87(&area[..], width);
    }
    if wanted & present & XFEATURE_SSE != 0 {
        vector.load_xmm(&area[..], count);
    }
    for (feature, at, size) in layout(stored, compacted) {
        if wanted & present & feature != 0 {
            let part = &area[at..at + known(core, feature, size)];
            load_part(&mut core.state, feature, size, part);
        }
    }
    core.keys_changed(keys);
    Ok(())
}
