//! The page walk: 32-bit, PAE and 4-level paging, permissions, accessed and dirty bits.
//!
//! Not supported: 5-level paging, and protection keys of supervisor pages, which CPUID does not offer.

use super::access::Privilege;
use super::rights::Rights;
use crate::state::{CR4_PAE, CR4_PGE, CR4_PSE, CR4_SMEP, EFER_NXE};
use crate::world::{Access, Backing, World};
use crate::{Core, Fault, Step, Stop, Vector};
use ring3_host::addr::GuestPhys;
use ring3_host::mem::HostPage;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const KEY_SHIFT: u32 = 59;

/// Bits of the error code of a page fault.
const PF_PRESENT: u32 = 1 << 0;
const PF_WRITE: u32 = 1 << 1;
const PF_USER: u32 = 1 << 2;
const PF_RESERVED: u32 = 1 << 3;
const PF_FETCH: u32 = 1 << 4;
const PF_KEY: u32 = 1 << 5;

/// Where a linear address leads.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    pub gpa: GuestPhys,
    /// Size of the page that maps it.
    pub page_size: u64,
    pub rights: Rights,
}

/// The geometry of one level of page tables.
#[derive(Clone, Copy)]
struct Level {
    /// Lowest linear-address bit that indexes this level.
    shift: u32,
    index_bits: u32,
    entry_size: usize,
    /// Whether an entry here may map a page (if its PS bit says so).
    may_map: bool,
}

const fn level(shift: u32, index_bits: u32, entry_size: usize, may_map: bool) -> Level {
    Level {
        shift,
        index_bits,
        entry_size,
        may_map,
    }
}

const LONG: [Level; 4] = [
    level(39, 9, 8, false),
    level(30, 9, 8, true),
    level(21, 9, 8, true),
    level(12, 9, 8, false),
];
const PAE: [Level; 2] = [level(21, 9, 8, true), level(12, 9, 8, false)];
const LEGACY_PSE: [Level; 2] = [level(22, 10, 4, true), level(12, 10, 4, false)];
const LEGACY: [Level; 2] = [level(22, 10, 4, false), level(12, 10, 4, false)];

/// The rights that a walk begins with.
const FULL: Rights = Rights::ALL;

struct Walk {
    linear: u64,
    access: Access,
    privilege: Privilege,
}

impl Core {
    /// Translates `linear` for `access`, setting accessed and dirty bits as the processor does.
    pub(crate) fn walk(
        &mut self,
        world: &mut dyn World,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Step<Translation> {
        if !self.state.paging() {
            return Ok(Translation {
                gpa: GuestPhys(linear),
                page_size: 4096,
                rights: Rights::ALL,
            });
        }
        let walk = Walk {
            linear,
            access,
            privilege,
        };
        if self.state.long_mode()
            && let Some(translation) = self.walk_from_upper(world, &walk)?
        {
            return Ok(translation);
        }
        loop {
            // `None`: another processor changed an entry under the walk; walk again.
            if let Some(translation) = self.walk_once(world, &walk)? {
                return Ok(translation);
            }
        }
    }

    /// Walks the last level only, if what leads there is cached. A walk that ends in a fault is made again from the top:
    /// what is cached may be older than the tables.
    fn walk_from_upper(&mut self, world: &mut dyn World, walk: &Walk) -> Step<Option<Translation>> {
        let stamp = self.mmu.spaces.upper();
        let Some((table, rights)) = self.mmu.upper.find(walk.linear, stamp) else {
            return Ok(None);
        };
        match self.descend(world, walk, table, rights, &LONG[LONG.len() - 1..]) {
            Err(Stop::Fault(_)) => Ok(None),
            other => other,
        }
    }

    fn walk_once(&mut self, world: &mut dyn World, walk: &Walk) -> Step<Option<Translation>> {
        let address_mask = ((1u64 << self.state.physical_bits) - 1) & !0xfff;
        if self.state.long_mode() {
            self.descend(world, walk, self.state.cr3 & address_mask, FULL, &LONG)
        } else if self.state.cr4 & CR4_PAE != 0 {
            let pointer = self.state.pdptr[(walk.linear >> 30) as usize & 3];
            if pointer & PRESENT == 0 {
                return Err(self.page_fault(walk, 0));
            }
            self.descend(world, walk, pointer & address_mask, FULL, &PAE)
        } else if self.state.cr4 & CR4_PSE != 0 {
            self.descend(world, walk, self.state.cr3 & 0xffff_f000, FULL, &LEGACY_PSE)
        } else {
            self.descend(world, walk, self.state.cr3 & 0xffff_f000, FULL, &LEGACY)
        }
    }

    fn descend(
        &mut self,
        world: &mut dyn World,
        walk: &Walk,
        mut table: u64,
        mut rights: Rights,
        levels: &[Level],
    ) -> Step<Option<Translation>> {
        for (depth, level) in levels.iter().enumerate() {
            let index = walk.linear >> level.shift & ((1 << level.index_bits) - 1);
            let at = table + index * level.entry_size as u64;
            let entry = self.read_entry(world, at, level.entry_size)?;
            if entry & PRESENT == 0 {
                return Err(self.page_fault(walk, 0));
            }
            let maps = depth + 1 == levels.len() || level.may_map && entry & LARGE != 0;
            if entry & self.reserved(level, maps, depth + 1 == levels.len()) != 0 {
                return Err(self.page_fault(walk, PF_PRESENT | PF_RESERVED));
            }
            let executable = level.entry_size == 4 || entry & NO_EXECUTE == 0;
            rights = rights.and(
                Rights::none()
                    .with(Rights::WRITE, entry & WRITABLE != 0)
                    .with(Rights::USER, entry & USER != 0)
                    .with(Rights::EXECUTE, executable),
            );
            if maps {
                if level.entry_size == 8 && self.state.has_keys() {
                    rights = rights.with_key((entry >> KEY_SHIFT & 15) as u16);
                }
                if !rights.allow(walk.access, walk.privilege, &self.state) {
                    let barred = rights.barred(walk.access, walk.privilege, &self.state);
                    let key = if barred { PF_KEY } else { 0 };
                    return Err(self.page_fault(walk, PF_PRESENT | key));
                }
                let wanted = ACCESSED | if walk.access == Access::Write { DIRTY } else { 0 };
                if !self.set_entry_bits(world, at, level.entry_size, entry, wanted)? {
                    return Ok(None);
                }
                let size = 1u64 << level.shift;
                let mut base = entry & ((1u64 << self.state.physical_bits) - 1) & !(size - 1);
                if level.entry_size == 4 {
                    base = entry & 0xffff_ffff & !(size - 1);
                    if level.shift == 22 {
                        // PSE-36: bits 13..21 of the entry are address bits 32..40.
                        base |= (entry >> 13 & 0xff) << 32;
                    }
                }
                let gpa = GuestPhys(base | walk.linear & (size - 1));
                let global = entry & GLOBAL != 0 && self.state.cr4 & CR4_PGE != 0;
                let dirty = (entry | wanted) & DIRTY != 0;
                return Ok(Some(Translation {
                    gpa,
                    page_size: size,
                    rights: rights.with(Rights::GLOBAL, global).with(Rights::DIRTY, dirty),
                }));
            }
            if !self.set_entry_bits(world, at, level.entry_size, entry, ACCESSED)? {
                return Ok(None);
            }
            table = entry & ((1u64 << self.state.physical_bits) - 1) & !0xfff;
            if level.entry_size == 4 {
                table = entry & 0xffff_f000;
            }
            if level.shift == 21 && self.state.long_mode() {
                let stamp = self.mmu.spaces.upper();
                self.mmu.upper.enter(walk.linear, stamp, table, rights);
            }
        }
        // The last level always maps.
        Err(Stop::Unsupported)
    }

    /// The bits of an entry that must be zero.
    fn reserved(&self, level: &Level, maps: bool, last: bool) -> u64 {
        if level.entry_size == 4 {
            return if maps && !last { 1 << 21 } else { 0 };
        }
        let mut bits = !((1u64 << self.state.physical_bits) - 1) & 0x000f_ffff_ffff_ffff;
        if self.state.efer & EFER_NXE == 0 {
            bits |= NO_EXECUTE;
        }
        if !self.state.long_mode() {
            bits |= 0x7ff0_0000_0000_0000;
        }
        if maps && !last {
            bits |= ((1u64 << level.shift) - 1) & !0x1fff;
        } else if !maps && self.state.long_mode() && !level.may_map && !last {
            bits |= LARGE;
        }
        bits
    }

    fn page_fault(&mut self, walk: &Walk, cause: u32) -> Stop {
        let state = &self.state;
        let fetch_bit = state.cr4 & CR4_SMEP != 0 || state.cr4 & CR4_PAE != 0 && state.efer & EFER_NXE != 0;
        let mut error = cause;
        if walk.access == Access::Write {
            error |= PF_WRITE;
        }
        if walk.privilege == Privilege::User {
            error |= PF_USER;
        }
        if walk.access == Access::Execute && fetch_bit {
            error |= PF_FETCH;
        }
        self.fault_address = walk.linear;
        Stop::Fault(Fault::with(Vector::PF, error))
    }

    /// The host page behind a page of page tables; `None` where there is no memory.
    fn table_page(&mut self, world: &mut dyn World, gpa: u64) -> Option<HostPage> {
        if let Some(page) = self.mmu.walk_cache.get(gpa) {
            return Some(page);
        }
        match world.page(GuestPhys(gpa), Access::Read) {
            Backing::Ram { page, .. } => {
                self.mmu.walk_cache.put(gpa, page);
                Some(page)
            }
            Backing::Mmio => None,
        }
    }

    fn read_entry(&mut self, world: &mut dyn World, gpa: u64, size: usize) -> Step<u64> {
        let Some(page) = self.table_page(world, gpa) else {
            // A page table outside of memory reads as all ones, as from an undriven bus.
            return Ok(if size == 4 { 0xffff_ffff } else { u64::MAX });
        };
        let offset = (gpa & 0xfff) as usize;
        let value = if size == 4 {
            page.load::<u32>(offset).map(u64::from)
        } else {
            page.load::<u64>(offset)
        };
        value.map_err(|_| self.lost(gpa))
    }

    /// Sets bits in an entry that held `entry` when it was read, as a locked operation; false if another
    /// processor has changed the entry meanwhile.
    fn set_entry_bits(
        &mut self,
        world: &mut dyn World,
        gpa: u64,
        size: usize,
        entry: u64,
        bits: u64,
    ) -> Step<bool> {
        if entry & bits == bits {
            return Ok(true);
        }
        let Backing::Ram { page, direct } = world.page(GuestPhys(gpa), Access::Write) else {
            return Ok(true);
        };
        let offset = (gpa & 0xfff) as usize;
        let done = if size == 4 {
            page.compare_exchange::<u32>(offset, entry as u32, (entry | bits) as u32)
                .map(|r| r.is_ok())
        } else {
            page.compare_exchange::<u64>(offset, entry, entry | bits)
                .map(|r| r.is_ok())
        };
        let done = done.map_err(|_| self.lost(gpa))?;
        if !direct && world.code_written(GuestPhys(gpa), size) {
            self.drop_code(GuestPhys(gpa));
        }
        Ok(done)
    }

    pub(crate) fn lost(&mut self, gpa: u64) -> Stop {
        self.lost_memory = GuestPhys(gpa & !0xfff);
        Stop::LostMemory
    }

    /// Notes that the translations of a page must go before the next block runs.
    pub fn drop_code(&mut self, gpa: GuestPhys) {
        self.stale_code.push(GuestPhys(gpa.0 & !0xfff));
        self.resync();
    }

    /// Loads the PDPTRs for PAE paging, as a write to CR3 does; the fault is #GP(0) for reserved bits.
    pub fn load_pdptrs(&mut self, world: &mut dyn World) -> Step {
        let base = self.state.cr3 & 0xffff_ffe0;
        let mut pointers = [0; 4];
        let reserved = !((1u64 << self.state.physical_bits) - 1) | 0x1e6;
        for (index, pointer) in pointers.iter_mut().enumerate() {
            *pointer = self.read_entry(world, base + 8 * index as u64, 8)?;
            if *pointer & PRESENT != 0 && *pointer & reserved != 0 {
                return Err(Fault::GP0.into());
            }
        }
        self.state.pdptr = pointers;
        Ok(())
    }
}
