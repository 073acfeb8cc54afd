//! Arguments in client memory: the pointers that ioctls carry.
//!
//! The counterpart of the kernel's `copy_from_user` and `copy_to_user`. Any address may be given; one that is not
//! mapped, or not with the right needed, is a [`HostFault`].

use crate::addr::USER_END;
use crate::mem::{HostFault, copy};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An address that the client passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserPtr(u64);

impl UserPtr {
    /// The pointer that an ioctl argument or a pointer field holds.
    pub fn new(address: u64) -> UserPtr {
        crate::signal::install_fault_handlers();
        UserPtr(address)
    }

    /// The address as a number.
    pub fn address(self) -> u64 {
        self.0
    }

    /// The pointer `bytes` further on. It wraps; an address out of range then faults when it is used.
    pub fn offset(self, bytes: u64) -> UserPtr {
        UserPtr(self.0.wrapping_add(bytes))
    }

    fn check(self, len: usize) -> Result<(), HostFault> {
        match self.0.checked_add(len as u64) {
            Some(end) if end <= USER_END => Ok(()),
            _ => Err(HostFault),
        }
    }

    /// Copies a value in.
    pub fn read<T: FromBytes + IntoBytes>(self) -> Result<T, HostFault> {
        let mut value = T::new_zeroed();
        self.read_bytes(value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a value out.
    pub fn write<T: IntoBytes + Immutable + ?Sized>(self, value: &T) -> Result<(), HostFault> {
        self.write_bytes(value.as_bytes())
    }

    /// Copies an array of `count` values in. The caller bounds `count`.
    pub fn read_vec<T: FromBytes + IntoBytes>(self, count: usize) -> Result<Vec<T>, HostFault> {
        let len = size_of::<T>().checked_mul(count).ok_or(HostFault)?;
        self.check(len)?;
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| HostFault)?;
        values.resize_with(count, T::new_zeroed);
        self.read_bytes(values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }

    /// Fills `bytes`.
    pub fn read_bytes(self, bytes: &mut [u8]) -> Result<(), HostFault> {
        self.check(bytes.len())?;
        // SAFETY: the source is in the user half, the destination ours; the copy goes through the exception table.
        unsafe { copy(bytes.as_mut_ptr() as u64, self.0, bytes.len()) }
    }

    /// Writes `bytes`. A fault may leave some of them written.
    pub fn write_bytes(self, bytes: &[u8]) -> Result<(), HostFault> {
        self.check(bytes.len())?;
        // SAFETY: the destination is what the client asked us to overwrite, as the kernel would.
        unsafe { copy(self.0, bytes.as_ptr() as u64, bytes.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_both_ways() {
        let mut there = [1u32, 2, 3];
        let p = UserPtr::new(there.as_mut_ptr() as u64);
        assert_eq!(p.offset(4).read::<u32>(), Ok(2));
        assert_eq!(p.read_vec::<u32>(3), Ok(vec![1, 2, 3]));
        assert_eq!(p.offset(8).write(&7u32), Ok(()));
        assert_eq!(there[2], 7);
    }

    #[test]
    fn wild_pointers_are_faults() {
        for address in [
            0,
            8,
            0x7fff_ffff_fff0,
            0x8000_0000_0000,
            0xffff_8000_0000_0000,
            u64::MAX - 2,
        ] {
            assert_eq!(
                UserPtr::new(address).read::<u64>(),
                Err(HostFault),
                "{address:#x}"
            );
            assert_eq!(UserPtr::new(address).write(&1u64), Err(HostFault), "{address:#x}");
        }
        assert_eq!(UserPtr::new(4096).read_vec::<u64>(usize::MAX), Err(HostFault));
        // Of no bytes, none is missing.
        assert_eq!(UserPtr::new(0).read_bytes(&mut []), Ok(()));
    }
}
