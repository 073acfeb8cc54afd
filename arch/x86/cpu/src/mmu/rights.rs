//! What a translation lets whom do.

use super::Reach;
use super::access::Privilege;
use crate::state::{CR0_WP, CR4_SMEP, State};
use crate::world::Access;

/// What the page tables say of a page, all levels taken together. The bits fit beside the address of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u16);

impl Rights {
    pub const WRITE: Rights = Rights(1 << 1);
    pub const USER: Rights = Rights(1 << 2);
    /// The dirty bit is set.
    pub const DIRTY: Rights = Rights(1 << 7);
    pub const GLOBAL: Rights = Rights(1 << 8);
    pub const EXECUTE: Rights = Rights(1 << 9);
    /// Without paging.
    pub const ALL: Rights = Rights(Self::WRITE.0 | Self::USER.0 | Self::DIRTY.0 | Self::EXECUTE.0);
    const MASK: u64 = 0xfff;
    /// The protection key, four bits wide.
    const KEY_SHIFT: u32 = 3;

    /// These rights, and `more` if `condition` holds.
    pub fn with(self, more: Rights, condition: bool) -> Rights {
        Rights(self.0 | if condition { more.0 } else { 0 })
    }

    /// These rights, those of a page that had no key yet, with a key.
    pub fn with_key(self, key: u16) -> Rights {
        Rights(self.0 | (key & 15) << Self::KEY_SHIFT)
    }

    /// The protection key that data accesses are checked against, if any is.
    #[inline]
    pub fn key(self, state: &State) -> Option<u8> {
        let keyed = self.has(Rights::USER) && state.has_keys();
        keyed.then_some((self.0 >> Self::KEY_SHIFT & 15) as u8)
    }

    /// Whether the page's protection key bars an access.
    pub fn barred(self, access: Access, privilege: Privilege, state: &State) -> bool {
        let Some(key) = self.key(state).filter(|_| access != Access::Execute) else {
            return false;
        };
        let bars = state.pkru >> (2 * key) & 3;
        let minds_writes = privilege == Privilege::User || state.cr0 & CR0_WP != 0;
        bars & 1 != 0 || bars & 2 != 0 && access == Access::Write && minds_writes
    }

    /// What both grant.
    pub fn and(self, other: Rights) -> Rights {
        Rights(self.0 & other.0)
    }

    #[inline]
    pub fn has(self, one: Rights) -> bool {
        self.0 & one.0 != 0
    }

    /// None at all.
    pub const fn none() -> Rights {
        Rights(0)
    }

    #[inline]
    pub fn reach(self) -> Reach {
        if self.has(Rights::GLOBAL) {
            Reach::Global
        } else {
            Reach::Local
        }
    }

    /// Beside the address of a page.
    #[inline]
    pub fn pack(self, page: u64) -> u64 {
        page & !Self::MASK | u64::from(self.0)
    }

    #[inline]
    pub fn unpack(packed: u64) -> Rights {
        Rights((packed & Self::MASK) as u16)
    }

    /// Whether an access is allowed, in the processor's present mode.
    #[inline]
    pub fn allow(self, access: Access, privilege: Privilege, state: &State) -> bool {
        let user_page = self.has(Rights::USER);
        let writable = self.has(Rights::WRITE);
        let allowed = match privilege {
            Privilege::User => user_page && (access != Access::Write || writable),
            Privilege::Supervisor | Privilege::Open => {
                let reachable = match access {
                    Access::Execute => !user_page || state.cr4 & CR4_SMEP == 0,
                    _ => !user_page || privilege == Privilege::Open,
                };
                reachable && (access != Access::Write || writable || state.cr0 & CR0_WP == 0)
            }
        };
        allowed
            && (access != Access::Execute || self.has(Rights::EXECUTE))
            && !self.barred(access, privilege, state)
    }
}
