//! exec and posix_spawn: a program that is linked statically is executed by its loader. All others find this library in their
//! environment, if the client hands it on.
//!
//! Not seen: programs that the C library executes by itself, which are shells; and shells are linked dynamically, or else are not
//! served.

use super::fail;
use super::signals::Next;
use super::statics::library;
use ring3_launch::{Started, Static, loadable};
use std::arch::naked_asm;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

type Strings = *const *const c_char;

unsafe extern "C" {
    static environ: Strings;
}

/// The loader's path, and its arguments and environment as arrays that end with null. The strings live as long as this.
struct Arrays {
    path: CString,
    _strings: Vec<CString>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
}

impl Arrays {
    fn new(started: Started) -> Arrays {
        let string = |one: OsString| CString::new(one.into_vec()).unwrap_or_default();
        let split = started.arguments.len();
        let all = started.arguments.into_iter().chain(started.environment);
        let strings: Vec<CString> = all.map(string).collect();
        let pointers = |some: &[CString]| {
            some.iter()
                .map(|one| one.as_ptr())
                .chain([std::ptr::null()])
                .collect()
        };
        Arrays {
            path: string(started.path.into_os_string()),
            arguments: pointers(&strings[..split]),
            environment: pointers(&strings[split..]),
            _strings: strings,
        }
    }
}

/// # Safety
/// An array of strings that ends with null, or null.
unsafe fn strings(array: Strings) -> Vec<OsString> {
    let mut all = Vec::new();
    let mut at = array;
    // SAFETY: by contract.
    unsafe {
        while !at.is_null() && !(*at).is_null() {
            all.push(OsStr::from_bytes(CStr::from_ptr(*at).to_bytes()).to_os_string());
            at = at.add(1);
        }
    }
    all
}

/// # Safety
/// A string.
unsafe fn path<'a>(at: *const c_char) -> &'a Path {
    // SAFETY: by contract.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(at) }.to_bytes()))
}

/// What executes the program in its place, if it is linked statically.
///
/// # Safety
/// Arrays of strings that end with null, or null.
unsafe fn in_place(found: Static, arguments: Strings, environment: Strings) -> Option<Arrays> {
    let library = library()?;
    // SAFETY: by contract.
    let (arguments, environment) = unsafe { (strings(arguments), strings(environment)) };
    Some(Arrays::new(found.started(&library, arguments, &environment)))
}

fn look(program: &Path) -> Option<Static> {
    // Nothing is allocated for most programs: this may be a child of vfork.
    ring3_launch::look(program)?;
    loadable(program, &library()?)
}

/// The first program of that name in the directories of `PATH`, as the C library finds it.
fn search(name: &Path) -> Option<PathBuf> {
    if name.as_os_str().as_bytes().contains(&b'/') {
        return Some(name.to_path_buf());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let may =
        |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(may)
}

/// # Safety
/// As for execve.
unsafe fn execute(program: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: by contract.
    let found = unsafe { look(path(program)).and_then(|found| in_place(found, arguments, environment)) };
    let (program, arguments, environment) = match &found {
        Some(arrays) => (
            arrays.path.as_ptr(),
            arrays.arguments.as_ptr(),
            arrays.environment.as_ptr(),
        ),
        None => (program, arguments, environment),
    };
    // SAFETY: the client's own call, or the loader's, with arrays that live over it.
    super::passed(unsafe { libc::syscall(libc::SYS_execve, program, arguments, environment) })
}

/// As the C library's.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execve(program: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: as given.
    unsafe { execute(program, arguments, environment) }
}

/// As the C library's.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execv(program: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: as given; the environment is the process's.
    unsafe { execute(program, arguments, environ) }
}

static NEXT_EXECVPE: Next = Next::new(c"execvpe");

/// As the C library's.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvpe(name: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    type Function = unsafe extern "C" fn(*const c_char, Strings, Strings) -> c_int;
    // SAFETY: as given.
    let found = search(unsafe { path(name) }).and_then(|program| look(&program));
    // SAFETY: as given.
    if let Some(arrays) = found.and_then(|found| unsafe { in_place(found, arguments, environment) }) {
        // SAFETY: strings and arrays of ours.
        return unsafe {
            execute(
                arrays.path.as_ptr(),
                arrays.arguments.as_ptr(),
                arrays.environment.as_ptr(),
            )
        };
    }
    let next = NEXT_EXECVPE.get();
    if next.is_null() {
        return fail(libc::ENOSYS);
    }
    // SAFETY: the symbol is the C library's function of this type; the arguments are the client's.
    unsafe { std::mem::transmute::<*mut c_void, Function>(next)(name, arguments, environment) }
}

/// As the C library's.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvp(name: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: as given; the environment is the process's.
    unsafe { execvpe(name, arguments, environ) }
}

macro_rules! spawns {
    ($($name:ident $next:ident $string:literal $find:expr;)*) => {$(
        static $next: Next = Next::new($string);

        /// As the C library's.
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            child: *mut libc::pid_t,
            program: *const c_char,
            actions: *const libc::posix_spawn_file_actions_t,
            attributes: *const libc::posix_spawnattr_t,
            arguments: Strings,
            environment: Strings,
        ) -> c_int {
            type Function = unsafe extern "C" fn(
                *mut libc::pid_t,
                *const c_char,
                *const libc::posix_spawn_file_actions_t,
                *const libc::posix_spawnattr_t,
                Strings,
                Strings,
            ) -> c_int;
            let find: fn(&Path) -> Option<PathBuf> = $find;
            // SAFETY: as given.
            let found = super::keeping_errno(|| find(unsafe { path(program) }).and_then(|program| look(&program)));
            // SAFETY: as given.
            let found = found.and_then(|found| unsafe { in_place(found, arguments, environment) });
            let (program, arguments, environment) = match &found {
                Some(arrays) => (arrays.path.as_ptr(), arrays.arguments.as_ptr(), arrays.environment.as_ptr()),
                None => (program, arguments, environment),
            };
            let next = $next.get();
            if next.is_null() {
                return libc::ENOSYS;
            }
            // SAFETY: the symbol is the C library's function of this type; the arguments are the client's, or live over the call.
            unsafe {
                let next = std::mem::transmute::<*mut c_void, Function>(next);
                next(child, program, actions, attributes, arguments, environment)
            }
        }
    )*};
}

spawns! {
    posix_spawn NEXT_SPAWN c"posix_spawn" |program| Some(program.to_path_buf());
    posix_spawnp NEXT_SPAWNP c"posix_spawnp" search;
}

/// As the C library's.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fexecve(fd: c_int, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: as given.
    unsafe { execveat(fd, c"".as_ptr(), arguments, environment, libc::AT_EMPTY_PATH) }
}

/// As the C library's.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execveat(
    dir: c_int,
    program: *const c_char,
    arguments: Strings,
    environment: Strings,
    flags: c_int,
) -> c_int {
    // SAFETY: as given.
    let named = unsafe { path(program) };
    let named = match flags & libc::AT_EMPTY_PATH {
        0 if named.as_os_str().is_empty() => None,
        _ => Some(ring3_launch::at_descriptor(dir, named)),
    };
    // SAFETY: as given.
    let found = named
        .and_then(|named| look(&named))
        .and_then(|found| unsafe { in_place(found, arguments, environment) });
    if let Some(arrays) = found {
        // SAFETY: strings and arrays of ours.
        return unsafe {
            execute(
                arrays.path.as_ptr(),
                arrays.arguments.as_ptr(),
                arrays.environment.as_ptr(),
            )
        };
    }
    // SAFETY: the client's own call, passed on as it is.
    super::passed(unsafe { libc::syscall(libc::SYS_execveat, dir, program, arguments, environment, flags) })
}

// The variadic ones: their arguments are in five registers, and behind the return address on the stack.
macro_rules! variadic {
    ($($name:ident $serve:ident;)*) => {$(
        /// As the C library's.
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(_: *const c_char) -> c_int {
            naked_asm!(
                "push r9",
                "push r8",
                "push rcx",
                "push rdx",
                "push rsi",
                "mov rsi, rsp",
                "call {serve}",
                "add rsp, 40",
                "ret",
                serve = sym $serve,
            )
        }
    )*};
}

variadic! {
    execl serve_execl;
    execlp serve_execlp;
    execle serve_execle;
}

/// The words from the first variadic argument on, to a null and one more.
///
/// # Safety
/// Where the instructions above have put them.
unsafe fn words(at: Strings) -> Vec<*const c_char> {
    const IN_REGISTERS: usize = 5;
    let mut all = Vec::new();
    for n in 0.. {
        // SAFETY: by contract; the word behind the null is within the caller's frame, or its return address.
        all.push(unsafe { *at.add(if n < IN_REGISTERS { n } else { n + 1 }) });
        if n > 0 && all[n - 1].is_null() {
            break;
        }
    }
    all
}

/// # Safety
/// As for execl, by the instructions above.
unsafe extern "C" fn serve_execl(program: *const c_char, at: Strings) -> c_int {
    // SAFETY: by contract.
    unsafe { execute(program, words(at).as_ptr(), environ) }
}

/// # Safety
/// As for execlp, by the instructions above.
unsafe extern "C" fn serve_execlp(name: *const c_char, at: Strings) -> c_int {
    // SAFETY: by contract.
    unsafe { execvpe(name, words(at).as_ptr(), environ) }
}

/// # Safety
/// As for execle, by the instructions above.
unsafe extern "C" fn serve_execle(program: *const c_char, at: Strings) -> c_int {
    // SAFETY: by contract.
    unsafe {
        let words = words(at);
        let environment = words.last().copied().unwrap_or(std::ptr::null());
        execute(program, words.as_ptr(), environment.cast())
    }
}
