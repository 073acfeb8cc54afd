//! LGDT, SGDT, LIDT, SIDT, LLDT, SLDT, LTR, STR.

use super::{privileged, protected_only, user_may_look};
use crate::exec::descriptor::{Busy, is_null, kind, selector_error};
use crate::exec::segment::{read_selector, store_word};
use crate::mmu::access::is_canonical;
use crate::op::Op;
use crate::state::{Segment, Table};
use crate::world::Access;
use crate::{Core, Fault, Step, World};

/// Reads a limit and a base of `op.size` bytes: 3 with a 16-bit operand, 4, or 8 in 64-bit mode.
fn read_table(core: &mut Core, op: &Op, world: &mut dyn World) -> Step<Table> {
    privileged(core)?;
    let wide = if op.size == 8 { 8 } else { 4 };
    let linear = core.address(op, wide as u64 + 2, Access::Read)?;
    let mut bytes = [0; 10];
    core.read_bytes(world, linear, &mut bytes[..wide + 2], op.seg)?;
    let limit = u16::from_le_bytes([bytes[0], bytes[1]]);
    let mut base = [0; 8];
    base[..wide].copy_from_slice(&bytes[2..wide + 2]);
    let mut base = u64::from_le_bytes(base);
    if op.size == 3 {
        base &= 0x00ff_ffff;
    }
    if core.mode.code_bits == 64 && !is_canonical(base) {
        return Err(Fault::GP0.into());
    }
    Ok(Table { base, limit })
}

fn write_table(core: &mut Core, op: &Op, world: &mut dyn World, table: Table) -> Step {
    user_may_look(core)?;
    let wide = if op.size == 8 { 8 } else { 4 };
    let linear = core.address(op, wide as u64 + 2, Access::Write)?;
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    core.write_bytes(world, linear, &bytes[..wide + 2], op.seg)
}

pub fn lgdt(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    core.state.gdtr = read_table(core, op, world)?;
    Ok(())
}

pub fn lidt(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    core.state.idtr = read_table(core, op, world)?;
    Ok(())
}

pub fn sgdt(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let table = core.state.gdtr;
    write_table(core, op, world, table)
}

pub fn sidt(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let table = core.state.idtr;
    write_table(core, op, world, table)
}

pub fn lldt(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    protected_only(core)?;
    privileged(core)?;
    let selector = read_selector(core, op, world)?;
    if is_null(selector) {
        core.state.ldtr = Segment::null(selector);
        return Ok(());
    }
    let error = selector_error(selector);
    if selector & 4 != 0 {
        return Err(Fault::gp(error).into());
    }
    let descriptor = core.system_descriptor(world, selector, Fault::gp)?;
    let segment = descriptor.wide_segment(selector);
    if !descriptor.is_system() || descriptor.kind() != kind::LDT || !is_canonical(segment.base) {
        return Err(Fault::gp(error).into());
    }
    if !descriptor.present() {
        return Err(Fault::np(error).into());
    }
    core.state.ldtr = segment;
    Ok(())
}

pub fn ltr(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    protected_only(core)?;
    privileged(core)?;
    let selector = read_selector(core, op, world)?;
    let error = selector_error(selector);
    if selector & 4 != 0 || is_null(selector) {
        return Err(Fault::gp(error).into());
    }
    let descriptor = core.system_descriptor(world, selector, Fault::gp)?;
    let mut segment = descriptor.wide_segment(selector);
    let available = match descriptor.kind() {
        kind::TSS => true,
        kind::TSS16 => !core.state.long_mode(),
        _ => false,
    };
    if !descriptor.is_system() || !available || !is_canonical(segment.base) {
        return Err(Fault::gp(error).into());
    }
    if !descriptor.present() {
        return Err(Fault::np(error).into());
    }
    core.write_busy(world, &descriptor, Busy::Set)?;
    segment.attributes.0 |= 2;
    core.state.tr = segment;
    Ok(())
}

pub fn sldt(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    protected_only(core)?;
    user_may_look(core)?;
    let selector = u64::from(core.state.ldtr.selector);
    store_word(core, op, world, selector)
}

pub fn str(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    protected_only(core)?;
    user_may_look(core)?;
    let selector = u64::from(core.state.tr.selector);
    store_word(core, op, world, selector)
}
