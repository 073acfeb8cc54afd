//! Remembered lookups of blocks by linear address.

use crate::Core;
use crate::mmu::Reach;

const SETS: usize = 1 << 13;

/// It holds during its epoch, which is that of the address space or that of global translations, and as long as its block is
/// the one with this serial number.
#[derive(Clone, Copy)]
pub struct Lookup {
    linear: u64,
    epoch: u64,
    pub serial: u64,
    pub block: u32,
    context: u8,
}

/// No epoch is zero.
const EMPTY: Lookup = Lookup {
    linear: 0,
    epoch: 0,
    serial: 0,
    block: 0,
    context: 0,
};

/// A line of the host's cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Set([Lookup; 2]);

pub struct Lookups {
    sets: Box<[Set]>,
}

impl Lookup {
    #[inline(always)]
    fn is(&self, core: &Core, linear: u64) -> bool {
        self.linear == linear
            && self.context == core.context
            && (self.epoch == core.epoch || self.epoch == core.global_epoch)
    }
}

/// Where a lookup is remembered. Programs have much of their code at the same addresses: the epoch keeps those of different
/// address spaces apart. The kernel's is mostly the same in all.
#[inline(always)]
fn place(core: &Core, linear: u64) -> usize {
    let space = if core.mode.cpl == 3 {
        core.epoch.wrapping_mul(0x9e5)
    } else {
        0
    };
    (linear ^ linear >> 13 ^ space) as usize & (SETS - 1)
}

impl Lookups {
    pub fn new() -> Lookups {
        Lookups {
            sets: vec![Set([EMPTY; 2]); SETS].into_boxed_slice(),
        }
    }

    /// What is remembered of an address in the processor's present mode and address space.
    #[inline(always)]
    pub fn find(&self, core: &Core, linear: u64) -> Option<Lookup> {
        let Set([first, second]) = &self.sets[place(core, linear)];
        if first.is(core, linear) {
            Some(*first)
        } else if second.is(core, linear) {
            Some(*second)
        } else {
            None
        }
    }

    /// Remembers a block, made from pages of this reach.
    pub fn remember(&mut self, core: &Core, linear: u64, reach: Reach, block: u32, serial: u64) {
        let Set([first, second]) = &mut self.sets[place(core, linear)];
        // What is voided by now goes first.
        let live = |lookup: &Lookup| lookup.epoch == core.epoch || lookup.epoch == core.global_epoch;
        if first.linear != linear && (live(first) || !live(second)) {
            *second = *first;
        }
        *first = Lookup {
            linear,
            epoch: core.mmu.spaces.epoch(reach),
            serial,
            block,
            context: core.context,
        };
    }
}
