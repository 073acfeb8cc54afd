//! Whether `/dev/kvm` is there: access and stat. It is, a character device that all may read and write.

use super::{fail, is_device, passed};
use ring3_interpose::FileKind;
use std::ffi::{CStr, c_char, c_int, c_uint};

/// The device's numbers: misc, kvm.
const MAJOR: c_uint = 10;
const MINOR: c_uint = 232;
const MODE: u32 = libc::S_IFCHR | 0o666;

/// A character device to take all the rest from.
const MODEL: &CStr = c"/dev/null";

fn may_access(mode: c_int) -> c_int {
    match mode {
        _ if mode & !(libc::R_OK | libc::W_OK | libc::X_OK) != 0 => fail(libc::EINVAL),
        _ if mode & libc::X_OK != 0 => fail(libc::EACCES),
        _ => 0,
    }
}

/// As the C library's.
///
/// # Safety
/// `path` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn access(path: *const c_char, mode: c_int) -> c_int {
    if is_device(libc::AT_FDCWD, path) {
        return may_access(mode);
    }
    // SAFETY: the client's own call, passed on as it is.
    passed(unsafe { libc::syscall(libc::SYS_access, path, mode) })
}

macro_rules! effective_accesses {
    ($($name:ident)*) => {$(
        /// As the C library's.
        ///
        /// # Safety
        /// `path` is a string.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(path: *const c_char, mode: c_int) -> c_int {
            // SAFETY: as given.
            unsafe { faccessat(libc::AT_FDCWD, path, mode, libc::AT_EACCESS) }
        }
    )*};
}

effective_accesses!(eaccess euidaccess);

/// As the C library's.
///
/// # Safety
/// `path` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int {
    if is_device(dir, path) {
        return may_access(mode);
    }
    if flags == 0 {
        // SAFETY: the client's own call, passed on as it is.
        return passed(unsafe { libc::syscall(libc::SYS_faccessat, dir, path, mode) });
    }
    // SAFETY: the client's own call, passed on as it is.
    passed(unsafe { libc::syscall(libc::SYS_faccessat2, dir, path, mode, flags) })
}

/// What stands behind a descriptor that is asked about, if it is the device.
fn is_device_fd(fd: c_int) -> bool {
    ring3_interpose::kind(fd) == Some(FileKind::System)
}

/// Whether a path relative to `dir`, or `dir` itself where the path may be empty and is, means the device.
fn means_device(dir: c_int, path: *const c_char, flags: c_int) -> bool {
    if flags & libc::AT_EMPTY_PATH != 0 {
        // SAFETY: a path is a string, by stat's own contract; newer kernels allow none at all.
        let empty = path.is_null() || unsafe { *path } == 0;
        if empty {
            return is_device_fd(dir);
        }
    }
    is_device(dir, path)
}

/// The stat system call, with the device there.
fn stat_at(dir: c_int, path: *const c_char, to: *mut libc::stat, flags: c_int) -> c_int {
    let device = means_device(dir, path, flags);
    let (dir, path, flags) = if device {
        (libc::AT_FDCWD, MODEL.as_ptr(), 0)
    } else {
        (dir, path, flags)
    };
    // SAFETY: the client's own call, passed on as it is.
    let result = passed(unsafe { libc::syscall(libc::SYS_newfstatat, dir, path, to, flags) });
    if device && result == 0 {
        // SAFETY: the kernel has just filled it.
        let stat = unsafe { &mut *to };
        stat.st_mode = MODE;
        stat.st_rdev = libc::makedev(MAJOR, MINOR);
    }
    result
}

fn stat_fd(fd: c_int, to: *mut libc::stat) -> c_int {
    if is_device_fd(fd) {
        return stat_at(fd, c"".as_ptr(), to, libc::AT_EMPTY_PATH);
    }
    // SAFETY: the client's own call, passed on as it is.
    passed(unsafe { libc::syscall(libc::SYS_fstat, fd, to) })
}

// The 64-bit variants are the same on x86-64; those with underscores are what older programs call.
macro_rules! stats {
    ($($stat:ident $lstat:ident $fstat:ident $fstatat:ident;)*) => {$(
        /// As the C library's.
        ///
        /// # Safety
        /// `path` is a string; `to` is for the result.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $stat(path: *const c_char, to: *mut libc::stat) -> c_int {
            stat_at(libc::AT_FDCWD, path, to, 0)
        }

        /// As the C library's.
        ///
        /// # Safety
        /// `path` is a string; `to` is for the result.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $lstat(path: *const c_char, to: *mut libc::stat) -> c_int {
            stat_at(libc::AT_FDCWD, path, to, libc::AT_SYMLINK_NOFOLLOW)
        }

        /// As the C library's.
        ///
        /// # Safety
        /// `to` is for the result.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $fstat(fd: c_int, to: *mut libc::stat) -> c_int {
            stat_fd(fd, to)
        }

        /// As the C library's.
        ///
        /// # Safety
        /// `path` is a string; `to` is for the result.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $fstatat(
            dir: c_int,
            path: *const c_char,
            to: *mut libc::stat,
            flags: c_int,
        ) -> c_int {
            stat_at(dir, path, to, flags)
        }
    )*};
}

stats! {
    stat lstat fstat fstatat;
    stat64 lstat64 fstat64 fstatat64;
}

macro_rules! versioned_stats {
    ($($stat:ident $lstat:ident $fstat:ident $fstatat:ident;)*) => {$(
        /// As the C library's.
        ///
        /// # Safety
        /// `path` is a string; `to` is for the result.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $stat(_: c_int, path: *const c_char, to: *mut libc::stat) -> c_int {
            stat_at(libc::AT_FDCWD, path, to, 0)
        }

        /// As the C library's.
        ///
        /// # Safety
        /// `path` is a string; `to` is for the result.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $lstat(_: c_int, path: *const c_char, to: *mut libc::stat) -> c_int {
            stat_at(libc::AT_FDCWD, path, to, libc::AT_SYMLINK_NOFOLLOW)
        }

        /// As the C library's.
        ///
        /// # Safety
        /// `to` is for the result.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $fstat(_: c_int, fd: c_int, to: *mut libc::stat) -> c_int {
            stat_fd(fd, to)
        }

        /// As the C library's.
        ///
        /// # Safety
        /// `path` is a string; `to` is for the result.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $fstatat(
            _: c_int,
            dir: c_int,
            path: *const c_char,
            to: *mut libc::stat,
            flags: c_int,
        ) -> c_int {
            stat_at(dir, path, to, flags)
        }
    )*};
}

versioned_stats! {
    __xstat __lxstat __fxstat __fxstatat;
    __xstat64 __lxstat64 __fxstat64 __fxstatat64;
}

/// As the C library's.
///
/// # Safety
/// `path` is a string; `to` is for the result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn statx(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    to: *mut libc::statx,
) -> c_int {
    let device = means_device(dir, path, flags);
    let (dir, path, flags) = if device {
        (libc::AT_FDCWD, MODEL.as_ptr(), 0)
    } else {
        (dir, path, flags)
    };
    // SAFETY: the client's own call, passed on as it is.
    let result = passed(unsafe { libc::syscall(libc::SYS_statx, dir, path, flags, mask, to) });
    if device && result == 0 {
        // SAFETY: the kernel has just filled it.
        let statx = unsafe { &mut *to };
        statx.stx_mode = MODE as u16;
        (statx.stx_rdev_major, statx.stx_rdev_minor) = (MAJOR, MINOR);
    }
    result
}
