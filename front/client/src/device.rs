//! The back end that makes real ioctls.

use crate::{Errno, Handle};
use ring3_host::device::DeviceFile;
use ring3_host::shared::SharedPages;
use std::os::fd::{AsRawFd, RawFd};

impl Handle for DeviceFile {
    fn ioctl(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        Ok(DeviceFile::ioctl(self, request, arg)?.into())
    }

    fn adopt(&self, fd: RawFd) -> Result<Box<dyn Handle>, Errno> {
        Ok(Box::new(DeviceFile::from_raw(fd)?))
    }

    fn map(&self, len: usize) -> Result<SharedPages, Errno> {
        Ok(DeviceFile::map(self, len)?)
    }

    fn as_raw_fd(&self) -> RawFd {
        AsRawFd::as_raw_fd(self)
    }
}

/// Opens a device.
pub fn open(path: &str) -> Result<Box<dyn Handle>, Errno> {
    Ok(Box::new(DeviceFile::open(path)?))
}
