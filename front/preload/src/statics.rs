//! Static clients: the loader's entry, and where this library is.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The file that this code is in.
pub(super) fn library() -> Option<PathBuf> {
    // SAFETY: the structure is for the answer; the address is one of this library's.
    let name = unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let found = libc::dladdr(ring3_serve_static as *const libc::c_void, &mut info);
        (found != 0 && !info.dli_fname.is_null()).then(|| CStr::from_ptr(info.dli_fname))?
    };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// What `ring3-static` does: becomes the static program that it was started for. Returns only if that fails.
///
/// # Safety
/// Called by `main`, with its arguments, as the first thing in the process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ring3_serve_static(
    _: c_int,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> c_int {
    // SAFETY: by contract.
    unsafe { ring3_loader::serve(library().unwrap_or_default(), arguments, environment) }
}
