//! Descriptors as they lie in the GDT, the LDT and the IDT.

use crate::state::{Attributes, Segment};
use crate::{Core, Fault, Step, World};

/// System descriptor types (S clear).
pub mod kind {
    pub const TSS16: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS16_BUSY: u8 = 3;
    pub const CALL_GATE16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INTERRUPT_GATE16: u8 = 6;
    pub const TRAP_GATE16: u8 = 7;
    pub const TSS: u8 = 9;
    pub const TSS_BUSY: u8 = 0xb;
    pub const CALL_GATE: u8 = 0xc;
    pub const INTERRUPT_GATE: u8 = 0xe;
    pub const TRAP_GATE: u8 = 0xf;
}

/// What makes a fault out of an error code: `Fault::gp`, `Fault::ts`, ...
pub type Raise = fn(u32) -> Fault;

/// A descriptor of eight bytes, or of sixteen with `upper` being its third dword.
#[derive(Clone, Copy, Debug, Default)]
pub struct Descriptor {
    pub low: u32,
    pub high: u32,
    pub upper: u32,
    /// The fourth dword, of which bits 8..13 must be zero.
    pub last: u32,
    /// Linear address it was read from.
    pub at: u64,
}

impl Descriptor {
    pub fn from_bytes(bytes: &[u8], at: u64) -> Descriptor {
        let dword = |n: usize| {
            bytes
                .get(4 * n..4 * n + 4)
                .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        };
        Descriptor {
            low: dword(0),
            high: dword(1),
            upper: dword(2),
            last: dword(3),
            at,
        }
    }

    pub fn attributes(&self) -> Attributes {
        Attributes::from_descriptor(self.high)
    }

    pub fn is_system(&self) -> bool {
        !self.attributes().is_code_or_data()
    }

    /// The type field.
    pub fn kind(&self) -> u8 {
        self.attributes().kind()
    }

    pub fn dpl(&self) -> u8 {
        self.attributes().dpl()
    }

    pub fn present(&self) -> bool {
        self.attributes().present()
    }

    pub fn base(&self) -> u64 {
        u64::from(self.low >> 16) | u64::from(self.high & 0xff) << 16 | u64::from(self.high & 0xff00_0000)
    }

    /// The last valid offset.
    pub fn limit(&self) -> u32 {
        let limit = self.low & 0xffff | self.high & 0xf_0000;
        if self.attributes().granular() {
            limit << 12 | 0xfff
        } else {
            limit
        }
    }

    /// What a segment register holds after this was loaded into it.
    pub fn segment(&self, selector: u16) -> Segment {
        let mut attributes = self.attributes();
        if attributes.is_code_or_data() {
            attributes.0 |= 1;
        }
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            attributes,
        }
    }

    /// The same for a sixteen-byte descriptor.
    pub fn wide_segment(&self, selector: u16) -> Segment {
        let mut segment = self.segment(selector);
        segment.base |= u64::from(self.upper) << 32;
        segment
    }

    /// A gate's selector.
    pub fn gate_selector(&self) -> u16 {
        (self.low >> 16) as u16
    }

    /// A gate's offset, of `size` bytes.
    pub fn gate_offset(&self, size: u8) -> u64 {
        let low = u64::from(self.low & 0xffff);
        match size {
            2 => low,
            4 => low | u64::from(self.high & 0xffff_0000),
            _ => low | u64::from(self.high & 0xffff_0000) | u64::from(self.upper) << 32,
        }
    }
}

/// Whether a selector is null.
pub fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

pub fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// The error code that names a selector.
pub fn selector_error(selector: u16) -> u32 {
    u32::from(selector & 0xfffc)
}

impl Core {
    /// Reads the descriptor of a selector; beyond its table's limit that is `raise(selector | external)`.
    pub(crate) fn descriptor(
        &mut self,
        world: &mut dyn World,
        selector: u16,
        raise: Raise,
        external: u32,
    ) -> Step<Descriptor> {
        self.read_descriptor(world, selector, 8, raise(selector_error(selector) | external))
    }

    /// Reads the sixteen-byte descriptor that system segments and call gates have in IA-32e mode, or the
    /// eight-byte one outside of it.
    pub(crate) fn system_descriptor(
        &mut self,
        world: &mut dyn World,
        selector: u16,
        raise: Raise,
    ) -> Step<Descriptor> {
        let size = if self.state.long_mode() { 16 } else { 8 };
        self.read_descriptor(world, selector, size, raise(selector_error(selector)))
    }

    fn read_descriptor(
        &mut self,
        world: &mut dyn World,
        selector: u16,
        size: u64,
        fault: Fault,
    ) -> Step<Descriptor> {
        let (base, limit) = if selector & 4 == 0 {
            (self.state.gdtr.base, u64::from(self.state.gdtr.limit))
        } else if self.state.ldtr.attributes.unusable() {
            return Err(fault.into());
        } else {
            (self.state.ldtr.base, u64::from(self.state.ldtr.limit))
        };
        let offset = u64::from(selector & !7);
        if offset + size - 1 > limit {
            return Err(fault.into());
        }
        let at = self.system_address(base, offset);
        let mut bytes = [0; 16];
        self.read_system(world, at, &mut bytes[..size as usize])?;
        Ok(Descriptor::from_bytes(&bytes, at))
    }

    /// The linear address `offset` bytes into a descriptor table or a TSS.
    pub(crate) fn system_address(&self, base: u64, offset: u64) -> u64 {
        let linear = base.wrapping_add(offset);
        if self.state.long_mode() {
            linear
        } else {
            linear & 0xffff_ffff
        }
    }

    /// Sets the accessed bit of a code or data descriptor.
    pub(crate) fn mark_accessed(&mut self, world: &mut dyn World, descriptor: &Descriptor) -> Step {
        let access = (descriptor.high >> 8) as u8;
        if access & 1 != 0 {
            return Ok(());
        }
        let at = self.system_address(descriptor.at, 5);
        self.write_system(world, at, &[access | 1])
    }

    /// Writes the busy bit of a TSS descriptor.
    pub(crate) fn write_busy(&mut self, world: &mut dyn World, descriptor: &Descriptor, busy: Busy) -> Step {
        let access = (descriptor.high >> 8) as u8;
        let access = match busy {
            Busy::Set => access | 2,
            Busy::Clear => access & !2,
        };
        let at = self.system_address(descriptor.at, 5);
        self.write_system(world, at, &[access])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    Set,
    Clear,
}
