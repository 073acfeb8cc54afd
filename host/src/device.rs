//! A device file as a client uses it: through the C library's `open`, `ioctl` and `mmap`, so that whatever interposes on
//! those symbols sees the calls.
//!
//! This is the one part of this crate that does not call the kernel directly, because it stands on the other side: it is what a
//! program written for KVM does. `libring3.so` must not use it.

use crate::shared::SharedPages;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

/// An open device, or a descriptor that one of its ioctls returned.
#[derive(Debug)]
pub struct DeviceFile(OwnedFd);

impl DeviceFile {
    /// Opens a device for reading and writing.
    pub fn open(path: &str) -> io::Result<DeviceFile> {
        let path = CString::new(path)?;
        // SAFETY: the path is a C string that lives over the call.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        Self::from_result(fd)
    }

    /// Takes over a descriptor.
    pub fn from_fd(fd: OwnedFd) -> DeviceFile {
        DeviceFile(fd)
    }

    /// Takes over the descriptor that an ioctl returned.
    ///
    /// The caller says that nobody else owns it.
    pub fn from_raw(fd: RawFd) -> io::Result<DeviceFile> {
        crate::fd::adopt_raw(fd)
            .map(DeviceFile)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn from_result(fd: RawFd) -> io::Result<DeviceFile> {
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, so it is nobody else's.
        Ok(DeviceFile(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes a request whose argument is a number, or the address of something.
    ///
    /// What the device does with an address is between it and the caller, as with any system call: the caller names memory that
    /// is its own and of the size that the request wants.
    pub fn ioctl(&self, request: u32, arg: u64) -> io::Result<i32> {
        // SAFETY: what may be overwritten is, by the caller's word, a buffer of its own.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request.into(), arg) } {
            -1 => Err(io::Error::last_os_error()),
            result => Ok(result),
        }
    }

    /// Makes a request whose argument is a structure, read and written in place.
    ///
    /// The size that the request's code states must be there; EINVAL otherwise. More may follow, as with lists.
    pub fn ioctl_bytes(&self, request: u32, bytes: &mut [u8]) -> io::Result<i32> {
        let stated = (request >> 16) & 0x3fff;
        if bytes.len() < stated as usize {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        self.ioctl(request, bytes.as_mut_ptr() as u64)
    }

    /// Maps the first `len` bytes, shared.
    pub fn map(&self, len: usize) -> io::Result<SharedPages> {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                rights,
                libc::MAP_SHARED,
                self.0.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: just mapped, by nobody else. A device does not take its pages back.
        Ok(unsafe { SharedPages::adopt(at, len) })
    }
}

impl AsRawFd for DeviceFile {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_refused_by_what_does_not_know_them() {
        let null = DeviceFile::open("/dev/null").unwrap();
        assert_eq!(
            null.ioctl(0xae00, 0).unwrap_err().raw_os_error(),
            Some(libc::ENOTTY)
        );
        assert_eq!(
            null.ioctl_bytes(0x8090_ae81, &mut [0; 8])
                .unwrap_err()
                .raw_os_error(),
            Some(libc::EINVAL)
        );
        assert!(DeviceFile::open("/dev/no such device").is_err());
    }

    #[test]
    fn a_mapping_is_the_file() {
        let file = DeviceFile::from_fd(crate::fd::memfd_create("device", 4096).unwrap());
        let pages = file.map(4096).unwrap();
        pages.store(16, &7u32);
        assert_eq!(file.map(4096).unwrap().load::<u32>(16), 7);
    }
}
