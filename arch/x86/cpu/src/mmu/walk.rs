//! The page walk: 32-bit, PAE and 4-level paging, permissions, accessed and dirty bits.
//!
//! Not supported: 5-level paging and protection keys, which CPUID does not offer.

use super::access::Privilege;
use super::spaces::Reach;
use crate::state::{CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, CR4_SMEP, EFER_NXE};
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

/// Bits of the error code of a page fault.
const PF_PRESENT: u32 = 1 << 0;
const PF_WRITE: u32 = 1 << 1;
const PF_USER: u32 = 1 << 2;
const PF_RESERVED: u32 = 1 << 3;
const PF_FETCH: u32 = 1 << 4;

/// Where a linear address leads.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    pub gpa: GuestPhys,
    /// Size of the page that maps it.
    pub page_size: u64,
    pub reach: Reach,
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
                reach: Reach::Local,
            });
        }
        let walk = Walk {
            linear,
            access,
            privilege,
        };
        loop {
            // `None`: another processor changed an entry under the walk; walk again.
            if let Some(translation) = self.walk_once(world, &walk)? {
                return Ok(translation);
            }
        }
    }

    fn walk_once(&mut self, world: &mut dyn World, walk: &Walk) -> Step<Option<Translation>> {
        let address_mask = ((1u64 << self.state.physical_bits) - 1) & !0xfff;
        if self.state.long_mode() {
            self.descend(world, walk, self.state.cr3 & address_mask, &LONG)
        } else if self.state.cr4 & CR4_PAE != 0 {
            let pointer = self.state.pdptr[(walk.linear >> 30) as usize & 3];
            if pointer & PRESENT == 0 {
                return Err(self.page_fault(walk, 0));
            }
            self.descend(world, walk, pointer & address_mask, &PAE)
        } else if self.state.cr4 & CR4_PSE != 0 {
            self.descend(world, walk, self.state.cr3 & 0xffff_f000, &LEGACY_PSE)
        } else {
            self.descend(world, walk, self.state.cr3 & 0xffff_f000, &LEGACY)
        }
    }

    fn descend(
        &mut self,
        world: &mut dyn World,
        walk: &Walk,
        mut table: u64,
        levels: &[Level],
    ) -> Step<Option<Translation>> {
        let mut rights = WRITABLE | USER;
        let mut no_execute = 0;
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
            rights &= entry;
            if level.entry_size == 8 {
                no_execute |= entry & NO_EXECUTE;
            }
            if maps {
                self.check_rights(walk, rights, no_execute)?;
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
                let reach = if entry & GLOBAL != 0 && self.state.cr4 & CR4_PGE != 0 {
                    Reach::Global
                } else {
                    Reach::Local
                };
                return Ok(Some(Translation {
                    gpa,
                    page_size: size,
                    reach,
                }));
            }
            if !self.set_entry_bits(world, at, level.entry_size, entry, ACCESSED)? {
                return Ok(None);
            }
            table = entry & ((1u64 << self.state.physical_bits) - 1) & !0xfff;
            if level.entry_size == 4 {
                table = entry & 0xffff_f000;
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

    fn check_rights(&mut self, walk: &Walk, rights: u64, no_execute: u64) -> Step {
        let user_page = rights & USER != 0;
        let writable = rights & WRITABLE != 0;
        let state = &self.state;
        let allowed = match walk.privilege {
            Privilege::User => user_page && (walk.access != Access::Write || writable),
            Privilege::Supervisor | Privilege::Open => {
                let reachable = match walk.access {
                    Access::Execute => !user_page || state.cr4 & CR4_SMEP == 0,
                    _ => !user_page || walk.privilege == Privilege::Open,
                };
                reachable && (walk.access != Access::Write || writable || state.cr0 & CR0_WP == 0)
            }
        };
        let allowed = allowed && !(walk.access == Access::Execute && no_execute != 0);
        if allowed {
            Ok(())
        } else {
            Err(self.page_fault(walk, PF_PRESENT))
        }
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
