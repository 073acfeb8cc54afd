//! From an access to the page behind it: the table of its class, the second level, the page walk.

use super::access::Privilege;
use super::rights::Rights;
use super::second::Known;
use super::tlb::Kinds;
use super::{Class, Reach};
use crate::state::DR7_ENABLES;
use crate::world::{Access, Backing, World};
use crate::{Core, Step, Stop};
use ring3_host::addr::GuestPhys;
use ring3_host::mem::HostPage;

/// One page's part of an access, translated.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub gpa: GuestPhys,
    pub backing: Backing,
}

/// Where instructions are fetched from.
pub(crate) struct Fetched {
    pub gpa: GuestPhys,
    pub backing: Backing,
    pub reach: Reach,
    /// Whether the translation was entered in the TLB only now, or cannot be.
    pub fetched: Fetch,
}

/// How instructions were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetch {
    Known,
    Fresh,
}

impl Core {
    /// Translates one page's part of an access and enters it in the TLB where that is allowed.
    #[inline]
    pub(super) fn part(
        &mut self,
        world: &mut dyn World,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Step<Part> {
        let table = self.mmu.table_ref(Class::of(privilege, access));
        let entry = table.entry(linear);
        let tag = match access {
            Access::Read => entry.read,
            Access::Write => entry.write,
            Access::Execute => entry.execute,
        };
        if tag == linear & !0xfff {
            return Ok(Part {
                gpa: GuestPhys(table.gpa(linear).0 | linear & 0xfff),
                backing: Backing::Ram {
                    page: entry.page,
                    direct: true,
                },
            });
        }
        let (known, backing) = self.miss(world, linear, access, privilege)?;
        Ok(Part {
            gpa: GuestPhys(known.gpa.0 | linear & 0xfff),
            backing,
        })
    }

    /// The guest-physical address that instructions at `linear` are fetched from, and through which translation.
    pub(crate) fn fetch_address(&mut self, world: &mut dyn World, linear: u64) -> Step<Fetched> {
        let privilege = if self.mode.cpl == 3 {
            Privilege::User
        } else {
            Privilege::Supervisor
        };
        let table = self.mmu.table_ref(Class::of(privilege, Access::Execute));
        let entry = table.entry(linear);
        if entry.execute == linear & !0xfff {
            return Ok(Fetched {
                gpa: GuestPhys(table.gpa(linear).0 | linear & 0xfff),
                backing: Backing::Ram {
                    page: entry.page,
                    direct: true,
                },
                reach: table.reach(linear),
                fetched: Fetch::Known,
            });
        }
        let (known, backing) = self.miss(world, linear, Access::Execute, privilege)?;
        Ok(Fetched {
            gpa: GuestPhys(known.gpa.0 | linear & 0xfff),
            backing,
            reach: known.rights.reach(),
            fetched: Fetch::Fresh,
        })
    }

    /// Translates what the table of the access's class does not have, and enters it there.
    #[inline(never)]
    fn miss(
        &mut self,
        world: &mut dyn World,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Step<(Known, Backing)> {
        let (known, backing) = match self.find_second(linear, access, privilege) {
            // Writes are told to the world in any case: it may log them, or have code in the page.
            Some(known) if access == Access::Write || known.host == HostPage::NULL => {
                (known, self.page(world, known.gpa, access)?)
            }
            Some(known) => {
                let backing = Backing::Ram {
                    page: known.host,
                    direct: true,
                };
                (known, backing)
            }
            None => self.walk_and_enter(world, linear, access, privilege)?,
        };
        if let Backing::Ram { page, direct: true } = backing
            && !self.is_watched(linear & !0xfff)
        {
            let kinds = Kinds {
                read: access != Access::Execute,
                write: access == Access::Write,
                execute: access == Access::Execute,
                key: known
                    .rights
                    .key(&self.state)
                    .filter(|_| access != Access::Execute),
            };
            let reach = known.rights.reach();
            self.mmu.spaces.note_entered(linear, reach);
            self.mmu
                .table(Class::of(privilege, access))
                .fill(linear, known.gpa, reach, page, kinds);
        }
        Ok((known, backing))
    }

    /// What stands behind a page, or a pause if the world puts the access off.
    fn page(&self, world: &mut dyn World, gpa: GuestPhys, access: Access) -> Step<Backing> {
        let backing = world.page(gpa, access);
        match backing {
            Backing::Ram { page, .. }
                if self.delivering.is_none() && self.accepts_interrupts() && world.puts_off(gpa, page) =>
            {
                Err(Stop::Pause)
            }
            _ => Ok(backing),
        }
    }

    /// What the second level knows that allows the access.
    #[inline]
    fn find_second(&self, linear: u64, access: Access, privilege: Privilege) -> Option<Known> {
        let mmu = &self.mmu;
        let find = |reach| mmu.second.find(linear, mmu.spaces.stamp(reach));
        let known = find(Reach::Local).or_else(|| find(Reach::Global))?;
        // A first write has to set the dirty bit.
        let fits = known.rights.allow(access, privilege, &self.state)
            && (access != Access::Write || known.rights.has(Rights::DIRTY));
        fits.then_some(known)
    }

    fn walk_and_enter(
        &mut self,
        world: &mut dyn World,
        linear: u64,
        access: Access,
        privilege: Privilege,
    ) -> Step<(Known, Backing)> {
        let translation = match self.walk(world, linear, access, privilege) {
            Ok(translation) => translation,
            Err(stop) => {
                if let Stop::Fault(_) = stop {
                    self.fault_voids(linear);
                }
                return Err(stop);
            }
        };
        let backing = self.page(world, translation.gpa, access)?;
        let known = Known {
            gpa: GuestPhys(translation.gpa.0 & !0xfff),
            rights: translation.rights,
            host: match backing {
                Backing::Ram { page, .. } => page,
                Backing::Mmio => HostPage::NULL,
            },
        };
        if self.state.paging() {
            let reach = known.rights.reach();
            let stamp = self.mmu.spaces.stamp(reach);
            self.mmu.second.enter(linear, stamp, known);
            if translation.page_size > 4096 {
                self.mmu.spaces.note_large(linear, translation.page_size, reach);
            }
        }
        Ok((known, backing))
    }

    /// Translates for KVM_TRANSLATE and debuggers: reads the page tables as they are, without a trace.
    pub fn translate(&mut self, world: &mut dyn World, linear: u64) -> Option<GuestPhys> {
        let fault_address = self.fault_address;
        let current = self.mmu.spaces.current();
        self.mmu.spaces.void_upper(current);
        let found = self.walk(world, linear, Access::Read, Privilege::Open).ok();
        self.fault_address = fault_address;
        found.map(|translation| translation.gpa)
    }

    /// Whether a data breakpoint lies in this page, so that accesses must not bypass [`Core::watch`].
    #[inline]
    pub(super) fn is_watched(&self, page: u64) -> bool {
        let (addresses, control) = self.debug_registers();
        control & DR7_ENABLES != 0
            && (0..4).any(|n| {
                control >> (2 * n) & 3 != 0
                    && control >> (16 + 4 * n) & 3 != 0
                    && addresses[n] & !0xfff == page
            })
    }
}
