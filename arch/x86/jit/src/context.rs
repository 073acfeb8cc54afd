//! What translated code finds through GS: the processor's own state, and words of [`Core::tier`].
//!
//! GS is the address of the [`Core`], so that what translated code leaves there is where the interpreter's handlers look
//! for it.

use crate::emit::Reg;
use ring3_x86_cpu::Core;
use ring3_x86_cpu::core::TIER_WORDS;
use std::mem::offset_of;

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident = $number:literal),* $(,)?) => {
        /// Numbers of the words.
        pub mod word {
            $($(#[$doc])* pub const $name: usize = $number;)*
        }
        $(#[allow(dead_code, reason = "some words only Rust looks at")] $(#[$doc])* pub const $name: usize = offset_of!(Core, tier) + 8 * word::$name;)*
        $(const _: () = assert!(word::$name < TIER_WORDS);)*
    };
}

words! {
    /// RFLAGS on the way out; only the arithmetic ones mean anything.
    FLAGS = 0,
    /// Flags on the way in, see [`to_lahf`].
    LAHF = 1,
    /// Scratch.
    SAVED_RAX = 2,
    SAVED_RCX = 3,
    SAVED_FLAGS = 4,
    TARGET = 5,
    /// The software TLB's table of ordinary accesses.
    TABLE = 6,
    /// Address of the kick word.
    KICK = 7,
    FS_BASE = 8,
    GS_BASE = 9,
    /// [`JUMP_MASK`].
    MASK = 10,
    /// The jump cache of the privilege the guest has.
    JUMPS_AT = 11,
    /// Guest instructions executed.
    COUNT = 12,
    /// Where translated code is entered.
    ENTRY = 13,
    /// On the way out: RIP, or the number of a link; and which of the two.
    EXIT = 14,
    EXIT_KIND = 15,
    HOST_RSP = 16,
    HOST_GS = 17,
    HOST_MXCSR = 18,
    /// The guest's vector state in memory, and whether it is in the host's registers now.
    VECTOR = 19,
    VECTOR_LOADED = 20,
    /// What is called before vector instructions: loads the state, or does nothing.
    NEED_VECTOR = 21,
    /// The `Stay`.
    STAY = 22,
}

/// The first of the words that hold where groups of accesses are in the host.
const FIRST_GROUP: usize = 23;
const _: () = assert!(FIRST_GROUP + crate::groups::MOST <= TIER_WORDS);

/// The word of a group.
pub fn group(number: usize) -> usize {
    offset_of!(Core, tier) + 8 * (FIRST_GROUP + number)
}

/// Values of [`EXIT_KIND`].
pub const EXIT_LOOKUP: u64 = 0;
pub const EXIT_LINK: u64 = 1;
pub const EXIT_ENDED: u64 = 2;

/// The home of a general register.
pub fn home(reg: Reg) -> usize {
    offset_of!(Core, state.gpr) + 8 * usize::from(reg.0)
}

/// Arithmetic flags as [`LAHF`] holds them: SF, ZF, AF, PF and CF in bits 8..16 as LAHF has them, OF in bit 0.
pub fn to_lahf(flags: u64) -> u64 {
    (flags & 0xd5) << 8 | flags >> 11 & 1
}

/// Entries of a jump cache.
const JUMPS: usize = 1 << 12;
/// The bits of an address that choose its entry.
pub const JUMP_MASK: u64 = JUMPS as u64 - 1;

/// Where the translation of an address is. The address is kept negated, so that an addition compares it and no flag
/// changes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct JumpEntry {
    negated: u64,
    code: u64,
}

/// An entry that nothing matches: what it would match belongs to another.
fn no_jump(index: usize) -> JumpEntry {
    JumpEntry {
        negated: (index as u64 ^ 1).wrapping_neg(),
        code: 0,
    }
}

/// Where translations are, by linear address: one cache for supervisor code and one for user code.
pub struct Jumps {
    caches: Box<[[JumpEntry; JUMPS]; 2]>,
    /// The entries of both caches that may be filled.
    filled: Vec<(bool, u16)>,
}

impl Jumps {
    pub fn new() -> Jumps {
        Jumps {
            caches: Box::new([std::array::from_fn(no_jump); 2]),
            filled: Vec::new(),
        }
    }

    /// The address of a cache.
    pub fn cache(&self, user: bool) -> u64 {
        self.caches[usize::from(user)].as_ptr() as u64
    }

    /// The address of an entry.
    pub fn entry(cache: u64, linear: u64) -> u64 {
        cache + (linear & JUMP_MASK) * size_of::<JumpEntry>() as u64
    }

    /// Enters where the translation of an address is, for code of that privilege.
    pub fn remember(&mut self, user: bool, linear: u64, code: u64) {
        let index = (linear & JUMP_MASK) as usize;
        let slot = &mut self.caches[usize::from(user)][index];
        if slot.code == 0 {
            self.filled.push((user, index as u16));
        }
        *slot = JumpEntry {
            negated: linear.wrapping_neg(),
            code,
        };
    }

    pub fn forget(&mut self) {
        for (user, index) in self.filled.drain(..) {
            let index = usize::from(index) & (JUMPS - 1);
            self.caches[usize::from(user)][index] = no_jump(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_entry_matches_no_address_that_is_looked_up_in_it() {
        for linear in 0..JUMP_MASK {
            let entry = no_jump((linear & JUMP_MASK) as usize);
            assert_ne!(entry.negated.wrapping_add(linear), 0);
        }
    }

    #[test]
    fn what_is_forgotten_is_gone() {
        let mut jumps = Jumps::new();
        for user in [false, true] {
            jumps.remember(user, 0x40_1000, 7);
        }
        jumps.forget();
        assert!(jumps.caches.iter().flatten().all(|entry| entry.code == 0));
    }
}
