//! Where everything lies in the guest-physical memory of a bare 64-bit machine, and what is written there: the same for
//! a processor alone and for a guest of a KVM.
//!
//! The first eight mebibytes are mapped one to one, for level 0 alone; everything else is mapped by the test that wants
//! it, with page tables made as needed.

pub const PAGE: u64 = 4096;
pub const IDT: u64 = 0;
pub const GDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
/// A HLT for each vector.
pub const TRAPS: u64 = 0x4000;
/// Tops of the stack of level 0 that the TSS names, and of the one that exceptions are delivered on.
pub const INNER_STACK: u64 = 0x6000;
pub const TRAP_STACK: u64 = 0x7000;
/// Where programs begin, unless they say otherwise, and the top of their stack.
pub const START: u64 = 0x1_0000;
pub const STACK: u64 = 0x1_0000;
/// Page tables: PML4, PDPT and page directory of the first GiB, then those made as needed.
pub const TABLES: u64 = 0x10_0000;
pub const MORE_TABLES: u64 = TABLES + 3 * PAGE;
/// Memory from zero, and from one GiB.
pub const LOW_PAGES: usize = 2048;
pub const HIGH: u64 = 0x4000_0000;
pub const HIGH_PAGES: usize = 256;

pub const CODE0: u16 = 0x08;
pub const DATA0: u16 = 0x10;
/// In the order that SYSRET wants.
pub const DATA3: u16 = 0x1b;
pub const CODE3: u16 = 0x23;
pub const TASK: u16 = 0x28;

/// Bits of page-table entries.
pub const P: u64 = 1;
pub const W: u64 = 2;
pub const U: u64 = 4;
pub const A: u64 = 0x20;
pub const D: u64 = 0x40;
pub const PS: u64 = 0x80;
pub const G: u64 = 0x100;
pub const NX: u64 = 1 << 63;

const VECTORS: u64 = 256;

/// Writes and reads 64-bit words of guest-physical memory.
pub trait Words {
    fn put(&mut self, gpa: u64, value: u64);
    fn get(&self, gpa: u64) -> u64;
}

/// A flat descriptor: `access` is its byte 5, `flags` the high half of byte 6.
fn flat(access: u64, flags: u64) -> u64 {
    0x000f_0000_0000_ffff | access << 40 | flags << 52
}

/// Puts an interrupt gate to level 0 in the IDT. `access` is P, DPL and type; `ist` zero for none.
pub fn gate(memory: &mut impl Words, vector: u64, target: u64, access: u64, ist: u64) {
    let selector = u64::from(CODE0);
    let low = target & 0xffff | selector << 16 | ist << 32 | access << 40 | (target >> 16 & 0xffff) << 48;
    memory.put(IDT + 16 * vector, low);
    memory.put(IDT + 16 * vector + 8, target >> 32);
}

/// Writes descriptors, page tables, and a gate for each vector that leads to a HLT of its own.
pub fn write(memory: &mut impl Words) {
    let rows = [
        0,
        flat(0x9b, 0xa),
        flat(0x93, 0xc),
        flat(0xf3, 0xc),
        flat(0xfb, 0xa),
        0x67 | TSS << 16 | 0x8b << 40,
        0,
    ];
    for (n, row) in rows.into_iter().enumerate() {
        memory.put(GDT + 8 * n as u64, row);
    }
    memory.put(TSS + 4, INNER_STACK);
    memory.put(TSS + 0x24, TRAP_STACK);
    // No permission map for ports: it would begin beyond the limit.
    memory.put(TSS + 0x60, 0x68 << 48);
    for vector in 0..VECTORS {
        // Those that programs may raise themselves are open to level 3.
        let access = if matches!(vector, 3 | 4 | 0x80..) {
            0xee
        } else {
            0x8e
        };
        gate(memory, vector, TRAPS + vector, access, 1);
    }
    for at in (TRAPS..TRAPS + VECTORS).step_by(8) {
        memory.put(at, 0xf4f4_f4f4_f4f4_f4f4);
    }
    memory.put(TABLES, (TABLES + PAGE) | P | W | U);
    memory.put(TABLES + PAGE, (TABLES + 2 * PAGE) | P | W | U);
    for n in 0..LOW_PAGES as u64 / 512 {
        memory.put(TABLES + 2 * PAGE + 8 * n, n << 21 | PS | P | W);
    }
}

/// Size of a page by the level of the table that maps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Small,
    /// 2 MiB.
    Large,
    /// 1 GiB.
    Huge,
}

impl Size {
    pub fn bytes(self) -> u64 {
        PAGE << (9 * self.level())
    }

    fn level(self) -> u32 {
        match self {
            Size::Small => 0,
            Size::Large => 1,
            Size::Huge => 2,
        }
    }
}

/// Where the entry lies that maps `linear` with a page of that size, in the tables at `root`. Tables on the way are made
/// at `next`, open to everyone, if they are not there.
pub fn entry(memory: &mut impl Words, root: u64, next: &mut u64, linear: u64, size: Size) -> u64 {
    let mut table = root;
    for level in (size.level()..4).rev() {
        let at = table + (linear >> (12 + 9 * level) & 0x1ff) * 8;
        if level == size.level() {
            return at;
        }
        let mut value = memory.get(at);
        if value & P == 0 {
            value = *next | P | W | U;
            *next += PAGE;
            memory.put(at, value);
        }
        assert!(value & PS == 0, "{linear:#x} lies in a large page");
        table = value & 0x000f_ffff_ffff_f000;
    }
    unreachable!("the walk ends at the level of the page");
}
