//! Client memory that the guest runs in: it may be unmapped, protected or truncated under us at any moment.
//!
//! [`HostRegion`] is a range of the client's address space, [`HostPage`] one page of it. Every access is a single
//! instruction listed in the exception table, so an access to memory that is gone is an error value, at no cost to
//! one that succeeds. Accesses are as atomic as the processor makes them: aligned ones are, also across threads.
//!
//! The client decides which of its addresses are guest memory, and may name any of them, as it may with the kernel's
//! KVM: what guest code can overwrite is then the client's choice, exactly as if the client stored there itself.

use crate::addr::{HostVirt, PAGE_SIZE, USER_END};
use crate::extable::on_fault;
use std::arch::asm;
use std::arch::x86_64::__m128i;

const PAGE: usize = PAGE_SIZE as usize;

/// An access to client memory found none there (or not with that right).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFault;

impl std::fmt::Display for HostFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no such host memory")
    }
}

impl std::error::Error for HostFault {}

mod sealed {
    use super::HostFault;

    pub trait Access: Sized {
        /// # Safety
        /// `at` must be in the user half, and not in memory whose bytes Rust relies on.
        unsafe fn load(at: u64) -> Result<Self, HostFault>;
        /// # Safety
        /// As for `load`.
        unsafe fn store(at: u64, value: Self) -> Result<(), HostFault>;
        /// # Safety
        /// As for `load`; a `u128` must be aligned.
        unsafe fn compare_exchange(at: u64, old: Self, new: Self) -> Result<Result<Self, Self>, HostFault>;
    }
}

/// The widths of a single access: `u8`, `u16`, `u32`, `u64`, `u128`.
pub trait Word: sealed::Access + Copy + Eq + std::fmt::Debug + Send + Sync + 'static {
    /// Bytes in the word.
    const SIZE: usize = size_of::<Self>();
}

macro_rules! word {
    ($type:ty, $class:ident, $modifier:literal, $accumulator:tt) => {
        impl Word for $type {}
        impl sealed::Access for $type {
            #[inline(always)]
            unsafe fn load(at: u64) -> Result<Self, HostFault> {
                let value: $type;
                let fault: u32;
                // SAFETY: by contract the bytes are no Rust object's; a fault continues at 3 with `fault` set.
                unsafe {
                    asm!(
                        "mov {fault:e}, 1",
                        concat!("2: mov {value", $modifier, "}, [{at}]"),
                        "xor {fault:e}, {fault:e}",
                        "3:",
                        on_fault!("3b"),
                        at = in(reg) at,
                        fault = out(reg) fault,
                        value = out($class) value,
                        options(nostack, readonly),
                    );
                }
                if fault == 0 { Ok(value) } else { Err(HostFault) }
            }

            #[inline(always)]
            unsafe fn store(at: u64, value: Self) -> Result<(), HostFault> {
                // SAFETY: by contract the bytes are no Rust object's; a fault continues at the label.
                unsafe {
                    asm!(
                        concat!("2: mov [{at}], {value", $modifier, "}"),
                        on_fault!("{fault}"),
                        at = in(reg) at,
                        value = in($class) value,
                        fault = label { return Err(HostFault) },
                        options(nostack, preserves_flags),
                    );
                }
                Ok(())
            }

            #[inline]
            unsafe fn compare_exchange(at: u64, old: Self, new: Self) -> Result<Result<Self, Self>, HostFault> {
                let seen: $type;
                let fault: u32;
                // SAFETY: as for `load`.
                unsafe {
                    asm!(
                        "mov {fault:e}, 1",
                        concat!("2: lock cmpxchg [{at}], {new", $modifier, "}"),
                        "mov {fault:e}, 0",
                        "3:",
                        on_fault!("3b"),
                        at = in(reg) at,
                        new = in($class) new,
                        fault = out(reg) fault,
                        inout($accumulator) old => seen,
                        options(nostack),
                    );
                }
                match fault {
                    0 if seen == old => Ok(Ok(old)),
                    0 => Ok(Err(seen)),
                    _ => Err(HostFault),
                }
            }
        }
    };
}

word!(u8, reg_byte, "", "al");
word!(u16, reg, ":x", "ax");
word!(u32, reg, ":e", "eax");
word!(u64, reg, ":r", "rax");

impl Word for u128 {}
impl sealed::Access for u128 {
    #[inline(always)]
    unsafe fn load(at: u64) -> Result<Self, HostFault> {
        let value: __m128i;
        let fault: u32;
        // SAFETY: by contract the bytes are no Rust object's; a fault continues at 3 with `fault` set.
        unsafe {
            asm!(
                "mov {fault:e}, 1",
                "2: movdqu {value}, [{at}]",
                "xor {fault:e}, {fault:e}",
                "3:",
                on_fault!("3b"),
                at = in(reg) at,
                fault = out(reg) fault,
                value = out(xmm_reg) value,
                options(nostack, readonly),
            );
        }
        if fault == 0 {
            // SAFETY: both are 16 plain bytes.
            Ok(unsafe { std::mem::transmute::<__m128i, u128>(value) })
        } else {
            Err(HostFault)
        }
    }

    #[inline(always)]
    unsafe fn store(at: u64, value: Self) -> Result<(), HostFault> {
        // SAFETY: both are 16 plain bytes.
        let value = unsafe { std::mem::transmute::<u128, __m128i>(value) };
        // SAFETY: by contract the bytes are no Rust object's; a fault continues at the label.
        unsafe {
            asm!(
                "2: movdqu [{at}], {value}",
                on_fault!("{fault}"),
                at = in(reg) at,
                value = in(xmm_reg) value,
                fault = label { return Err(HostFault) },
                options(nostack, preserves_flags),
            );
        }
        Ok(())
    }

    #[inline]
    unsafe fn compare_exchange(at: u64, old: Self, new: Self) -> Result<Result<Self, Self>, HostFault> {
        let (low, high): (u64, u64);
        let fault: u32;
        // SAFETY: as for `load`. RBX is the compiler's, so the new low half goes in and out of it by exchange; the
        // address is in RDI, which no half uses. CMPXCHG16B faults on an unaligned address, which reads as a fault.
        unsafe {
            asm!(
                "xchg rbx, rsi",
                "mov r8d, 1",
                "2: lock cmpxchg16b [rdi]",
                "mov r8d, 0",
                "3:",
                "mov rbx, rsi",
                on_fault!("3b"),
                in("rdi") at,
                inout("rsi") new as u64 => _,
                in("rcx") (new >> 64) as u64,
                inout("rax") old as u64 => low,
                inout("rdx") (old >> 64) as u64 => high,
                out("r8") fault,
                options(nostack),
            );
        }
        let seen = u128::from(high) << 64 | u128::from(low);
        match fault {
            0 if seen == old => Ok(Ok(old)),
            0 => Ok(Err(seen)),
            _ => Err(HostFault),
        }
    }
}

/// Copies between two places of which either may fault.
///
/// # Safety
/// `from` and `to` are in the user half for `len` bytes; the bytes at `to` may be overwritten with anything.
pub(crate) unsafe fn copy(to: u64, from: u64, len: usize) -> Result<(), HostFault> {
    let left: usize;
    // SAFETY: by contract; a fault leaves the instruction with RCX counting what is left, and continues after it.
    unsafe {
        asm!(
            "2: rep movsb",
            "3:",
            on_fault!("3b"),
            inout("rdi") to => _,
            inout("rsi") from => _,
            inout("rcx") len => left,
            options(nostack, preserves_flags),
        );
    }
    if left == 0 { Ok(()) } else { Err(HostFault) }
}

/// One page of client memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct HostPage(u64);

impl HostPage {
    /// A page that is not there: every access to it is a fault.
    pub const NULL: HostPage = HostPage(0);

    /// Reads the word at `offset`. A word that does not fit the page is a fault.
    #[inline(always)]
    pub fn load<T: Word>(self, offset: usize) -> Result<T, HostFault> {
        if offset > PAGE - T::SIZE {
            return Err(HostFault);
        }
        // SAFETY: a HostPage is a page of the user half that the client gave away as guest memory.
        unsafe { T::load(self.0 + offset as u64) }
    }

    /// Writes the word at `offset`. A word that does not fit the page is a fault.
    #[inline(always)]
    pub fn store<T: Word>(self, offset: usize, value: T) -> Result<(), HostFault> {
        if offset > PAGE - T::SIZE {
            return Err(HostFault);
        }
        // SAFETY: as in `load`.
        unsafe { T::store(self.0 + offset as u64, value) }
    }

    /// Replaces `old` by `new` in one locked step, as the processor's LOCK CMPXCHG does (which needs the right to
    /// write even where nothing is replaced); `Ok(Err(seen))` if something else was there. A `u128` that is not
    /// aligned is a fault.
    #[inline]
    pub fn compare_exchange<T: Word>(self, offset: usize, old: T, new: T) -> Result<Result<T, T>, HostFault> {
        if offset > PAGE - T::SIZE || (T::SIZE == 16 && !offset.is_multiple_of(16)) {
            return Err(HostFault);
        }
        // SAFETY: as in `load`.
        unsafe { T::compare_exchange(self.0 + offset as u64, old, new) }
    }

    /// Fills `bytes` from `offset` on; what lies beyond the page is a fault.
    #[inline]
    pub fn read(self, offset: usize, bytes: &mut [u8]) -> Result<(), HostFault> {
        if offset > PAGE || bytes.len() > PAGE - offset {
            return Err(HostFault);
        }
        // SAFETY: as in `load`; `bytes` is ours to write.
        unsafe { copy(bytes.as_mut_ptr() as u64, self.0 + offset as u64, bytes.len()) }
    }

    /// Writes `bytes` from `offset` on; what lies beyond the page is a fault. A fault may leave some of them written.
    #[inline]
    pub fn write(self, offset: usize, bytes: &[u8]) -> Result<(), HostFault> {
        if offset > PAGE || bytes.len() > PAGE - offset {
            return Err(HostFault);
        }
        // SAFETY: as in `load`.
        unsafe { copy(self.0 + offset as u64, bytes.as_ptr() as u64, bytes.len()) }
    }

    /// Where the page is.
    #[inline(always)]
    pub fn address(self) -> HostVirt {
        HostVirt(self.0)
    }
}

impl std::fmt::Debug for HostPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostPage({:#x})", self.0)
    }
}

/// A range of the client's address space, whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRegion {
    start: u64,
    pages: u64,
}

impl HostRegion {
    /// The region of `len` bytes at `address`: both multiples of the page size, all of it in the user half, not
    /// empty. Nothing needs to be mapped there.
    pub fn from_client(address: u64, len: u64) -> Option<HostRegion> {
        let end = address.checked_add(len)?;
        let aligned = address.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE);
        if !aligned || len == 0 || end > USER_END {
            return None;
        }
        // Faults are turned into values only once the handlers are there.
        crate::signal::install_fault_handlers();
        Some(HostRegion {
            start: address,
            pages: len / PAGE_SIZE,
        })
    }

    /// The page number `index` of the region.
    #[inline(always)]
    pub fn page(&self, index: u64) -> Option<HostPage> {
        if index < self.pages {
            Some(HostPage(self.start + index * PAGE_SIZE))
        } else {
            None
        }
    }

    /// Where the region starts.
    pub fn address(&self) -> HostVirt {
        HostVirt(self.start)
    }

    /// How many pages it has; never zero.
    pub fn pages(&self) -> u64 {
        self.pages
    }
}

#[cfg(test)]
mod tests;
