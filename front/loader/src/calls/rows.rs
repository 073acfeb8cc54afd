//! Which system calls concern ring3, and what serves them.

use super::{Call, Outcome, clone, control, exec, exit, files, memory, threads};
use crate::signal::calls as signals;
use crate::thread::Thread;
use std::sync::OnceLock;

/// A number that the libc crate does not have.
pub const IO_PGETEVENTS: i64 = 333;

type Serve = fn(&'static Thread, &Call) -> Outcome;

/// The number of a call, and what serves it.
const ROWS: &[(i64, Serve)] = &[
    (libc::SYS_open, files::open),
    (libc::SYS_openat, files::openat),
    (libc::SYS_openat2, files::openat2),
    (libc::SYS_access, files::access),
    (libc::SYS_faccessat, files::faccessat),
    (libc::SYS_faccessat2, files::faccessat2),
    (libc::SYS_stat, files::stat),
    (libc::SYS_lstat, files::lstat),
    (libc::SYS_fstat, files::fstat),
    (libc::SYS_newfstatat, files::fstatat),
    (libc::SYS_statx, files::statx),
    (libc::SYS_readlink, files::readlink),
    (libc::SYS_readlinkat, files::readlinkat),
    (libc::SYS_ioctl, files::ioctl),
    (libc::SYS_close, files::close),
    (libc::SYS_close_range, files::close_range),
    (libc::SYS_dup, files::dup),
    (libc::SYS_dup2, files::dup2),
    (libc::SYS_dup3, files::dup3),
    (libc::SYS_fcntl, files::fcntl),
    (libc::SYS_read, files::read),
    (libc::SYS_pread64, files::pread),
    (libc::SYS_readv, files::readv),
    (libc::SYS_preadv, files::preadv),
    (libc::SYS_fallocate, files::fallocate),
    (libc::SYS_mmap, memory::mmap),
    (libc::SYS_brk, memory::brk),
    (libc::SYS_madvise, memory::madvise),
    (libc::SYS_rt_sigaction, signals::sigaction),
    (libc::SYS_rt_sigprocmask, signals::sigprocmask),
    (libc::SYS_rt_sigpending, signals::sigpending),
    (libc::SYS_rt_sigsuspend, signals::sigsuspend),
    (libc::SYS_rt_sigreturn, signals::sigreturn),
    (libc::SYS_sigaltstack, signals::sigaltstack),
    (libc::SYS_ppoll, signals::ppoll),
    (libc::SYS_pselect6, signals::pselect),
    (IO_PGETEVENTS, signals::pselect),
    (libc::SYS_epoll_pwait, signals::epoll_pwait),
    (libc::SYS_epoll_pwait2, signals::epoll_pwait),
    (libc::SYS_clone, clone::clone),
    (libc::SYS_clone3, clone::clone3),
    (libc::SYS_fork, clone::fork),
    (libc::SYS_vfork, clone::vfork),
    (libc::SYS_execve, exec::execve),
    (libc::SYS_execveat, exec::execveat),
    (libc::SYS_exit, exit::exit),
    (libc::SYS_exit_group, exit::exit_group),
    (libc::SYS_set_tid_address, threads::set_tid_address),
    (libc::SYS_set_robust_list, threads::set_robust_list),
    (libc::SYS_get_robust_list, threads::get_robust_list),
    (libc::SYS_rseq, threads::rseq),
    (libc::SYS_arch_prctl, control::arch_prctl),
    (libc::SYS_prctl, control::prctl),
    (libc::SYS_seccomp, control::seccomp),
];

/// Numbers that there may be, so far.
const NUMBERS: usize = 512;

fn table() -> &'static [Option<Serve>; NUMBERS] {
    static TABLE: OnceLock<[Option<Serve>; NUMBERS]> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: [Option<Serve>; NUMBERS] = [None; NUMBERS];
        ROWS.iter()
            .for_each(|(number, serve)| table[*number as usize] = Some(*serve));
        table
    })
}

/// Serves a call.
pub fn serve(thread: &'static Thread, call: &Call) -> Outcome {
    let row = usize::try_from(call.number)
        .ok()
        .and_then(|number| *table().get(number)?);
    match row {
        Some(serve) => serve(thread, call),
        None => call.pass(thread),
    }
}
