//! Segment registers and descriptor-table registers.

/// Indices into [`crate::State::seg`], in the encoding of the instruction set.
pub const ES: usize = 0;
pub const CS: usize = 1;
pub const SS: usize = 2;
pub const DS: usize = 3;
pub const FS: usize = 4;
pub const GS: usize = 5;

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub selector: u16,
    pub base: u64,
    /// The last valid offset, in bytes: the granularity bit is already applied.
    pub limit: u32,
    pub attributes: Attributes,
}

/// Access rights of a descriptor: bits 0..8 are the descriptor's byte 5 (type, S, DPL, P), bits 12..16 the high
/// half of its byte 6 (AVL, L, D/B, G); bit 16 marks the segment unusable (null).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub u32);

impl Attributes {
    pub const UNUSABLE: u32 = 1 << 16;

    /// From the second dword of a descriptor.
    pub fn from_descriptor(high: u32) -> Attributes {
        Attributes(high >> 8 & 0xf0ff)
    }
    /// Type field with the S bit clear: accessed, writable/readable, expand-down/conforming, code.
    pub fn kind(self) -> u8 {
        (self.0 & 0xf) as u8
    }
    pub fn is_code_or_data(self) -> bool {
        self.0 & 0x10 != 0
    }
    pub fn is_code(self) -> bool {
        self.0 & 0x18 == 0x18
    }
    pub fn is_data(self) -> bool {
        self.0 & 0x18 == 0x10
    }
    pub fn is_conforming(self) -> bool {
        self.0 & 0x1c == 0x1c
    }
    pub fn is_expand_down(self) -> bool {
        self.0 & 0x1c == 0x14
    }
    /// A writable data segment.
    pub fn is_writable(self) -> bool {
        self.0 & 0x1a == 0x12
    }
    /// A data segment, or a readable code segment.
    pub fn is_readable(self) -> bool {
        self.0 & 0x18 == 0x10 || self.0 & 0x1a == 0x1a
    }
    pub fn dpl(self) -> u8 {
        (self.0 >> 5 & 3) as u8
    }
    pub fn present(self) -> bool {
        self.0 & 0x80 != 0
    }
    pub fn avl(self) -> bool {
        self.0 & 1 << 12 != 0
    }
    pub fn long(self) -> bool {
        self.0 & 1 << 13 != 0
    }
    /// D for code, B for stack and expand-down segments.
    pub fn big(self) -> bool {
        self.0 & 1 << 14 != 0
    }
    pub fn granular(self) -> bool {
        self.0 & 1 << 15 != 0
    }
    pub fn unusable(self) -> bool {
        self.0 & Attributes::UNUSABLE != 0
    }
}

impl Segment {
    /// What a segment register holds in real or virtual-8086 mode.
    pub fn real(selector: u16, attributes: u32) -> Segment {
        Segment {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            attributes: Attributes(attributes),
        }
    }

    /// A null selector, loaded in protected mode.
    pub fn null(selector: u16) -> Segment {
        Segment {
            selector,
            base: 0,
            limit: 0,
            attributes: Attributes(Attributes::UNUSABLE),
        }
    }

    /// Whether `size` bytes at `offset` lie inside the limit.
    #[inline]
    pub fn contains(&self, offset: u64, size: u64) -> bool {
        let last = offset + (size - 1);
        if self.attributes.is_expand_down() {
            let top = if self.attributes.big() {
                0xffff_ffff
            } else {
                0xffff
            };
            offset > u64::from(self.limit) && last <= top
        } else {
            last <= u64::from(self.limit)
        }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub base: u64,
    pub limit: u16,
}
