//! What is cached of the upper levels of 4-level page tables: where the last level's table for 2 MiB of linear addresses is.

use super::rights::Rights;

const LINES: usize = 256;

#[derive(Clone, Copy)]
struct Line {
    region: u64,
    stamp: u64,
    /// Guest-physical address of the table, and the rights that the levels above it leave.
    table: u64,
}

/// No stamp is zero.
const EMPTY: Line = Line {
    region: 0,
    stamp: 0,
    table: 0,
};

/// The lines are stamped like translations; see [`super::spaces`]. Any INVLPG voids all of an address space.
pub struct Upper {
    lines: Box<[Line; LINES]>,
}

#[inline]
fn place(region: u64, stamp: u64) -> usize {
    (region ^ region >> 9 ^ stamp.wrapping_mul(0x9e5)) as usize & (LINES - 1)
}

impl Upper {
    pub fn new() -> Upper {
        Upper {
            lines: Box::new([EMPTY; LINES]),
        }
    }

    #[inline]
    pub fn find(&self, linear: u64, stamp: u64) -> Option<(u64, Rights)> {
        let region = linear >> 21;
        let line = &self.lines[place(region, stamp)];
        let found = line.region == region && line.stamp == stamp;
        found.then(|| (line.table & !0xfff, Rights::unpack(line.table)))
    }

    pub fn enter(&mut self, linear: u64, stamp: u64, table: u64, rights: Rights) {
        let region = linear >> 21;
        self.lines[place(region, stamp)] = Line {
            region,
            stamp,
            table: rights.pack(table),
        };
    }

    /// Forgets the table for one address.
    pub fn forget(&mut self, linear: u64, stamp: u64) {
        let region = linear >> 21;
        let line = &mut self.lines[place(region, stamp)];
        if line.region == region && line.stamp == stamp {
            *line = EMPTY;
        }
    }
}
