//! Addresses that cannot be mistaken for one another.

use std::fmt;

/// Bytes in a page, for guests and host alike.
pub const PAGE_SIZE: u64 = 4096;

/// The first address that no user mapping can reach (the kernel's `TASK_SIZE_MAX` with four-level paging).
pub const USER_END: u64 = 0x0000_7fff_ffff_f000;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number of the page that the address lies in.
            #[inline(always)]
            pub const fn page(self) -> u64 {
                self.0 / PAGE_SIZE
            }

            /// The distance from the start of its page.
            #[inline(always)]
            pub const fn offset(self) -> usize {
                (self.0 % PAGE_SIZE) as usize
            }

            /// The start of its page.
            #[inline(always)]
            pub const fn page_start(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// The first address of page number `page`, if there is one.
            #[inline]
            pub const fn of_page(page: u64) -> Option<Self> {
                match page.checked_mul(PAGE_SIZE) {
                    Some(address) => Some(Self(address)),
                    None => None,
                }
            }

            /// The address `bytes` further on, if it does not wrap.
            #[inline]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(address) => Some(Self(address)),
                    None => None,
                }
            }

            /// The address `bytes` further on, modulo 2^64.
            #[inline(always)]
            pub const fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// Whether `len` bytes from here stay within one page.
            #[inline(always)]
            pub const fn fits_page(self, len: usize) -> bool {
                self.offset() + len <= PAGE_SIZE as usize
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// An address in the guest's physical memory.
    GuestPhys
}
address! {
    /// A linear address of the guest, before paging.
    GuestVirt
}
address! {
    /// An address in this process.
    HostVirt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_address() {
        let a = GuestPhys(0x1234_5678);
        assert_eq!(
            (a.page(), a.offset(), a.page_start()),
            (0x12345, 0x678, GuestPhys(0x1234_5000))
        );
        assert_eq!(GuestPhys::of_page(0x12345), Some(a.page_start()));
        assert_eq!(GuestPhys::of_page(u64::MAX), None);
        assert_eq!(a.checked_add(u64::MAX), None);
        assert!(GuestVirt(0xff8).fits_page(8) && !GuestVirt(0xff9).fits_page(8));
        assert_eq!(format!("{a:?} {a:#x}"), "GuestPhys(0x12345678) 0x12345678");
    }
}
