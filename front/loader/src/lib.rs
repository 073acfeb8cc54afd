//! Static clients: programs without a C library that `libring3.so` could stand before.
//!
//! Such a program is mapped into a process that has ring3 ([`image`], [`stack`]), and every system call that it makes is caught
//! ([`catch`]). The instructions between the client's code and ring3's ([`entry`]) change stack and thread-local storage; what the
//! client then asks for is done by [`dispatch`] and [`calls`], which call the kernel, or the C library's functions that
//! `libring3.so` stands before, as a client does that is linked dynamically. Signals are the client's ([`signal`]), and its own
//! seccomp filters are evaluated here ([`seccomp`]), since in the kernel they would be ring3's, too.
//!
//! Not supported: 32-bit system calls, processes that share memory otherwise than by `vfork`, and programs that
//! gain privileges when they are executed.

mod area;
mod calls;
mod catch;
mod cpuid;
mod dispatch;
mod elf;
mod entry;
mod image;
mod process;
mod seccomp;
mod signal;
mod sites;
mod stack;
mod thread;

use image::Image;
use process::Process;
use ring3_host::signal::front;
use ring3_launch::{FILTERS, PROGRAM};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use seccomp::Filters;
use signal::actions;
use stack::Start;
use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use thread::{REG_CSGSFS, REG_EFL, REG_RIP, REG_RSP, Thread};

/// Ends the process because of what makes going on impossible.
fn die(why: &str) -> ! {
    eprintln!("ring3: {why}");
    // SAFETY: it does not return.
    unsafe { libc::_exit(126) }
}

/// Loads the program that the environment names, and runs it with the process's arguments. `library` is where this code is. Returns
/// only if the program cannot be loaded.
///
/// # Safety
/// Only the first thread may call this, as the first thing in the process, with what the C library's start-up passes to `main`.
pub unsafe fn serve(
    library: PathBuf,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> c_int {
    // SAFETY: by contract.
    let (arguments, environment) = unsafe { (strings(arguments), strings(environment)) };
    let Some(named) = std::env::var_os(PROGRAM) else {
        eprintln!("ring3: {PROGRAM} names no program to load: it is set by `ring3 run`");
        return 126;
    };
    match begin(library, &named, &arguments, &environment) {
        Ok(thread) => {
            calls::begin_first(thread);
            // SAFETY: the registers are those of a program at its beginning; nothing on this stack is needed any more.
            unsafe { entry::run(thread) };
            0
        }
        Err(why) => {
            eprintln!("ring3: {}: {why}", Path::new(&named).display());
            126
        }
    }
}

/// # Safety
/// An array of strings that ends with null.
unsafe fn strings(array: *const *const c_char) -> Vec<OsString> {
    let string = |at: *const c_char| {
        // SAFETY: by contract.
        OsStr::from_bytes(unsafe { CStr::from_ptr(at) }.to_bytes()).to_os_string()
    };
    // SAFETY: by contract.
    (0..)
        .map(|n| unsafe { *array.add(n) })
        .take_while(|at| !at.is_null())
        .map(string)
        .collect()
}

fn begin(
    library: PathBuf,
    named: &OsString,
    arguments: &[OsString],
    environment: &[OsString],
) -> Result<&'static Thread, String> {
    let system = |what: &'static str| move |error: rustix::io::Errno| format!("{what}: {error}");
    find_features()?;
    let path = Path::new(named);
    let image = image::load(path)?;
    let environment = ring3_launch::clients_environment(environment, &library);
    let stack = lay_stack(&image, arguments, &environment, named).map_err(system("its stack"))?;
    settle_library();
    area::reserve().map_err(system("room for threads"))?;
    let program = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let process = Box::leak(Box::new(Process::new(program, library, image.span.end)));
    name_process(path);
    catch::begin().map_err(|_| "this kernel offers no way to catch system calls".to_string())?;
    let filters = match std::env::var(FILTERS) {
        Ok(handed) => seccomp::handed::take(&handed).map_err(|why| format!("{FILTERS}: {why}"))?,
        Err(_) => Filters::None,
    };
    let area = area::take().map_err(system("room for a thread"))?;
    // SAFETY: the area is new.
    let thread = unsafe { Thread::begin(area, process, filters) };
    process.has_only(thread);
    signal::reset(&thread.extended);
    thread.set_register(REG_RIP, image.entry);
    thread.set_register(REG_RSP, stack);
    thread.set_register(REG_EFL, 0x202);
    thread.set_register(REG_CSGSFS, 0);
    front::leave_signals(actions::handle);
    actions::own();
    cpuid::begin();
    sites::begin(&image);
    Ok(thread)
}

/// The C library does things when it makes its first thread that must not be seen later, such as handling a signal.
fn settle_library() {
    let _ = std::thread::spawn(|| ()).join();
}

/// The process is called as its program is.
fn name_process(path: &Path) {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let mut short = [0u8; 16];
    let len = name.len().min(15);
    short[..len].copy_from_slice(&name[..len]);
    // SAFETY: the kernel reads at most sixteen bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, short.as_ptr()) };
}

/// What the instructions of [`entry`] need to know of the processor.
fn find_features() -> Result<(), String> {
    const FSGSBASE: usize = 2;
    const OSXSAVE: u32 = 1 << 27;
    /// All up to AVX-512's, without MPX and what the kernel hands out on request.
    const PARTS: u32 = 0xe7;
    if std::arch::x86_64::__cpuid(1).ecx & OSXSAVE == 0 {
        return Err("the processor has no XSAVE".to_string());
    }
    let enabled: u32;
    // SAFETY: the processor has the instruction, and the system has it enabled.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack))
    };
    entry::PARTS.store(enabled & PARTS, Relaxed);
    let fsgsbase = rustix::param::linux_hwcap().1 & FSGSBASE != 0;
    entry::FSGSBASE.store(fsgsbase.into(), Relaxed);
    Ok(())
}

/// Makes the client's stack, and says where its pointer is.
fn lay_stack(
    image: &Image,
    arguments: &[OsString],
    environment: &[OsString],
    path: &OsString,
) -> rustix::io::Result<u64> {
    const LEAST: u64 = 1 << 20;
    const MOST: u64 = 1 << 30;
    const USUAL: u64 = 8 << 20;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Stack).current;
    let size = limit
        .unwrap_or(USUAL)
        .clamp(LEAST, MOST)
        .next_multiple_of(elf::PAGE);
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
    let bottom = unsafe { mmap_anonymous(std::ptr::null_mut(), size as usize, rights, flags) }? as u64;
    let top = bottom + size;
    if image.executable_stack {
        image::make_executable(bottom..top)?;
    }
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
    let start = Start {
        arguments,
        environment,
        path,
        random,
        auxiliary: &auxiliary(),
    };
    let contents = stack::contents(&start, image, top);
    let pointer = top - contents.len() as u64;
    if contents.len() as u64 > size / 2 {
        return Err(rustix::io::Errno::TOOBIG);
    }
    // SAFETY: within the new mapping.
    unsafe { std::ptr::copy_nonoverlapping(contents.as_ptr(), pointer as *mut u8, contents.len()) };
    Ok(pointer)
}

/// The process's auxiliary vector.
fn auxiliary() -> Vec<(u64, u64)> {
    let bytes = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let pairs = bytes
        .chunks_exact(16)
        .map(|pair| (word(&pair[..8]), word(&pair[8..])));
    pairs.take_while(|(kind, _)| *kind != 0).collect()
}
