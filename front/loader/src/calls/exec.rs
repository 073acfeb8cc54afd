//! Other programs in the process's place: linked statically, they are loaded as this one was; linked dynamically, they find
//! `libring3.so` in their environment.

use super::files::path_at;
use super::{Call, Outcome, failed};
use crate::process::is_own_program;
use crate::seccomp;
use crate::signal::{for_kernel, set_kernel_mask};
use crate::thread::Thread;
use ring3_host::mem::HostFault;
use ring3_host::user::UserPtr;
use ring3_launch::{FILTERS, LOADER, entry};
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

/// Strings that there may be; Linux looks at their bytes instead.
const MOST: usize = 1 << 20;

/// What execve is asked for.
struct Wanted {
    path: CString,
    arguments: Vec<OsString>,
    environment: Vec<OsString>,
}

pub fn execve(thread: &Thread, call: &Call) -> Outcome {
    let [path, arguments, environment, ..] = call.arguments;
    let Some(mut path) = path_at(path) else {
        return failed(libc::EFAULT);
    };
    if is_own_program(path.to_bytes()) {
        path = CString::new(thread.process().program.as_os_str().as_bytes()).unwrap_or_default();
    }
    execute(thread, path, arguments, environment)
}

pub fn execveat(thread: &Thread, call: &Call) -> Outcome {
    let [dir, path, arguments, environment, flags, _] = call.arguments;
    let Some(path) = path_at(path) else {
        return failed(libc::EFAULT);
    };
    let bytes = path.to_bytes();
    if bytes.starts_with(b"/") || dir as i32 == libc::AT_FDCWD && !bytes.is_empty() {
        return execute(thread, path, arguments, environment);
    }
    if bytes.is_empty() && flags as i32 & libc::AT_EMPTY_PATH == 0 {
        return failed(libc::ENOENT);
    }
    let link = PathBuf::from(format!("/proc/self/fd/{}", dir as i32));
    let named = if bytes.is_empty() {
        link.clone()
    } else {
        link.join(OsStr::from_bytes(bytes))
    };
    let named = match std::fs::canonicalize(&named) {
        Ok(named) => named,
        // A file without a name. Its descriptor has to be there when the loader opens it.
        Err(_) if ring3_launch::look(&link).is_some() => match rustix::io::dup(borrowed(dir)) {
            Ok(kept) => {
                use std::os::fd::IntoRawFd;
                PathBuf::from(format!("/proc/self/fd/{}", kept.into_raw_fd()))
            }
            Err(error) => return failed(error.raw_os_error()),
        },
        Err(_) => named,
    };
    let path = CString::new(named.into_os_string().into_vec()).unwrap_or_default();
    execute(thread, path, arguments, environment)
}

fn borrowed<'a>(fd: u64) -> std::os::fd::BorrowedFd<'a> {
    // SAFETY: the client's number, used for one call, to which the kernel answers EBADF if it is none.
    unsafe { std::os::fd::BorrowedFd::borrow_raw((fd as i32).max(0)) }
}

fn execute(thread: &Thread, path: CString, arguments: u64, environment: u64) -> Outcome {
    let (Ok(arguments), Ok(environment)) = (strings(arguments), strings(environment)) else {
        return failed(libc::EFAULT);
    };
    let wanted = Wanted {
        path,
        arguments,
        environment,
    };
    let library = &thread.process().library;
    let loader = library.with_file_name(LOADER);
    let program = Path::new(OsStr::from_bytes(wanted.path.to_bytes()));
    let found = ring3_launch::look(program).filter(|_| may_execute(program));
    let filters = match seccomp::handed::file(thread).transpose() {
        Ok(filters) => filters,
        Err(error) => return failed(error.raw_os_error().unwrap_or(libc::ENOMEM)),
    };
    let wanted = match found {
        Some(found) if loader.is_file() => Wanted {
            path: CString::new(loader.into_os_string().into_vec()).unwrap_or_default(),
            arguments: if found.instead.is_empty() {
                wanted.arguments
            } else {
                found
                    .instead
                    .into_iter()
                    .chain(wanted.arguments.into_iter().skip(1))
                    .collect()
            },
            environment: {
                let mut all = ring3_launch::environment(&wanted.environment, library, Some(&found.program));
                all.extend(
                    filters
                        .as_ref()
                        .map(|fd| entry(FILTERS, fd.as_raw_fd().to_string().as_ref())),
                );
                all
            },
        },
        _ => Wanted {
            environment: ring3_launch::environment(&wanted.environment, library, None),
            ..wanted
        },
    };
    become_program(thread, &wanted)
}

fn may_execute(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Strings by an array of their addresses, which may be missing.
fn strings(array: u64) -> Result<Vec<OsString>, HostFault> {
    let mut all = Vec::new();
    if array == 0 {
        return Ok(all);
    }
    while all.len() < MOST {
        let at: u64 = UserPtr::new(array).offset(8 * all.len() as u64).read()?;
        if at == 0 {
            return Ok(all);
        }
        all.push(OsString::from_vec(string(at)?));
    }
    Err(HostFault)
}

/// A string of any length that Linux would take.
fn string(address: u64) -> Result<Vec<u8>, HostFault> {
    const PAGE: u64 = 4096;
    const LONGEST: usize = 32 * PAGE as usize;
    let mut bytes = Vec::new();
    while bytes.len() < LONGEST {
        let at = address + bytes.len() as u64;
        let room = (PAGE - at % PAGE).min(256) as usize;
        let from = bytes.len();
        bytes.resize(from + room, 0);
        UserPtr::new(at).read_bytes(&mut bytes[from..])?;
        if let Some(end) = bytes[from..].iter().position(|byte| *byte == 0) {
            bytes.truncate(from + end);
            return Ok(bytes);
        }
    }
    Err(HostFault)
}

/// The system call. What the kernel hands on to the new program, the mask and what is ignored, is the client's.
fn become_program(thread: &Thread, wanted: &Wanted) -> Outcome {
    let c_strings = |all: &[OsString]| -> Vec<CString> {
        all.iter()
            .map(|one| CString::new(one.as_bytes()).unwrap_or_default())
            .collect()
    };
    let (arguments, environment) = (c_strings(&wanted.arguments), c_strings(&wanted.environment));
    let pointers = |all: &[CString]| -> Vec<*const libc::c_char> {
        all.iter()
            .map(|one| one.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    let actions = &thread.process().actions;
    let mask = thread.mask.load(Relaxed);
    crate::signal::block_all();
    actions.leave_to_kernel();
    set_kernel_mask(mask);
    // SAFETY: the path and the strings are there, in arrays that end with null. It returns only if it fails.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execve,
            wanted.path.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
        )
    };
    let outcome = super::of_library(result);
    actions.take_from_kernel();
    set_kernel_mask(for_kernel(mask));
    outcome
}
