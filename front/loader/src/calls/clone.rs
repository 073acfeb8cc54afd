//! New threads and processes.
//!
//! A thread of the client's is a thread of the C library's that ring3 uses, because ring3's code needs its thread-local storage. A forked
//! child is made by that library, too, wherever it can make it. A child of `vfork`, which shares memory with its waiting parent, has
//! an area and a stack of its own, and the parent's thread-local storage. Other processes that share memory are refused.

use super::threads::{self, Start};
use super::{Call, Outcome, done, failed};
use crate::entry;
use crate::process::Kind;
use crate::signal::{block_all, for_kernel, set_kernel_mask};
use crate::thread::*;
use crate::{area, catch, seccomp, sites};
use ring3_host::user::UserPtr;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::sync::atomic::Ordering::Relaxed;

const VM: u64 = libc::CLONE_VM as u64;
const THREAD: u64 = libc::CLONE_THREAD as u64;
const VFORK: u64 = libc::CLONE_VFORK as u64;
const SETTLS: u64 = libc::CLONE_SETTLS as u64;
const PARENT_SETTID: u64 = libc::CLONE_PARENT_SETTID as u64;
const CHILD_SETTID: u64 = libc::CLONE_CHILD_SETTID as u64;
const CHILD_CLEARTID: u64 = libc::CLONE_CHILD_CLEARTID as u64;
/// What is done here, and not by the kernel.
const OURS: u64 = SETTLS | PARENT_SETTID | CHILD_SETTID | CHILD_CLEARTID;
/// What all threads of a process share.
const OF_THREADS: u64 = (libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as u64;
const SIGNAL: u64 = 0xff;

/// What clone is asked for.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    flags: u64,
    /// The signal at the child's end is in `flags`; the stack pointer, unless it is the parent's.
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    pidfd: u64,
    tls: u64,
}

pub fn clone(thread: &'static Thread, call: &Call) -> Outcome {
    let [flags, stack, parent_tid, child_tid, tls, _] = call.arguments;
    let wanted = Wanted {
        flags: flags & 0xffff_ffff,
        stack,
        parent_tid,
        child_tid,
        pidfd: parent_tid,
        tls,
    };
    make(thread, &wanted)
}

pub fn clone3(thread: &'static Thread, call: &Call) -> Outcome {
    const WORDS: usize = 8;
    let [at, size, ..] = call.arguments;
    if size < 8 * WORDS as u64 {
        return failed(libc::EINVAL);
    }
    let Ok(words) = UserPtr::new(at).read::<[u64; WORDS]>() else {
        return failed(libc::EFAULT);
    };
    let [flags, pidfd, child_tid, parent_tid, signal, stack, len, tls] = words;
    // A number or a control group of its own, and reset handlers: who asks for those knows how to do without the call.
    let more = UserPtr::new(at).offset(72).read::<u64>();
    let special = size >= 80 && more.is_ok_and(|numbers| numbers != 0);
    if special || flags >> 32 != 0 || signal > SIGNAL || flags & SIGNAL != 0 {
        return failed(libc::ENOSYS);
    }
    let wanted = Wanted {
        flags: flags | signal,
        stack: if stack == 0 { 0 } else { stack + len },
        parent_tid,
        child_tid,
        pidfd,
        tls,
    };
    make(thread, &wanted)
}

pub fn fork(thread: &'static Thread, _: &Call) -> Outcome {
    make(thread, &plain(0))
}

pub fn vfork(thread: &'static Thread, _: &Call) -> Outcome {
    make(thread, &plain(VM | VFORK))
}

fn plain(flags: u64) -> Wanted {
    Wanted {
        flags: flags | libc::SIGCHLD as u64,
        stack: 0,
        parent_tid: 0,
        child_tid: 0,
        pidfd: 0,
        tls: 0,
    }
}

fn make(thread: &'static Thread, wanted: &Wanted) -> Outcome {
    match wanted.flags & (VM | THREAD | VFORK) {
        flags if flags & THREAD != 0 => {
            if wanted.flags & OF_THREADS != OF_THREADS {
                return failed(libc::EINVAL);
            }
            new_thread(thread, wanted)
        }
        flags if flags & VM == 0 => new_process(thread, wanted),
        flags if flags & VFORK != 0 => new_vforked(thread, wanted),
        _ => failed(libc::EINVAL),
    }
}

/// Makes `child` what the caller of clone was, but for what was asked to be different.
fn copy_state(child: &Thread, parent: &Thread, wanted: &Wanted) {
    child.set_registers(&parent.registers());
    child.set_register(REG_RAX, 0);
    if wanted.stack != 0 {
        child.set_register(REG_RSP, wanted.stack);
    }
    // SAFETY: the child does not run yet, and the parent is here.
    unsafe { *child.extended.0.get() = *parent.extended.0.get() };
    let fs = if wanted.flags & SETTLS != 0 {
        wanted.tls
    } else {
        parent.client_fs.get()
    };
    child.client_fs.set(fs);
    child.mask.store(parent.mask.load(Relaxed), Relaxed);
}

fn new_thread(parent: &'static Thread, wanted: &Wanted) -> Outcome {
    let Ok(area) = area::take() else {
        return failed(libc::EAGAIN);
    };
    let process = parent.process();
    // SAFETY: the area is new.
    let child = process.has_also(|| unsafe { Thread::begin(area, process, seccomp::inherited(parent)) });
    copy_state(child, parent, wanted);
    let has = |flag: u64, at: u64| if wanted.flags & flag != 0 { at } else { 0 };
    child.clear_at_exit.set(has(CHILD_CLEARTID, wanted.child_tid));
    let start = Start {
        thread: child,
        tell: [
            has(CHILD_SETTID, wanted.child_tid),
            has(PARENT_SETTID, wanted.parent_tid),
        ],
    };
    let before = block_all();
    let started = threads::start(start);
    set_kernel_mask(before);
    if started.is_err() {
        process.has_no_longer(child);
        // SAFETY: it has never run.
        unsafe { area::give_back(area) };
    }
    done(started)
}

/// Flags that the C library's fork does not know.
fn is_plain(wanted: &Wanted) -> bool {
    wanted.flags & !OURS == libc::SIGCHLD as u64
}

fn new_process(thread: &'static Thread, wanted: &Wanted) -> Outcome {
    let before = block_all();
    // No other thread may be in the midst of these, for the child would wait for it for ever.
    let held = (area::hold(), thread.process().hold());
    let result = if is_plain(wanted) {
        // SAFETY: the child goes on here, with a copy of everything.
        i64::from(unsafe { libc::fork() })
    } else {
        let flags = wanted.flags & !OURS;
        // SAFETY: as above; without a stack, it is the copy of this one.
        unsafe { libc::syscall(libc::SYS_clone, flags, 0, wanted.pidfd, 0, 0) }
    };
    drop(held);
    let outcome = super::of_library(result);
    if result == 0 {
        begin_process(thread, wanted);
    } else {
        if wanted.flags & PARENT_SETTID != 0 && result > 0 {
            let _ = UserPtr::new(wanted.parent_tid).write(&(result as u32));
        }
        set_kernel_mask(before);
    }
    outcome
}

/// In a forked child, which has this one thread.
fn begin_process(thread: &'static Thread, wanted: &Wanted) {
    thread.pending.store(0, Relaxed);
    thread.process().has_only(thread);
    thread.robust_list.set(0);
    thread.clear_at_exit.set(0);
    if wanted.stack != 0 {
        thread.set_register(REG_RSP, wanted.stack);
    }
    if wanted.flags & SETTLS != 0 {
        thread.client_fs.set(wanted.tls);
    }
    if wanted.flags & CHILD_CLEARTID != 0 {
        thread.clear_at_exit.set(wanted.child_tid);
    }
    if wanted.flags & (CHILD_SETTID | PARENT_SETTID) != 0 {
        // SAFETY: a plain question.
        let tid = unsafe { libc::gettid() } as u32;
        for (flag, at) in [
            (CHILD_SETTID, wanted.child_tid),
            (PARENT_SETTID, wanted.parent_tid),
        ] {
            if wanted.flags & flag != 0 {
                let _ = UserPtr::new(at).write(&tid);
            }
        }
    }
    if catch::thread(thread).is_err() {
        crate::die("the kernel does not catch system calls in a forked child");
    }
    set_kernel_mask(for_kernel(thread.mask.load(Relaxed)));
}

/// Bytes of the stack on which ring3 works for a child of `vfork`, which will not run a guest.
const STACK: usize = 1 << 20;

fn new_vforked(parent: &'static Thread, wanted: &Wanted) -> Outcome {
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
    let stack = match unsafe { mmap_anonymous(std::ptr::null_mut(), STACK, rights, flags) } {
        Ok(stack) => stack,
        Err(error) => return failed(error.raw_os_error()),
    };
    let outcome = with_area(|area| {
        let process = Box::new(parent.process().vforked());
        // SAFETY: the child is gone, or another program, before the box is.
        let shared = unsafe { &*std::ptr::from_ref(&*process) };
        // SAFETY: the area is new.
        let child = unsafe { Thread::begin(area, shared, seccomp::inherited(parent)) };
        shared.has_only(child);
        copy_state(child, parent, wanted);
        child.host_stack.set(stack as u64 + STACK as u64);
        child.host_fs.set(parent.host_fs.get());
        let before = block_all();
        let parent_word = if wanted.flags & libc::CLONE_PIDFD as u64 != 0 {
            wanted.pidfd
        } else {
            wanted.parent_tid
        };
        // SAFETY: the child has all of its own that it changes, but for what it shares with a waiting parent by its nature.
        let result = unsafe { entry::vfork(wanted.flags & !SETTLS, parent_word, wanted.child_tid, child) };
        set_kernel_mask(before);
        Outcome::Value(result)
    });
    // SAFETY: the child is gone, or another program.
    let _ = unsafe { munmap(stack, STACK) };
    outcome
}

fn with_area(work: impl FnOnce(*mut Thread) -> Outcome) -> Outcome {
    let Ok(area) = area::take() else {
        return failed(libc::EAGAIN);
    };
    let outcome = work(area);
    // SAFETY: the child that used it is gone, or another program.
    unsafe { area::give_back(area) };
    outcome
}

/// The first thing that a child of `vfork` does.
pub extern "C" fn vforked(thread: &'static Thread) {
    debug_assert_eq!(thread.process().kind, Kind::Vforked);
    threads::use_signal_stack(thread);
    sites::thread(thread);
    if catch::thread(thread).is_err() {
        crate::die("the kernel does not catch system calls in a child");
    }
    set_kernel_mask(for_kernel(thread.mask.load(Relaxed)));
}
