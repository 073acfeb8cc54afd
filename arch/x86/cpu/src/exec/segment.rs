//! Loads and stores of segment registers.

use super::descriptor::{is_null, rpl, selector_error};
use super::frame::Frame;
use crate::op::{Op, OpFlags};
use crate::state::{Attributes, CS, SS, Segment, flags};
use crate::world::Access;
use crate::{Core, Fault, Step, World};

impl Core {
    /// Loads a segment register other than CS, with all the checks of the mode.
    pub(crate) fn load_segment(&mut self, world: &mut dyn World, seg: usize, selector: u16) -> Step {
        let segment = self.checked_segment(world, seg, selector)?;
        self.put_segment(seg, segment);
        Ok(())
    }

    /// What loading a selector into a segment register other than CS would leave there.
    pub(crate) fn checked_segment(
        &mut self,
        world: &mut dyn World,
        seg: usize,
        selector: u16,
    ) -> Step<Segment> {
        if self.mode.real_segments {
            Ok(self.real_segment(seg, selector))
        } else if seg == SS {
            self.stack_segment(world, selector, self.mode.cpl)
        } else {
            self.data_segment(world, selector)
        }
    }

    /// Replaces the hidden and visible parts of a segment register.
    pub(crate) fn put_segment(&mut self, seg: usize, segment: Segment) {
        self.state.seg[seg] = segment;
        if seg == SS || seg == CS {
            self.refresh();
        }
    }

    /// A load in real or virtual-8086 mode. Real mode leaves limit and rights as they are.
    pub(crate) fn real_segment(&self, seg: usize, selector: u16) -> Segment {
        if self.state.flags.has(flags::VM) {
            return Segment::real(selector, 0xf3);
        }
        let old = self.state.seg[seg];
        let attributes = match old.attributes {
            // A register that held a null selector in protected mode can be used again.
            rights if rights.unusable() => Attributes(0x93),
            rights => rights,
        };
        let limit = if old.attributes.unusable() {
            0xffff
        } else {
            old.limit
        };
        Segment {
            selector,
            base: u64::from(selector) << 4,
            limit,
            attributes,
        }
    }

    /// SS at privilege level `cpl`.
    fn stack_segment(&mut self, world: &mut dyn World, selector: u16, cpl: u8) -> Step<Segment> {
        if is_null(selector) {
            if self.mode.code_bits == 64 && cpl != 3 && rpl(selector) == cpl {
                return Ok(null_stack(selector, cpl));
            }
            return Err(Fault::GP0.into());
        }
        let descriptor = self.descriptor(world, selector, Fault::gp, 0)?;
        let error = selector_error(selector);
        if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.attributes().is_writable() {
            return Err(Fault::gp(error).into());
        }
        if !descriptor.present() {
            return Err(Fault::ss(error).into());
        }
        self.mark_accessed(world, &descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// DS, ES, FS or GS in protected mode.
    fn data_segment(&mut self, world: &mut dyn World, selector: u16) -> Step<Segment> {
        if is_null(selector) {
            return Ok(Segment::null(selector));
        }
        let descriptor = self.descriptor(world, selector, Fault::gp, 0)?;
        let error = selector_error(selector);
        let rights = descriptor.attributes();
        let outer = rpl(selector).max(self.mode.cpl);
        if !rights.is_readable() || !rights.is_conforming() && outer > rights.dpl() {
            return Err(Fault::gp(error).into());
        }
        if !rights.present() {
            return Err(Fault::np(error).into());
        }
        self.mark_accessed(world, &descriptor)?;
        Ok(descriptor.segment(selector))
    }
}

/// A null SS of 64-bit mode. Its DPL still says the current privilege level.
pub(crate) fn null_stack(selector: u16, cpl: u8) -> Segment {
    let mut segment = Segment::null(selector);
    segment.attributes.0 |= u32::from(cpl) << 5;
    segment
}

/// The slot of a segment register, whatever the operation says.
fn segment_index(slot: u8) -> usize {
    usize::from(slot).min(5)
}

/// Loads SS, ... and blocks events up to the end of the next instruction if it was SS.
fn load_and_shadow(core: &mut Core, world: &mut dyn World, seg: usize, selector: u16) -> Step {
    core.load_segment(world, seg, selector)?;
    if seg == SS {
        core.state.interruptibility.mov_ss_shadow = true;
    }
    Ok(())
}

/// MOV Sreg, r/m16: `dst` is the segment register.
pub fn mov_to_segment(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let selector = read_selector(core, op, world)?;
    load_and_shadow(core, world, segment_index(op.dst), selector)
}

/// The r/m16 operand of LLDT, LTR, VERR, ...: memory, or the register in `src`.
pub(crate) fn read_selector(core: &mut Core, op: &Op, world: &mut dyn World) -> Step<u16> {
    if op.flags.has(OpFlags::MEMORY) {
        let linear = core.address(op, 2, Access::Read)?;
        core.read::<u16>(world, linear, op.seg)
    } else {
        Ok(core.reg::<u16>(op.src))
    }
}

/// MOV r/m, Sreg: `src` is the segment register.
pub fn mov_from_segment(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let selector = core.state.seg[segment_index(op.src)].selector;
    store_word(core, op, world, u64::from(selector))
}

/// Stores 16 bits to memory, or a value to the register in `dst` at the operand size.
pub(crate) fn store_word(core: &mut Core, op: &Op, world: &mut dyn World, value: u64) -> Step {
    if op.flags.has(OpFlags::MEMORY) {
        let linear = core.address(op, 2, Access::Write)?;
        core.write::<u16>(world, linear, op.seg, value as u16)
    } else {
        core.set_reg_sized(op.dst, op.size, value);
        Ok(())
    }
}

/// PUSH Sreg. With a 32-bit operand only 16 bits are written, though the stack moves by four bytes.
pub fn push_segment(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let selector = u64::from(core.state.seg[segment_index(op.src)].selector);
    let mut frame = Frame::current(core);
    if op.size == 4 {
        frame.skip(0u64.wrapping_sub(2));
        frame.push(core, world, 2, selector)?;
    } else {
        frame.push(core, world, op.size, selector)?;
    }
    frame.commit(core);
    Ok(())
}

/// POP Sreg: `dst` is the segment register.
pub fn pop_segment(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let mut frame = Frame::current(core);
    let selector = frame.peek(core, world, 0, 2)? as u16;
    frame.skip(u64::from(op.size));
    // The stack pointer is cut to the size of the stack that it was popped from.
    load_and_shadow(core, world, segment_index(op.dst), selector)?;
    frame.commit(core);
    Ok(())
}

/// LDS, LES, LSS, LFS, LGS: `dst` is the general register, `src` the segment register, `size` the offset's.
pub fn load_pointer(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let (selector, offset) = far_pointer(core, op, world)?;
    core.load_segment(world, segment_index(op.src), selector)?;
    core.set_reg_sized(op.dst, op.size, offset);
    Ok(())
}

/// Reads a far pointer in memory: offset of `op.size` bytes, then the selector.
pub(crate) fn far_pointer(core: &mut Core, op: &Op, world: &mut dyn World) -> Step<(u16, u64)> {
    let size = usize::from(op.size.min(8));
    let linear = core.address(op, size as u64 + 2, Access::Read)?;
    let mut bytes = [0; 10];
    core.read_bytes(world, linear, &mut bytes[..size + 2], op.seg)?;
    let mut offset = [0; 8];
    offset[..size].copy_from_slice(&bytes[..size]);
    let selector = u16::from_le_bytes([bytes[size], bytes[size + 1]]);
    Ok((selector, u64::from_le_bytes(offset)))
}
