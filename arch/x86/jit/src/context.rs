//! What translated code finds through GS: the processor's own state, and words of [`Core::tier`].
//!
//! GS is the address of the [`Core`], so that what translated code leaves there is where the interpreter's handlers look
//! for it.

use crate::Setting;
use crate::emit::Reg;
use crate::translate::Touch;
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
    /// The arithmetic flags where they are not in the host's, as [`to_aside`] has them.
    ASIDE = 0,
    /// Scratch.
    SAVED_RAX = 1,
    SAVED_RCX = 2,
    TARGET = 3,
    /// The software TLB's table of ordinary accesses.
    TABLE = 4,
    /// Address of the kick word.
    KICK = 5,
    /// Bases of segments; in 32-bit code see [`crate::flat`].
    FS_BASE = 6,
    GS_BASE = 7,
    /// The jump cache of the privilege and the width the guest's code has.
    JUMPS_AT = 8,
    /// Guest instructions executed.
    COUNT = 9,
    /// Where translated code is entered.
    ENTRY = 10,
    /// On the way out: RIP, or the number of a link; and which of the two.
    EXIT = 11,
    EXIT_KIND = 12,
    HOST_RSP = 13,
    HOST_GS = 14,
    HOST_MXCSR = 15,
    /// The guest's vector and x87 state in memory, and whether any of it is in the host's registers now.
    VECTOR = 16,
    STATE_LOADED = 17,
    /// What is called before vector instructions: loads the state, or does nothing.
    NEED_VECTOR = 18,
    /// The `Stay`.
    STAY = 19,
    /// The shadow stack: where it begins, how far it may be filled, and where it was when an operation was called.
    SHADOW_TOP = 20,
    SHADOW_LIMIT = 21,
    SHADOW_RSP = 22,
    /// The site of the return that was executed last.
    RETURN = 23,
    /// What the last operation that makes flags found, if it is gone.
    VALUE = 24,
    /// Of a string operation: where the destination ends in the host, or the element that is moved.
    STRING_END = 25,
    SAVED_RDX = 26,
    /// Whether the x87 state is in the host's x87 unit, and whether the vector state is in its registers.
    X87_LOADED = 27,
    VECTOR_LOADED = 28,
    HOST_FCW = 29,
    /// One more than the site of the last instruction that sets the x87 instruction pointer, and of the last that sets the
    /// operand pointer, or zero where the state shows it; and that operand's offset.
    X87_LAST = 30,
    X87_LAST_DATA = 31,
    X87_DATA = 32,
    /// A control word to be loaded.
    X87_CONTROL = 33,
}

/// The first of the words that hold where groups of accesses are in the host.
const FIRST_GROUP: usize = 34;
const _: () = assert!(word::X87_CONTROL < FIRST_GROUP);

/// The word of a group.
pub fn group(number: usize) -> usize {
    offset_of!(Core, tier) + 8 * (FIRST_GROUP + number)
}

/// A page that was looked up last: a pair of words, its linear address (the tag) and where it is in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastPage {
    /// That of the guest's stack.
    Stack,
    /// Those that a loop's loads and stores were in; the number is less than [`STREAMS`].
    Loads(usize),
    Stores(usize),
}

/// Loads of a loop, and stores, that have a page of their own.
pub const STREAMS: usize = 4;
const FIRST_PAGE: usize = FIRST_GROUP + crate::groups::MOST;
const PAGE_WORDS: usize = 2 * (1 + 2 * STREAMS);
const _: () = assert!(FIRST_PAGE + PAGE_WORDS <= TIER_WORDS);

impl LastPage {
    pub fn tag(self) -> usize {
        let number = match self {
            LastPage::Stack => 0,
            LastPage::Loads(n) => 1 + n,
            LastPage::Stores(n) => 1 + STREAMS + n,
        };
        offset_of!(Core, tier) + 8 * (FIRST_PAGE + 2 * number)
    }

    pub fn host(self) -> usize {
        self.tag() + 8
    }

    /// The kind of access that it is good for. The stack is most often written.
    pub fn touch(self) -> Touch {
        match self {
            LastPage::Loads(_) => Touch::Read,
            LastPage::Stack | LastPage::Stores(_) => Touch::Write,
        }
    }
}

/// Forgets the pages that were looked up last. Only an address matches then that is not canonical; the page is zero, where
/// nothing is mapped, so that the access faults and takes its slow way.
#[inline(always)]
pub fn forget_pages(words: &mut [u64; TIER_WORDS]) {
    for pair in words[FIRST_PAGE..FIRST_PAGE + PAGE_WORDS].chunks_exact_mut(2) {
        pair[0] = 0x0000_8000_0000_0000;
        pair[1] = 0;
    }
}

/// Values of [`EXIT_KIND`].
pub const EXIT_LOOKUP: u64 = 0;
pub const EXIT_LINK: u64 = 1;
pub const EXIT_ENDED: u64 = 2;
/// As [`EXIT_LOOKUP`], after a return.
pub const EXIT_RETURN: u64 = 3;

/// The home of a general register.
pub fn home(reg: Reg) -> usize {
    offset_of!(Core, state.gpr) + 8 * usize::from(reg.0)
}

/// Arithmetic flags as [`ASIDE`] holds them: SF, ZF, AF, PF and CF in bits 8..16 as LAHF has them, OF in bit 0.
#[inline(always)]
pub fn to_aside(flags: u64) -> u64 {
    (flags & 0xd5) << 8 | flags >> 11 & 1
}

/// And back.
#[inline(always)]
pub fn from_aside(word: u64) -> u64 {
    word >> 8 & 0xd5 | (word & 1) << 11
}

/// Entries of a jump cache, as a power of two.
const JUMPS_BITS: u32 = 14;
const JUMPS: usize = 1 << JUMPS_BITS;
/// An entry's index is the top of the low half of the address, multiplied by this.
pub const JUMP_FACTOR: u32 = 0x9e37_79b1;
/// How far the product is shifted.
pub const JUMP_SHIFT: u8 = 32 - JUMPS_BITS as u8;

#[inline(always)]
fn jump_index(linear: u64) -> usize {
    ((linear as u32).wrapping_mul(JUMP_FACTOR) >> JUMP_SHIFT) as usize
}

/// Where the translation of an address is.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct JumpEntry {
    linear: u64,
    code: u64,
}
const _: () = assert!(size_of::<JumpEntry>() == 16);

/// An entry that nothing matches: what it would match belongs to another.
fn no_jump(index: usize) -> JumpEntry {
    JumpEntry {
        linear: u64::from(index == 0),
        code: 0,
    }
}

/// Where translations are, by linear address: a cache for each [`Setting::cache`].
pub struct Jumps {
    caches: [Box<[JumpEntry]>; Setting::CACHES],
}

impl Jumps {
    pub fn new() -> Jumps {
        let empty = || (0..JUMPS).map(no_jump).collect();
        Jumps {
            caches: std::array::from_fn(|_| empty()),
        }
    }

    /// The address of a cache.
    pub fn cache(&self, setting: Setting) -> u64 {
        self.caches[setting.cache()].as_ptr() as u64
    }

    /// The code of an address, if it is known.
    #[inline(always)]
    pub fn find(&self, setting: Setting, linear: u64) -> Option<u64> {
        let entry = &self.caches[setting.cache()][jump_index(linear)];
        (entry.linear == linear && entry.code != 0).then_some(entry.code)
    }

    /// Enters where the translation of an address is, for code in that setting.
    #[inline(always)]
    pub fn remember(&mut self, setting: Setting, linear: u64, code: u64) {
        self.caches[setting.cache()][jump_index(linear)] = JumpEntry { linear, code };
    }

    /// Undoes that, if nothing else was entered in its place.
    pub fn forget(&mut self, setting: Setting, linear: u64, code: u64) {
        let index = jump_index(linear);
        let slot = &mut self.caches[setting.cache()][index];
        if slot.linear == linear && slot.code == code {
            *slot = no_jump(index);
        }
    }

    pub fn clear(&mut self) {
        for cache in &mut self.caches {
            for (index, slot) in cache.iter_mut().enumerate() {
                *slot = no_jump(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::Width;
    use crate::translate::Level;

    #[test]
    fn an_empty_entry_matches_no_address_that_is_looked_up_in_it() {
        for index in 0..JUMPS {
            assert_ne!(jump_index(no_jump(index).linear), index);
        }
    }

    #[test]
    fn what_is_forgotten_is_gone() {
        let mut jumps = Jumps::new();
        for (user, width) in [
            (false, Width::Eight),
            (true, Width::Eight),
            (false, Width::Four),
            (true, Width::Four),
        ] {
            let setting = Setting {
                user,
                width,
                level: Level::None,
            };
            assert_eq!(jumps.find(setting, 0x40_1000), None);
            jumps.remember(setting, 0x40_1000, 7);
            assert_eq!(jumps.find(setting, 0x40_1000), Some(7));
            jumps.forget(setting, 0x40_1000, 8);
            assert_eq!(jumps.find(setting, 0x40_1000), Some(7));
            jumps.forget(setting, 0x40_1000, 7);
            assert_eq!(jumps.find(setting, 0x40_1000), None);
        }
    }

    #[test]
    fn flags_survive_being_put_aside() {
        for flags in [0, 0x8d5, 0x801, 0x40, 0x80, 0x14] {
            assert_eq!(from_aside(to_aside(flags)), flags);
        }
    }
}
