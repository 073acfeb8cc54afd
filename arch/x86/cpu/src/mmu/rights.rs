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
    pub const DIRTY: Rights = Rights(1 << 6);
    pub const GLOBAL: Rights = Rights(1 << 8);
    pub const EXECUTE: Rights = Rights(1 << 9);
    /// Without paging.
    pub const ALL: Rights = Rights(Self::WRITE.0 | Self::USER.0 | Self::DIRTY.0 | Self::EXECUTE.0);
    const MASK: u64 = 0xfff;

    /// These rights, and `more` if `condition` holds.
    pub fn with(self, more: Rights, condition: bool) -> Rights {
        Rights(self.0 | if condition { more.0 } else { 0 })
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
        allowed && (access != Access::Execute || self.has(Rights::EXECUTE))
    }
}
