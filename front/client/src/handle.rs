//! What a typed fd stands on: something that takes ioctls.

use crate::Errno;
use ring3_host::shared::SharedPages;
use ring3_uapi::ioctl::arg_size;
use std::fmt::Debug;
use std::os::fd::RawFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A `/dev/kvm`, VM, vCPU or device descriptor of one of the back ends.
pub trait Handle: Debug + Send + Sync {
    /// Makes a request. An argument that is an address names memory of this process.
    fn ioctl(&self, request: u32, arg: u64) -> Result<i64, Errno>;

    /// Takes over a descriptor that a request on this one returned.
    fn adopt(&self, fd: RawFd) -> Result<Box<dyn Handle>, Errno>;

    /// Maps the first `len` bytes.
    fn map(&self, len: usize) -> Result<SharedPages, Errno>;

    /// Its number.
    fn as_raw_fd(&self) -> RawFd;
}

/// Requests by the shape of their argument.
#[derive(Debug)]
pub(crate) struct Fd(pub(crate) Box<dyn Handle>);

impl Fd {
    /// The argument is a number, or not looked at.
    pub(crate) fn value(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        self.0.ioctl(request, arg)
    }

    /// As `value`, for requests that answer nothing but success.
    pub(crate) fn done(&self, request: u32, arg: u64) -> Result<(), Errno> {
        self.value(request, arg).map(drop)
    }

    /// As `value`, for requests that return a descriptor.
    pub(crate) fn open(&self, request: u32, arg: u64) -> Result<Fd, Errno> {
        let fd = self.value(request, arg)?;
        self.0.adopt(fd as RawFd).map(Fd)
    }

    /// Reads and writes a structure in place.
    pub(crate) fn update<T: FromBytes + IntoBytes>(&self, request: u32, value: &mut T) -> Result<i64, Errno> {
        debug_assert!(
            arg_size(request) == size_of::<T>() || arg_size(request) == 0,
            "{request:#x}"
        );
        self.value(request, value.as_mut_bytes().as_mut_ptr() as u64)
    }

    /// Reads a structure.
    pub(crate) fn get<T: FromBytes + IntoBytes>(&self, request: u32) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.update(request, &mut value)?;
        Ok(value)
    }

    /// Writes a structure.
    pub(crate) fn set<T: FromBytes + IntoBytes + Immutable + Copy>(
        &self,
        request: u32,
        value: &T,
    ) -> Result<(), Errno> {
        // A copy: KVM may write to what some of these requests say they only read.
        self.update(request, &mut { *value }).map(drop)
    }
}
