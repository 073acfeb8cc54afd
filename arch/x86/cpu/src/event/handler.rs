//! Where a gate leads: the code segment of the handler, and the stack of its privilege level.

use crate::exec::descriptor::{Descriptor, is_null, kind, rpl, selector_error};
use crate::exec::frame::Frame;
use crate::mmu::access::is_canonical;
use crate::state::Segment;
use crate::{Core, Fault, Step, World};

/// The code segment that a gate leads to.
pub(super) struct Handler {
    pub descriptor: Descriptor,
    pub segment: Segment,
    /// The privilege level the handler runs at.
    pub cpl: u8,
}

/// The stack of an inner privilege level.
pub(crate) struct InnerStack {
    pub descriptor: Descriptor,
    pub segment: Segment,
    pub sp: u64,
    pub cpl: u8,
}

impl InnerStack {
    /// The stack, ready to push on; its #SS names the stack segment.
    pub fn frame(&self, core: &Core, external: u32) -> Frame {
        let error = selector_error(self.segment.selector) | external;
        Frame::new(core, self.segment, self.sp, self.cpl, error)
    }
}

/// The error code of a TSS that is too short for a stack.
pub(crate) fn tss_stack_error(core: &Core, external: u32) -> Fault {
    Fault::ts(selector_error(core.state.tr.selector) | external)
}

impl Core {
    /// Checks the code segment of an interrupt or trap gate.
    pub(super) fn handler_code(
        &mut self,
        world: &mut dyn World,
        selector: u16,
        external: u32,
    ) -> Step<Handler> {
        if is_null(selector) {
            return Err(Fault::gp(external).into());
        }
        let error = selector_error(selector) | external;
        let descriptor = self.descriptor(world, selector, Fault::gp, external)?;
        let rights = descriptor.attributes();
        let old = self.state.cpl();
        let long = self.state.long_mode();
        let wrong_size = long && (!rights.long() || rights.big());
        if !rights.is_code() || rights.dpl() > old || wrong_size {
            return Err(Fault::gp(error).into());
        }
        let cpl = if rights.is_conforming() { old } else { rights.dpl() };
        if self.state.virtual_8086() && cpl != 0 {
            return Err(Fault::gp(error).into());
        }
        if !rights.present() {
            return Err(Fault::np(error).into());
        }
        let segment = descriptor.segment(selector & 0xfffc | u16::from(cpl));
        Ok(Handler {
            descriptor,
            segment,
            cpl,
        })
    }

    /// Reads a stack pointer from the 64-bit TSS.
    pub(crate) fn tss_stack64(&mut self, world: &mut dyn World, offset: u64, external: u32) -> Step<u64> {
        if offset + 7 > u64::from(self.state.tr.limit) {
            return Err(tss_stack_error(self, external).into());
        }
        let mut bytes = [0; 8];
        let at = self.system_address(self.state.tr.base, offset);
        self.read_system(world, at, &mut bytes)?;
        let sp = u64::from_le_bytes(bytes);
        if !is_canonical(sp) {
            return Err(Fault::ss(external).into());
        }
        Ok(sp)
    }

    /// Reads and checks the stack of privilege level `cpl` from a 16- or 32-bit TSS.
    pub(crate) fn inner_stack(&mut self, world: &mut dyn World, cpl: u8, external: u32) -> Step<InnerStack> {
        let wide = self.state.tr.attributes.kind() | 2 == kind::TSS_BUSY;
        let (offset, size) = if wide {
            (4 + 8 * u64::from(cpl), 4)
        } else {
            (2 + 4 * u64::from(cpl), 2)
        };
        if offset + size + 1 > u64::from(self.state.tr.limit) {
            return Err(tss_stack_error(self, external).into());
        }
        let mut bytes = [0; 6];
        let at = self.system_address(self.state.tr.base, offset);
        self.read_system(world, at, &mut bytes[..size as usize + 2])?;
        let (sp, selector) = if wide {
            (
                u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                [bytes[4], bytes[5]],
            )
        } else {
            (
                u32::from(u16::from_le_bytes([bytes[0], bytes[1]])),
                [bytes[2], bytes[3]],
            )
        };
        let selector = u16::from_le_bytes(selector);
        if is_null(selector) {
            return Err(Fault::ts(external).into());
        }
        let error = selector_error(selector) | external;
        let descriptor = self.descriptor(world, selector, Fault::ts, external)?;
        let rights = descriptor.attributes();
        if rpl(selector) != cpl || rights.dpl() != cpl || !rights.is_writable() {
            return Err(Fault::ts(error).into());
        }
        if !rights.present() {
            return Err(Fault::ss(error).into());
        }
        Ok(InnerStack {
            descriptor,
            segment: descriptor.segment(selector),
            sp: u64::from(sp),
            cpl,
        })
    }
}
