//! open, close, ioctl, dup, fcntl, access.

use super::{fail, is_device, outcome, passed};
use ring3_host::fd::{CloseOnExec, set_cloexec, with_raw};
use std::ffi::{c_char, c_int, c_uint, c_ulong};

/// Opens our device with the flags of the client's open.
fn open_device(flags: c_int) -> c_int {
    match ring3_interpose::open_device() {
        Ok(fd) => {
            if flags & libc::O_CLOEXEC == 0 {
                let _ = with_raw(fd, |fd| set_cloexec(fd, CloseOnExec::No));
            }
            fd
        }
        Err(errno) => fail(errno.0),
    }
}

fn open_at(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    if is_device(path) {
        return open_device(flags);
    }
    // SAFETY: the client's own call, passed on as it is.
    passed(unsafe { libc::syscall(libc::SYS_openat, dir, path, flags, mode) })
}

macro_rules! opens {
    ($($name:ident, $at:ident;)*) => {$(
        /// As the C library's.
        ///
        /// # Safety
        /// `path` is a string.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
            open_at(libc::AT_FDCWD, path, flags, mode)
        }

        /// As the C library's.
        ///
        /// # Safety
        /// `path` is a string.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $at(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
            open_at(dir, path, flags, mode)
        }
    )*};
}

opens! {
    open, openat;
    open64, openat64;
    __open_2, __openat_2;
    __open64_2, __openat64_2;
}

/// As the C library's.
///
/// # Safety
/// `arg` is what the request wants.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, arg: c_ulong) -> c_int {
    match ring3_interpose::ioctl(fd, request as u32, arg) {
        Some(result) => outcome(result),
        // SAFETY: the client's own call, passed on as it is.
        None => passed(unsafe { libc::syscall(libc::SYS_ioctl, fd, request, arg) }),
    }
}

/// As the C library's.
#[unsafe(no_mangle)]
pub extern "C" fn close(fd: c_int) -> c_int {
    ring3_interpose::closing(fd);
    // SAFETY: the client's own call, passed on as it is.
    passed(unsafe { libc::syscall(libc::SYS_close, fd) })
}

/// As the C library's.
#[unsafe(no_mangle)]
pub extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if flags == 0 {
        let top = c_uint::try_from(c_int::MAX).unwrap_or(last);
        ring3_interpose::closing_range(first.min(top) as c_int, last.min(top) as c_int);
    }
    // SAFETY: the client's own call, passed on as it is.
    passed(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })
}

fn noted(old: c_int, new: c_int) -> c_int {
    if new >= 0 {
        ring3_interpose::duped(old, new);
    }
    new
}

/// As the C library's.
#[unsafe(no_mangle)]
pub extern "C" fn dup(fd: c_int) -> c_int {
    // SAFETY: the client's own call, passed on as it is.
    noted(fd, passed(unsafe { libc::syscall(libc::SYS_dup, fd) }))
}

/// As the C library's.
#[unsafe(no_mangle)]
pub extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    // SAFETY: the client's own call, passed on as it is.
    noted(old, passed(unsafe { libc::syscall(libc::SYS_dup2, old, new) }))
}

/// As the C library's.
#[unsafe(no_mangle)]
pub extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    // SAFETY: the client's own call, passed on as it is.
    noted(
        old,
        passed(unsafe { libc::syscall(libc::SYS_dup3, old, new, flags) }),
    )
}

macro_rules! fcntls {
    ($($name:ident)*) => {$(
        /// As the C library's.
        ///
        /// # Safety
        /// `arg` is what the command wants.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(fd: c_int, command: c_int, arg: c_ulong) -> c_int {
            // SAFETY: the client's own call, passed on as it is.
            let result = passed(unsafe { libc::syscall(libc::SYS_fcntl, fd, command, arg) });
            match command {
                libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => noted(fd, result),
                _ => result,
            }
        }
    )*};
}

fcntls!(fcntl fcntl64);

/// As the C library's: `/dev/kvm` is there, and may be read and written.
///
/// # Safety
/// `path` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn access(path: *const c_char, mode: c_int) -> c_int {
    if is_device(path) {
        return if mode & libc::X_OK != 0 {
            fail(libc::EACCES)
        } else {
            0
        };
    }
    // SAFETY: the client's own call, passed on as it is.
    passed(unsafe { libc::syscall(libc::SYS_access, path, mode) })
}
