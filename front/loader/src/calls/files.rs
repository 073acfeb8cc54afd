//! Calls about files: those that may be KVM's, and the process's own program.

use super::{Call, Outcome, done, failed, of_library};
use crate::process::is_own_program;
use crate::signal::calls::fault;
use crate::thread::Thread;
use ring3_host::user::UserPtr;
use ring3_interpose::{FileKind, path};
use std::ffi::{CStr, CString, c_int};
use std::os::unix::ffi::OsStrExt;

const HERE: u64 = libc::AT_FDCWD as u64;
/// As long as a path may be, with its zero.
const LONGEST: usize = 4096;
const PAGE: u64 = 4096;

/// A path from the client's memory; `None` if there is none, about which the kernel may complain.
pub fn path_at(address: u64) -> Option<CString> {
    let mut bytes = Vec::new();
    let mut at = address;
    while bytes.len() < LONGEST {
        // What follows in the same page is there, if anything is.
        let room = (PAGE - at % PAGE).min(256) as usize;
        let from = bytes.len();
        bytes.resize(from + room, 0);
        UserPtr::new(at).read_bytes(&mut bytes[from..]).ok()?;
        if let Some(end) = bytes[from..].iter().position(|byte| *byte == 0) {
            bytes.truncate(from + end);
            return CString::new(bytes).ok();
        }
        at += room as u64;
    }
    None
}

/// What a path of the client's means.
enum Means {
    /// Nothing to ring3.
    Other,
    /// The device, or a file about it.
    Kvm(CString),
    /// The program that runs.
    Program(CString),
}

fn meaning(thread: &Thread, dir: u64, address: u64) -> Means {
    let Some(path) = path_at(address) else {
        return Means::Other;
    };
    let bytes = path.to_bytes();
    if path::is_device(dir as c_int, bytes) || path::module_parameter(bytes).is_some() {
        Means::Kvm(path)
    } else if is_own_program(bytes) {
        CString::new(thread.process().program.as_os_str().as_bytes()).map_or(Means::Other, Means::Program)
    } else {
        Means::Other
    }
}

fn is_ours(fd: u64) -> bool {
    ring3_interpose::kind(fd as c_int).is_some()
}

/// The call as it is, but for the program's path in place of `/proc/self/exe`. The path lives until the call is made.
fn pass_with_program(thread: &Thread, call: &Call, index: usize, path: &CStr) -> Outcome {
    call.with(index, path.as_ptr() as u64).pass(thread)
}

fn open_at(thread: &Thread, call: &Call, index: usize, dir: u64, flags: [u64; 2]) -> Outcome {
    match meaning(thread, dir, call.arguments[index]) {
        Means::Other => call.pass(thread),
        Means::Program(path) => pass_with_program(thread, call, index, &path),
        Means::Kvm(path) => {
            let [flags, mode] = flags.map(|word| word as c_int);
            // SAFETY: the path is a string.
            of_library(unsafe { libc::openat(dir as c_int, path.as_ptr(), flags, mode) }.into())
        }
    }
}

pub fn open(thread: &Thread, call: &Call) -> Outcome {
    let [_, flags, mode, ..] = call.arguments;
    open_at(thread, call, 0, HERE, [flags, mode])
}

pub fn openat(thread: &Thread, call: &Call) -> Outcome {
    let [dir, _, flags, mode, ..] = call.arguments;
    open_at(thread, call, 1, dir, [flags, mode])
}

pub fn openat2(thread: &Thread, call: &Call) -> Outcome {
    let [dir, _, how, ..] = call.arguments;
    match UserPtr::new(how).read::<[u64; 2]>() {
        Ok(flags) => open_at(thread, call, 1, dir, flags),
        Err(missing) => failed(fault(missing)),
    }
}

fn access_at(thread: &Thread, call: &Call, index: usize, dir: u64, [mode, flags]: [u64; 2]) -> Outcome {
    match meaning(thread, dir, call.arguments[index]) {
        Means::Other => call.pass(thread),
        Means::Program(path) => pass_with_program(thread, call, index, &path),
        Means::Kvm(path) => {
            let (mode, flags) = (mode as c_int, flags as c_int);
            // SAFETY: the path is a string.
            of_library(unsafe { libc::faccessat(dir as c_int, path.as_ptr(), mode, flags) }.into())
        }
    }
}

pub fn access(thread: &Thread, call: &Call) -> Outcome {
    access_at(thread, call, 0, HERE, [call.arguments[1], 0])
}

pub fn faccessat(thread: &Thread, call: &Call) -> Outcome {
    access_at(thread, call, 1, call.arguments[0], [call.arguments[2], 0])
}

pub fn faccessat2(thread: &Thread, call: &Call) -> Outcome {
    let [dir, _, mode, flags, ..] = call.arguments;
    access_at(thread, call, 1, dir, [mode, flags])
}

/// The device, or a descriptor of it, is asked about into a structure of ours, which the client gets if its memory is there.
fn stat_ours(dir: u64, path: &CStr, flags: c_int, to: u64) -> Outcome {
    // SAFETY: zeroes are a stat; the path is a string.
    let (result, stat) = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstatat(dir as c_int, path.as_ptr(), &mut stat, flags), stat)
    };
    match of_library(result.into()) {
        // SAFETY: plain data, all of whose bytes the kernel wrote, or we did.
        Outcome::Value(0) => give(to, unsafe { bytes_of(&stat) }),
        other => other,
    }
}

/// # Safety
/// `T` is without padding that was never written.
unsafe fn bytes_of<T>(value: &T) -> &[u8] {
    // SAFETY: as many bytes as there are, by contract all written.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn give(to: u64, bytes: &[u8]) -> Outcome {
    done(UserPtr::new(to).write_bytes(bytes).map(|()| 0).map_err(fault))
}

fn stat_at(thread: &Thread, call: &Call, index: usize, dir: u64, [to, flags]: [u64; 2]) -> Outcome {
    let flags = flags as c_int;
    if flags & libc::AT_EMPTY_PATH != 0 && ring3_interpose::kind(dir as c_int) == Some(FileKind::System) {
        let path = path_at(call.arguments[index]).unwrap_or_default();
        if path.is_empty() {
            return stat_ours(dir, c"", flags, to);
        }
    }
    match meaning(thread, dir, call.arguments[index]) {
        Means::Program(path) if flags & libc::AT_SYMLINK_NOFOLLOW == 0 => {
            pass_with_program(thread, call, index, &path)
        }
        Means::Kvm(path) => stat_ours(dir, &path, flags, to),
        _ => call.pass(thread),
    }
}

pub fn stat(thread: &Thread, call: &Call) -> Outcome {
    stat_at(thread, call, 0, HERE, [call.arguments[1], 0])
}

pub fn lstat(thread: &Thread, call: &Call) -> Outcome {
    let flags = libc::AT_SYMLINK_NOFOLLOW as u64;
    stat_at(thread, call, 0, HERE, [call.arguments[1], flags])
}

pub fn fstatat(thread: &Thread, call: &Call) -> Outcome {
    let [dir, _, to, flags, ..] = call.arguments;
    stat_at(thread, call, 1, dir, [to, flags])
}

pub fn fstat(thread: &Thread, call: &Call) -> Outcome {
    let [fd, to, ..] = call.arguments;
    match ring3_interpose::kind(fd as c_int) {
        Some(FileKind::System) => stat_ours(fd, c"", libc::AT_EMPTY_PATH, to),
        _ => call.pass(thread),
    }
}

pub fn statx(thread: &Thread, call: &Call) -> Outcome {
    let [dir, path, flags, mask, to, _] = call.arguments;
    let flags = flags as c_int;
    let ours = ring3_interpose::kind(dir as c_int) == Some(FileKind::System);
    let path = match meaning(thread, dir, path) {
        Means::Kvm(path) => path,
        Means::Program(path) if flags & libc::AT_SYMLINK_NOFOLLOW == 0 => {
            return pass_with_program(thread, call, 1, &path);
        }
        _ if ours && flags & libc::AT_EMPTY_PATH != 0 && path_at(path).unwrap_or_default().is_empty() => {
            CString::default()
        }
        _ => return call.pass(thread),
    };
    // SAFETY: zeroes are a statx; the path is a string.
    let (result, statx) = unsafe {
        let mut statx: libc::statx = std::mem::zeroed();
        (
            libc::statx(dir as c_int, path.as_ptr(), flags, mask as u32, &mut statx),
            statx,
        )
    };
    match of_library(result.into()) {
        // SAFETY: plain data, all of whose bytes the kernel wrote, or we did.
        Outcome::Value(0) => give(to, unsafe { bytes_of(&statx) }),
        other => other,
    }
}

fn readlink_at(thread: &Thread, call: &Call, index: usize) -> Outcome {
    let [_, to, len, ..] = call.arguments[index..] else {
        return call.pass(thread);
    };
    let own = path_at(call.arguments[index]).is_some_and(|path| is_own_program(path.to_bytes()));
    if !own {
        return call.pass(thread);
    }
    let path = thread.process().program.as_os_str().as_bytes();
    match (len as i32).cmp(&0) {
        std::cmp::Ordering::Greater => {
            let part = &path[..path.len().min(len as usize)];
            done(
                UserPtr::new(to)
                    .write_bytes(part)
                    .map(|()| part.len() as i64)
                    .map_err(fault),
            )
        }
        _ => failed(libc::EINVAL),
    }
}

pub fn readlink(thread: &Thread, call: &Call) -> Outcome {
    readlink_at(thread, call, 0)
}

pub fn readlinkat(thread: &Thread, call: &Call) -> Outcome {
    readlink_at(thread, call, 1)
}

/// KVM's requests, by the type in their number.
const KVM: u64 = 0xae;

pub fn ioctl(thread: &Thread, call: &Call) -> Outcome {
    let [fd, request, argument, ..] = call.arguments;
    if !is_ours(fd) && request >> 8 & 0xff != KVM {
        return call.pass(thread);
    }
    // SAFETY: the client's own request.
    of_library(unsafe { libc::ioctl(fd as c_int, request, argument) }.into())
}

macro_rules! served {
    ($($name:ident($fd:ident $(, $argument:ident: $type:ty)*) = $function:ident, if $when:expr;)*) => {$(
        pub fn $name(thread: &Thread, call: &Call) -> Outcome {
            #[allow(unused_variables)]
            let [$fd $(, $argument)*, ..] = call.arguments;
            if !$when {
                return call.pass(thread);
            }
            // SAFETY: the client's own call, of whose arguments the function asks no more than the kernel does.
            of_library(unsafe { libc::$function($fd as _ $(, $argument as $type)*) } as i64)
        }
    )*};
}

/// What only reading a guest_memfd is refused for.
fn may_not_be_read(fd: u64) -> bool {
    ring3_interpose::kind(fd as c_int) == Some(FileKind::GuestMemfd)
}

served! {
    close(fd) = close, if ring3_interpose::is_open();
    close_range(first, last: u32, flags: c_int) = close_range, if ring3_interpose::is_open();
    dup(fd) = dup, if ring3_interpose::is_open();
    dup2(old, new: c_int) = dup2, if ring3_interpose::is_open();
    dup3(old, new: c_int, flags: c_int) = dup3, if ring3_interpose::is_open();
    read(fd, to: *mut libc::c_void, len: usize) = read, if may_not_be_read(fd);
    pread(fd, to: *mut libc::c_void, len: usize, at: i64) = pread, if may_not_be_read(fd);
    readv(fd, to: *const libc::iovec, count: c_int) = readv, if may_not_be_read(fd);
    preadv(fd, to: *const libc::iovec, count: c_int, at: i64) = preadv, if may_not_be_read(fd);
    fallocate(fd, mode: c_int, at: i64, len: i64) = fallocate, if is_ours(fd);
}

pub fn fcntl(thread: &Thread, call: &Call) -> Outcome {
    let [fd, command, argument, ..] = call.arguments;
    let copies = matches!(command as c_int, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC);
    if !copies || !ring3_interpose::is_open() {
        return call.pass(thread);
    }
    // SAFETY: the command takes a number.
    of_library(unsafe { libc::fcntl(fd as c_int, command as c_int, argument) }.into())
}
