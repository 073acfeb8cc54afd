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
use ring3_launch::{FILTERS, Started, entry};
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

/// Strings that there may be; Linux looks at their bytes instead.
const MOST: usize = 1 << 20;

pub fn execve(thread: &Thread, call: &Call) -> Outcome {
    let [path, arguments, environment, ..] = call.arguments;
    let Some(path) = path_at(path) else {
        return failed(libc::EFAULT);
    };
    if is_own_program(path.to_bytes()) {
        return execute(thread, thread.process().program.clone(), arguments, environment);
    }
    let path = PathBuf::from(OsString::from_vec(path.into_bytes()));
    execute(thread, path, arguments, environment)
}

pub fn execveat(thread: &Thread, call: &Call) -> Outcome {
    let [dir, path, arguments, environment, flags, _] = call.arguments;
    let Some(path) = path_at(path) else {
        return failed(libc::EFAULT);
    };
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    if path.as_os_str().is_empty() && flags as i32 & libc::AT_EMPTY_PATH == 0 {
        return failed(libc::ENOENT);
    }
    let named = ring3_launch::at_descriptor(dir as i32, path);
    execute(thread, named, arguments, environment)
}

fn execute(thread: &Thread, program: PathBuf, arguments: u64, environment: u64) -> Outcome {
    let (Ok(arguments), Ok(environment)) = (strings(arguments), strings(environment)) else {
        return failed(libc::EFAULT);
    };
    let library = &thread.process().library;
    let started = match ring3_launch::loadable(&program, library) {
        Some(found) => {
            let filters = match seccomp::handed::file(thread).transpose() {
                Ok(filters) => filters,
                Err(error) => return failed(error.raw_os_error().unwrap_or(libc::ENOMEM)),
            };
            let mut started = found.started(library, arguments, &environment);
            let handed = |fd: &OwnedFd| entry(FILTERS, fd.as_raw_fd().to_string().as_ref());
            started.environment.extend(filters.as_ref().map(handed));
            return become_program(thread, &started);
        }
        None => Started {
            path: program,
            arguments,
            environment: ring3_launch::environment(&environment, library, None),
        },
    };
    become_program(thread, &started)
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
fn become_program(thread: &Thread, wanted: &Started) -> Outcome {
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
    let path = CString::new(wanted.path.as_os_str().as_bytes()).unwrap_or_default();
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    let actions = &thread.process().actions;
    let mask = thread.mask.load(Relaxed);
    crate::signal::block_all();
    actions.leave_to_kernel();
    set_kernel_mask(mask);
    // SAFETY: the path and the strings are there, in arrays that end with null. It returns only if it fails.
    let result = unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    let outcome = super::of_library(result);
    actions.take_from_kernel();
    set_kernel_mask(for_kernel(mask));
    outcome
}
