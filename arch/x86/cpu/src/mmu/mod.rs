//! Guest memory as instructions reach it: linear address -> (TLB, or page walk) -> host page.
//!
//! `tlb` holds translations and is all that translated code knows; `second` holds more of them, `walk` reads the guest's
//! page tables, helped by `upper`; `fill` brings a translation from there to the tables. `access` is what operations
//! call. `spaces` knows the address spaces, `invalidate` is what voids translations and remembered lookups of code.
//!
//! One set of tables belongs to each recently used PCID, one table in a set to each class of access, so that a
//! change of address space or privilege is a change of index. A table entry that may not be used directly for
//! some kind of access (MMIO, clean pages, pages with translated code, watched by a data breakpoint) simply does
//! not match for it.

pub mod access;
mod fill;
mod invalidate;
mod large;
mod pages;
mod rights;
mod second;
mod spaces;
mod tables;
pub mod tlb;
mod upper;
pub mod walk;

pub use access::Privilege;
pub(crate) use fill::{Fetch, Fetched};
pub(crate) use invalidate::Cached;
pub(crate) use spaces::Reach;
pub use tlb::{Entry, Table};

use crate::world::Access;
use ring3_host::addr::GuestPhys;
use second::Second;
use spaces::Spaces;
use tables::Tables;
use upper::Upper;

/// Index of a table class. `Checked` is never filled: every access takes the slow path, which checks alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Class {
    User = 0,
    /// Supervisor, with user pages out of bounds for data (SMAP).
    Supervisor = 1,
    /// Supervisor, user pages reachable (no SMAP, or RFLAGS.AC).
    Open = 2,
    Checked = 3,
    /// Instructions have tables of their own, lest their pages displace those of data that lie in the same slots.
    UserCode = 4,
    SupervisorCode = 5,
}

impl Class {
    #[inline]
    fn of(privilege: Privilege, access: Access) -> Class {
        match (privilege, access) {
            (Privilege::User, Access::Execute) => Class::UserCode,
            (_, Access::Execute) => Class::SupervisorCode,
            (Privilege::User, _) => Class::User,
            (Privilege::Supervisor, _) => Class::Supervisor,
            (Privilege::Open, _) => Class::Open,
        }
    }
}

pub struct Mmu {
    tables: Tables,
    pub(crate) spaces: Spaces,
    /// The table of ordinary accesses.
    current: usize,
    class: Class,
    second: Second,
    upper: Upper,
    /// Guest-physical pages known to be plain readable memory, for the page walk.
    pub(crate) walk_cache: Box<tlb::PhysCache>,
}

impl Mmu {
    pub fn new() -> Mmu {
        Mmu {
            tables: Tables::new(),
            spaces: Spaces::new(),
            current: Class::Supervisor as usize,
            class: Class::Supervisor,
            second: Second::new(),
            upper: Upper::new(),
            walk_cache: tlb::PhysCache::empty(),
        }
    }

    /// Chooses the class of ordinary accesses.
    #[inline]
    pub fn select(&mut self, user: bool, open: bool, checked: bool) {
        self.class = match (checked, user, open) {
            (true, ..) => Class::Checked,
            (_, true, _) => Class::User,
            (_, _, true) => Class::Open,
            _ => Class::Supervisor,
        };
        self.choose_table();
    }

    fn choose_table(&mut self) {
        self.current = tables::place(self.spaces.current(), self.class);
    }

    pub fn class(&self) -> Class {
        self.class
    }

    /// The entry that would hold the translation of `linear` for ordinary accesses.
    #[inline(always)]
    pub fn entry(&self, linear: u64) -> &Entry {
        self.tables.get(self.current).entry(linear)
    }

    /// Where the table of ordinary accesses is, for translated code. It changes with address space and privilege.
    #[inline(always)]
    pub fn table_address(&self) -> u64 {
        self.tables.get(self.current).address()
    }

    pub(crate) fn table(&mut self, class: Class) -> &mut Table {
        self.tables.own(tables::place(self.spaces.current(), class))
    }

    pub(crate) fn table_ref(&self, class: Class) -> &Table {
        self.tables.get(tables::place(self.spaces.current(), class))
    }

    /// Voids what was checked against some protection keys, a bit each, in any address space: PKRU belongs to none. Whether
    /// there was something.
    pub(crate) fn void_keys(&mut self, keys: u16) -> bool {
        let mut found = false;
        for table in self.tables.all() {
            found |= table.clear_keys(keys);
        }
        found
    }

    /// Makes the next write to the guest-physical page of `gpa` ask the world again.
    pub fn protect(&mut self, gpa: GuestPhys) {
        for table in self.tables.all() {
            table.protect(gpa);
        }
    }

    /// Makes every next write ask the world again: dirty logging was switched on or its log was read.
    pub fn protect_all(&mut self) {
        for table in self.tables.all() {
            table.protect_all();
        }
    }
}

impl Default for Mmu {
    fn default() -> Mmu {
        Mmu::new()
    }
}
