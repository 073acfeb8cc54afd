//! IN, OUT, INS, OUTS.

use crate::core::Attention;
use crate::exec::descriptor::kind;
use crate::mmu::access::size_mask;
use crate::op::{Op, OpFlags};
use crate::state::{ES, RAX, RCX, RDI, RDX, RSI, flags};
use crate::world::{Access, Posted};
use crate::{Core, Fault, Step, Stop, World};

/// Bit of [`Op::src`]: the port is in DX, not in `imm`.
pub const PORT_IN_DX: u8 = 1;

/// #GP unless IOPL or the TSS lets the program at `size` ports from `port` on.
fn check_permission(core: &mut Core, world: &mut dyn World, port: u16, size: u8) -> Step {
    if !core.state.protected() || !core.state.flags.has(flags::VM) && core.mode.cpl <= core.state.flags.iopl()
    {
        return Ok(());
    }
    if world.port_is_open(port) {
        return Ok(());
    }
    let denied = Fault::GP0.into();
    let tr = core.state.tr;
    if tr.attributes.kind() | 2 != kind::TSS_BUSY || tr.attributes.unusable() || tr.limit < 0x67 {
        return Err(denied);
    }
    let mut map = [0; 2];
    let at = core.system_address(tr.base, 0x66);
    core.read_system(world, at, &mut map)?;
    let offset = u64::from(u16::from_le_bytes(map)) + u64::from(port / 8);
    // Two bytes are read, however many bits are wanted.
    if offset + 1 > u64::from(tr.limit) {
        return Err(denied);
    }
    let at = core.system_address(tr.base, offset);
    core.read_system(world, at, &mut map)?;
    let wanted = ((1 << size) - 1) << (port & 7);
    if u16::from_le_bytes(map) & wanted != 0 {
        Err(denied)
    } else {
        Ok(())
    }
}

fn port(core: &Core, op: &Op) -> u16 {
    if op.src & PORT_IN_DX != 0 {
        core.state.gpr[RDX] as u16
    } else {
        op.imm as u16
    }
}

fn read_port(core: &mut Core, world: &mut dyn World, port: u16, size: u8) -> Step<u64> {
    let mut bytes = [0; 8];
    core.attention.0 |= Attention::RETIRED;
    world.port_read(port, &mut bytes[..usize::from(size.min(4))])?;
    Ok(u64::from_le_bytes(bytes))
}

fn write_port(core: &mut Core, world: &mut dyn World, port: u16, size: u8, value: u64) {
    if world.port_write(port, &value.to_le_bytes()[..usize::from(size.min(4))]) == Posted::Pause {
        core.attention.0 |= Attention::POSTED;
    }
}

/// IN AL/AX/EAX: `size` bytes.
pub fn port_in(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let port = port(core, op);
    check_permission(core, world, port, op.size)?;
    let value = read_port(core, world, port, op.size)?;
    core.set_reg_sized(RAX as u8, op.size, value);
    Ok(())
}

/// OUT: `size` bytes of AL/AX/EAX.
pub fn port_out(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let port = port(core, op);
    check_permission(core, world, port, op.size)?;
    write_port(core, world, port, op.size, core.state.gpr[RAX]);
    Ok(())
}

/// INS, with or without REP.
pub fn port_ins(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let port = core.state.gpr[RDX] as u16;
    check_permission(core, world, port, op.size)?;
    if !begin(core, op) {
        return Ok(());
    }
    let size = u64::from(op.size);
    let offset = core.state.gpr[RDI] & size_mask(op.address_size);
    let linear = core.segmented(ES as u8, offset, size, Access::Write)?;
    // The port must not be read for nothing.
    core.probe_write(world, linear, usize::from(op.size), ES as u8)?;
    let mut buffer = [0; READ_AHEAD];
    let wanted = at_once(core, op, world, offset, linear)?;
    let wanted = buffer.get_mut(..wanted).unwrap_or_default();
    core.attention.0 |= Attention::RETIRED;
    let got = world.port_read_string(port, usize::from(op.size), wanted)?;
    core.write_bytes(world, linear, &buffer[..got], ES as u8)?;
    advance(core, op, RDI, got);
    again(core, op)
}

/// OUTS, with or without REP; `seg` is the source's segment.
pub fn port_outs(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let port = core.state.gpr[RDX] as u16;
    check_permission(core, world, port, op.size)?;
    if !begin(core, op) {
        return Ok(());
    }
    let offset = core.state.gpr[RSI] & size_mask(op.address_size);
    let linear = core.segmented(op.seg, offset, u64::from(op.size), Access::Read)?;
    let mut bytes = [0; 8];
    core.read_bytes(world, linear, &mut bytes[..usize::from(op.size.min(4))], op.seg)?;
    write_port(core, world, port, op.size, u64::from_le_bytes(bytes));
    advance(core, op, RSI, op.size.into());
    again(core, op)
}

/// What Linux reads ahead for one INS. It writes element by element, and clients rely on that.
const READ_AHEAD: usize = 1024;

/// How many bytes INS moves in one step: one element, or as many as are wanted and lie, upwards, in the same page of
/// memory and in the segment.
fn at_once(core: &mut Core, op: &Op, world: &mut dyn World, offset: u64, linear: u64) -> Step<usize> {
    let size = u64::from(op.size);
    let single = size as usize;
    if !repeats(op) || core.state.flags.has(flags::DF) || core.single_iteration() {
        return Ok(single);
    }
    let wanted = core.state.gpr[RCX] & size_mask(op.address_size);
    let room = (4096 - (linear & 0xfff)).min(READ_AHEAD as u64);
    let len = wanted.min(room / size) * size;
    let inside = len > size && core.segmented(ES as u8, offset, len, Access::Write).is_ok();
    if inside && core.is_plain_memory(world, linear, Access::Write)? {
        Ok(len as usize)
    } else {
        Ok(single)
    }
}

fn repeats(op: &Op) -> bool {
    op.flags.has(OpFlags::REP) || op.flags.has(OpFlags::REPNE)
}

/// Whether there is anything (left) to do.
fn begin(core: &Core, op: &Op) -> bool {
    !repeats(op) || core.state.gpr[RCX] & size_mask(op.address_size) != 0
}

/// Moves an index register on by `len` bytes, and counts.
fn advance(core: &mut Core, op: &Op, index: usize, len: usize) {
    let step = if core.state.flags.has(flags::DF) {
        0u64.wrapping_sub(len as u64)
    } else {
        len as u64
    };
    let moved = core.state.gpr[index].wrapping_add(step);
    core.set_reg_sized(index as u8, op.address_size, moved);
    if repeats(op) {
        let done = len as u64 / u64::from(op.size);
        let left = core.state.gpr[RCX].wrapping_sub(done);
        core.set_reg_sized(RCX as u8, op.address_size, left);
    }
}

/// Each piece is a step of its own, so that an answer of the client's is used once only and an interrupt is
/// taken between any two.
fn again(core: &Core, op: &Op) -> Step {
    if repeats(op) && begin(core, op) {
        Err(Stop::Again)
    } else {
        Ok(())
    }
}
