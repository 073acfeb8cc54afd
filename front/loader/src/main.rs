//! `ring3-static`: the program that a static client is loaded into. All that it does is in `libring3.so`, which is preloaded.
#![no_main]

use std::ffi::{c_char, c_int};

/// What the process begins with.
///
/// # Safety
/// The C library's start-up calls it, with the process's arguments and environment.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(
    count: c_int,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> c_int {
    type Serve = unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char) -> c_int;
    // SAFETY: the name is a string.
    let serve = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"ring3_serve_static".as_ptr()) };
    if serve.is_null() {
        eprintln!("ring3-static: libring3.so is not preloaded: this program is started by `ring3 run`");
        return 126;
    }
    // SAFETY: the symbol is a function of this type; the arguments are those that it wants.
    unsafe { std::mem::transmute::<*mut libc::c_void, Serve>(serve)(count, arguments, environment) }
}
