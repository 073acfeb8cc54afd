//! Building and reading stack frames before anything of them is committed.

use crate::mmu::{Privilege, access::is_canonical, access::size_mask};
use crate::state::{RSP, SS, Segment, flags};
use crate::{Core, Fault, Step, World};

/// A stack on which an operation works with a stack pointer of its own: the current stack, or the one that a
/// change of privilege leads to. Nothing of the processor's state changes before [`Frame::commit`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    segment: Segment,
    pub sp: u64,
    /// Size of a stack address in bytes.
    size: u8,
    privilege: Privilege,
    /// Limits and rights are those of real and virtual-8086 mode.
    real: bool,
    /// The error code of the frame's #SS.
    error: u32,
}

impl Frame {
    /// The current stack.
    pub fn current(core: &Core) -> Frame {
        Frame {
            segment: core.state.seg[SS],
            sp: core.state.gpr[RSP],
            size: core.mode.stack_size,
            privilege: core.stack_privilege(core.mode.cpl),
            real: core.mode.real_segments,
            error: 0,
        }
    }

    /// A stack in a segment of protected mode, used with the rights of `cpl`.
    pub fn new(core: &Core, segment: Segment, sp: u64, cpl: u8, error: u32) -> Frame {
        let size = if segment.attributes.big() { 4 } else { 2 };
        Frame {
            segment,
            sp,
            size,
            privilege: core.stack_privilege(cpl),
            real: false,
            error,
        }
    }

    /// A stack of 64-bit mode.
    pub fn long(core: &Core, sp: u64, cpl: u8, error: u32) -> Frame {
        let segment = core.state.seg[SS];
        Frame {
            segment,
            sp,
            size: 8,
            privilege: core.stack_privilege(cpl),
            real: false,
            error,
        }
    }

    /// The same stack, with `error` as the error code of its #SS.
    pub fn with_error(mut self, error: u32) -> Frame {
        self.error = error;
        self
    }

    fn linear(&self, core: &Core, sp: u64, size: u8) -> Step<u64> {
        let fault = Fault::ss(self.error);
        if self.size == 8 {
            let last = sp.wrapping_add(u64::from(size) - 1);
            return if is_canonical(sp) && is_canonical(last) {
                Ok(sp)
            } else {
                Err(fault.into())
            };
        }
        let offset = sp & size_mask(self.size);
        let rights = self.segment.attributes;
        let usable = self.real || !rights.unusable() && rights.is_writable();
        if !usable || !self.segment.contains(offset, u64::from(size)) {
            return Err(fault.into());
        }
        Ok(core.system_address(self.segment.base, offset) & 0xffff_ffff)
    }

    fn moved(&self, by: u64) -> u64 {
        let mask = size_mask(self.size);
        self.sp & !mask | self.sp.wrapping_add(by) & mask
    }

    /// Pushes the low `size` bytes of `value`.
    pub fn push(&mut self, core: &mut Core, world: &mut dyn World, size: u8, value: u64) -> Step {
        let sp = self.moved(0u64.wrapping_sub(u64::from(size)));
        let linear = self.linear(core, sp, size)?;
        core.write_as(
            world,
            linear,
            &value.to_le_bytes()[..usize::from(size.min(8))],
            self.privilege,
        )?;
        self.sp = sp;
        Ok(())
    }

    /// Pops `size` bytes, zero-extended.
    pub fn pop(&mut self, core: &mut Core, world: &mut dyn World, size: u8) -> Step<u64> {
        let value = self.peek(core, world, 0, size)?;
        self.skip(u64::from(size));
        Ok(value)
    }

    /// Reads `size` bytes, `distance` above the stack pointer.
    pub fn peek(&self, core: &mut Core, world: &mut dyn World, distance: u64, size: u8) -> Step<u64> {
        let linear = self.linear(core, self.moved(distance), size)?;
        let mut bytes = [0; 8];
        core.read_as(
            world,
            linear,
            &mut bytes[..usize::from(size.min(8))],
            self.privilege,
        )?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Leaves `bytes` behind unread.
    pub fn skip(&mut self, bytes: u64) {
        self.sp = self.moved(bytes);
    }

    /// Makes the frame's stack pointer the current one.
    pub fn commit(&self, core: &mut Core) {
        core.state.gpr[RSP] = if self.size == 4 {
            self.sp & 0xffff_ffff
        } else {
            self.sp
        };
    }
}

impl Core {
    /// The rights with which a stack is accessed at privilege level `cpl`.
    fn stack_privilege(&self, cpl: u8) -> Privilege {
        if cpl == 3 {
            Privilege::User
        } else if self.state.flags.has(flags::AC) {
            Privilege::Open
        } else {
            self.system_privilege()
        }
    }
}
