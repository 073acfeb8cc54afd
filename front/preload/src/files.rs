//! open, close, ioctl, dup, fcntl.

use super::{cancel, fail, is_device, keeping_errno, outcome, passed, with_path};
use ring3_host::fd::CloseOnExec;
use std::ffi::{c_char, c_int, c_uint, c_ulong};
use std::sync::Once;

/// Opens our device with the flags of the client's open.
fn open_device(flags: c_int) -> c_int {
    if flags & libc::O_DIRECTORY != 0 {
        return fail(libc::ENOTDIR);
    }
    if flags & libc::O_CREAT != 0 && flags & libc::O_EXCL != 0 {
        return fail(libc::EEXIST);
    }
    match keeping_errno(|| ring3_interpose::open_device(cloexec(flags))) {
        Ok(fd) => {
            account_at_exit();
            trace_until_exit();
            fd
        }
        Err(errno) => fail(errno.0),
    }
}

fn cloexec(flags: c_int) -> CloseOnExec {
    if flags & libc::O_CLOEXEC != 0 {
        CloseOnExec::Yes
    } else {
        CloseOnExec::No
    }
}

/// Opens what tells of a parameter of KVM's module, if that is what the client wants to read.
fn open_parameter(path: *const c_char, flags: c_int) -> Option<c_int> {
    if flags & (libc::O_ACCMODE | libc::O_PATH | libc::O_DIRECTORY) != libc::O_RDONLY {
        return None;
    }
    let opened = with_path(path, |path| {
        keeping_errno(|| ring3_interpose::open_parameter(path, cloexec(flags)))
    })?;
    Some(opened.unwrap_or_else(|errno| fail(errno.0)))
}

fn at_exit(work: extern "C" fn()) {
    // SAFETY: the function is there as long as this library, which is never unloaded.
    let registered = unsafe { libc::atexit(work) };
    debug_assert_eq!(registered, 0);
}

/// Has the account written at the end, if one is wanted.
fn account_at_exit() {
    extern "C" fn write() {
        if let Err(error) = ring3_interpose::stats::write() {
            eprintln!("ring3: RING3_STATS: {error}");
        }
    }
    static ONCE: Once = Once::new();
    if ring3_interpose::stats::wanted().is_some() {
        ONCE.call_once(|| at_exit(write));
    }
}

/// Has the trace's summary written at the end, if the process is traced.
fn trace_until_exit() {
    extern "C" fn finish() {
        ring3_interpose::trace::finish();
    }
    static ONCE: Once = Once::new();
    if ring3_interpose::trace::is_traced() {
        ONCE.call_once(|| at_exit(finish));
    }
}

fn open_at(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // O_PATH asks for the file's place, not for the device.
    if is_device(dir, path) && flags & libc::O_PATH == 0 {
        return open_device(flags);
    }
    if let Some(fd) = open_parameter(path, flags) {
        return fd;
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
    __open, __openat;
    __open64, __openat64;
}

// The checked variants take no mode, and whatever is in its register must not be one.
macro_rules! checked_opens {
    ($($name:ident, $at:ident;)*) => {$(
        /// As the C library's.
        ///
        /// # Safety
        /// `path` is a string.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(path: *const c_char, flags: c_int) -> c_int {
            open_at(libc::AT_FDCWD, path, flags, 0)
        }

        /// As the C library's.
        ///
        /// # Safety
        /// `path` is a string.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $at(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
            open_at(dir, path, flags, 0)
        }
    )*};
}

checked_opens! {
    __open_2, __openat_2;
    __open64_2, __openat64_2;
}

/// As the C library's.
///
/// # Safety
/// `arg` is what the request wants.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ioctl(fd: c_int, request: c_ulong, arg: c_ulong) -> c_int {
    if cancel::at_any_moment()
        && let Some(result) = cancel::run(fd, request as u32, arg)
    {
        return result;
    }
    match ring3_interpose::ioctl(fd, request as u32, arg) {
        Some(result) => outcome(result),
        // SAFETY: the client's own call, passed on as it is.
        None => passed(unsafe { libc::syscall(libc::SYS_ioctl, fd, request, arg) }),
    }
}

macro_rules! closes {
    ($($name:ident)*) => {$(
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int) -> c_int {
            ring3_interpose::closing(fd);
            // SAFETY: the client's own call, passed on as it is.
            let result = passed(unsafe { libc::syscall(libc::SYS_close, fd) });
            keeping_errno(|| ring3_interpose::closed(fd));
            result
        }
    )*};
}

closes!(close __close);

fn closing_range(first: c_uint, last: c_uint) {
    let top = c_int::MAX as c_uint;
    ring3_interpose::closing_range(first.min(top) as c_int, last.min(top) as c_int);
}

/// As the C library's.
#[unsafe(no_mangle)]
pub extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if flags as c_uint & libc::CLOSE_RANGE_CLOEXEC == 0 {
        closing_range(first, last);
    }
    // SAFETY: the client's own call, passed on as it is.
    passed(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })
}

/// As the C library's: everything from `first` on.
#[unsafe(no_mangle)]
pub extern "C" fn closefrom(first: c_int) {
    let first = first.max(0) as c_uint;
    closing_range(first, c_uint::MAX);
    // SAFETY: the client's own wish. Kernels before 5.9 lack the call; there the descriptors go one by one.
    let done = keeping_errno(|| unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, 0) });
    if done != 0 {
        // SAFETY: as above.
        let top = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) }.clamp(0, 1 << 20) as c_uint;
        for fd in first..top {
            // SAFETY: as above.
            keeping_errno(|| unsafe { libc::syscall(libc::SYS_close, fd) });
        }
    }
}

fn noted(old: c_int, new: c_int) -> c_int {
    if new >= 0 {
        keeping_errno(|| ring3_interpose::duped(old, new));
    }
    new
}

/// As the C library's.
#[unsafe(no_mangle)]
pub extern "C" fn dup(fd: c_int) -> c_int {
    // SAFETY: the client's own call, passed on as it is.
    noted(fd, passed(unsafe { libc::syscall(libc::SYS_dup, fd) }))
}

macro_rules! dup2s {
    ($($name:ident)*) => {$(
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(old: c_int, new: c_int) -> c_int {
            // SAFETY: the client's own call, passed on as it is.
            noted(old, passed(unsafe { libc::syscall(libc::SYS_dup2, old, new) }))
        }
    )*};
}

dup2s!(dup2 __dup2);

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

fcntls!(fcntl fcntl64 __fcntl);
