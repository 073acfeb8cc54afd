//! The client's own seccomp filters, evaluated here.
//!
//! In the kernel they would judge ring3's system calls, too. So each thread has them here, handed on to new threads and processes, and to
//! static programs that are executed ([`handed`]); and every call of the client's is judged before anything is done. Not supported:
//! listeners (SECCOMP_RET_USER_NOTIF answers as where nobody listens), and filters of programs that are linked dynamically.

mod bpf;
pub mod handed;

use crate::calls::{Call, Outcome, done, failed};
use crate::process::Member;
use crate::signal::calls::fault;
use crate::signal::{post, raise_fatal};
use crate::thread::*;
use bpf::{Data, Instruction, Program};
use ring3_host::signal::SigSet;
use ring3_host::user::UserPtr;
use rustix::thread::{CapabilitySet, capabilities};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{MutexGuard, PoisonError};

const STRICT: u64 = 1;
const FILTER: u64 = 2;

const TSYNC: u64 = libc::SECCOMP_FILTER_FLAG_TSYNC;
const TSYNC_ESRCH: u64 = libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
/// What makes no difference here.
const NO_MATTER: u64 = libc::SECCOMP_FILTER_FLAG_LOG | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;

const X86_64: u32 = 0xc000_003e;
/// The action in an answer, and what goes with it.
const ACTION: u32 = libc::SECCOMP_RET_ACTION_FULL;
const DATA: u32 = libc::SECCOMP_RET_DATA;
const GREATEST_ERRNO: u32 = 4095;
/// The reason of a SIGSYS that a filter asks for.
const SYS_SECCOMP: u64 = 1;

/// A filter, and those that were there before it.
#[derive(Debug)]
pub struct Link {
    program: Program,
    before: Option<Arc<Link>>,
}

/// What a thread is held to.
#[derive(Clone, Debug, Default)]
pub enum Filters {
    #[default]
    None,
    /// Nothing but read, write, exit and sigreturn.
    Strict,
    Programs(Arc<Link>),
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// It is not made, and ends so.
    Instead(Outcome),
}

/// The thread's filters, which another may change (TSYNC).
fn filters(thread: &Thread) -> MutexGuard<'_, Filters> {
    thread.filters.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a new thread or process begins with.
pub fn inherited(thread: &Thread) -> Filters {
    filters(thread).clone()
}

fn set(thread: &Thread, new: Filters) {
    *filters(thread) = new;
    thread.filtered.store(1, Release);
}

/// Judges a call.
#[inline]
pub fn judge(thread: &Thread, call: &Call) -> Verdict {
    if thread.filtered.load(Acquire) == 0 {
        return Verdict::Allow;
    }
    judge_filtered(thread, call)
}

#[cold]
fn judge_filtered(thread: &Thread, call: &Call) -> Verdict {
    let filters = filters(thread).clone();
    let newest = match filters {
        Filters::None => return Verdict::Allow,
        Filters::Strict => {
            let fine = [
                libc::SYS_read,
                libc::SYS_write,
                libc::SYS_exit,
                libc::SYS_rt_sigreturn,
            ];
            if fine.contains(&(call.number as i64)) {
                return Verdict::Allow;
            }
            raise_fatal(libc::SIGKILL);
            return Verdict::Instead(Outcome::Leave);
        }
        Filters::Programs(newest) => newest,
    };
    let data = Data {
        number: call.number as u32,
        arch: X86_64,
        instruction: thread.register(REG_RIP),
        arguments: call.arguments,
    };
    act(thread, call, answer(&newest, &data))
}

/// The answer of the filters with the highest precedence; of equal ones, the newest's.
fn answer(newest: &Arc<Link>, data: &Data) -> u32 {
    let mut answer = libc::SECCOMP_RET_ALLOW;
    let mut next = Some(newest);
    while let Some(link) = next {
        let other = link.program.run(data);
        if ((other & ACTION) as i32) < (answer & ACTION) as i32 {
            answer = other;
        }
        next = link.before.as_ref();
    }
    answer
}

fn act(thread: &Thread, call: &Call, answer: u32) -> Verdict {
    let data = answer & DATA;
    let outcome = match answer & ACTION {
        libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG => return Verdict::Allow,
        libc::SECCOMP_RET_ERRNO => failed(data.min(GREATEST_ERRNO) as i32),
        libc::SECCOMP_RET_TRAP => trap(thread, call, data),
        // Without a tracer, and without a listener.
        libc::SECCOMP_RET_TRACE | libc::SECCOMP_RET_USER_NOTIF => failed(libc::ENOSYS),
        libc::SECCOMP_RET_KILL_THREAD if thread.process().threads().len() > 1 => Outcome::Leave,
        _ => {
            raise_fatal(libc::SIGSYS);
            Outcome::Leave
        }
    };
    Verdict::Instead(outcome)
}

/// A SIGSYS that tells of the call.
fn trap(thread: &Thread, call: &Call, data: u32) -> Outcome {
    let signal = SigSet::of(libc::SIGSYS);
    let blocked = SigSet(thread.mask.load(Relaxed)).with(SigSet(thread.pending.load(Relaxed)));
    let handled = thread.process().actions.of(libc::SIGSYS).handler > 1;
    if !handled || !blocked.common(signal).is_empty() {
        raise_fatal(libc::SIGSYS);
    }
    let mut info = Info::default();
    info[0] = libc::SIGSYS as u64 | u64::from(data) << 32;
    info[1] = SYS_SECCOMP;
    info[2] = thread.register(REG_RIP);
    info[3] = u64::from(call.number as u32) | u64::from(X86_64) << 32;
    post(thread, libc::SIGSYS, &info);
    // It was not made, and leaves no answer.
    Outcome::Value(call.number as i64)
}

/// prctl(PR_GET_SECCOMP).
pub fn mode(thread: &Thread) -> Outcome {
    Outcome::Value(match *filters(thread) {
        Filters::None => 0,
        Filters::Strict => STRICT as i64,
        Filters::Programs(_) => FILTER as i64,
    })
}

/// prctl(PR_SET_SECCOMP).
pub fn set_mode(thread: &Thread, mode: u64, argument: u64) -> Outcome {
    done(match mode {
        STRICT => set_strict(thread),
        FILTER => add_filter(thread, 0, argument),
        _ => Err(libc::EINVAL),
    })
}

/// The seccomp system call.
pub fn operate(thread: &Thread, operation: u64, flags: u64, argument: u64) -> Outcome {
    done(match operation as u32 {
        libc::SECCOMP_SET_MODE_STRICT if flags == 0 && argument == 0 => set_strict(thread),
        libc::SECCOMP_SET_MODE_FILTER => add_filter(thread, flags, argument),
        libc::SECCOMP_GET_ACTION_AVAIL if flags == 0 => is_available(argument),
        _ => Err(libc::EINVAL),
    })
}

fn is_available(argument: u64) -> Result<i64, i32> {
    match UserPtr::new(argument).read::<u32>().map_err(fault)? {
        libc::SECCOMP_RET_KILL_PROCESS
        | libc::SECCOMP_RET_KILL_THREAD
        | libc::SECCOMP_RET_TRAP
        | libc::SECCOMP_RET_ERRNO
        | libc::SECCOMP_RET_TRACE
        | libc::SECCOMP_RET_LOG
        | libc::SECCOMP_RET_ALLOW => Ok(0),
        _ => Err(libc::EOPNOTSUPP),
    }
}

fn set_strict(thread: &Thread) -> Result<i64, i32> {
    if matches!(*filters(thread), Filters::Programs(_)) {
        return Err(libc::EINVAL);
    }
    set(thread, Filters::Strict);
    Ok(0)
}

/// `struct sock_fprog`, and the program that it points to.
fn program_at(address: u64) -> Result<Program, i32> {
    let [len, at] = UserPtr::new(address).read::<[u64; 2]>().map_err(fault)?;
    let words: Vec<u64> = UserPtr::new(at)
        .read_vec(usize::from(len as u16))
        .map_err(fault)?;
    Program::new(words.into_iter().map(Instruction::from_word).collect()).map_err(|_| libc::EINVAL)
}

fn may_filter() -> bool {
    // SAFETY: a plain question.
    let no_new_privileges = unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } == 1;
    no_new_privileges
        || capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

fn add_filter(thread: &Thread, flags: u64, argument: u64) -> Result<i64, i32> {
    if flags & !(TSYNC | TSYNC_ESRCH | NO_MATTER) != 0 {
        return Err(libc::EINVAL);
    }
    let program = program_at(argument)?;
    if !may_filter() {
        return Err(libc::EACCES);
    }
    let before = match inherited(thread) {
        Filters::None => None,
        Filters::Strict => return Err(libc::EINVAL),
        Filters::Programs(newest) => Some(newest),
    };
    let length = |link: &Arc<Link>| link.program.instructions().len() + COST;
    let total: usize = chain(before.as_ref()).map(length).sum();
    if total + program.instructions().len() + COST > MOST_IN_ALL {
        return Err(libc::ENOMEM);
    }
    let new = with(program, before.clone());
    if flags & TSYNC == 0 {
        set(thread, new);
        return Ok(0);
    }
    // Nobody begins a thread meanwhile that is not among them.
    let all = thread.process().threads();
    let differs = |other: &&Thread| !is_ancestor(&filters(other), before.as_ref());
    if let Some(other) = all.iter().map(Member::thread).find(differs) {
        return match flags & TSYNC_ESRCH {
            0 => Ok(other.tid.load(Relaxed).into()),
            _ => Err(libc::ESRCH),
        };
    }
    all.iter().for_each(|other| set(other.thread(), new.clone()));
    Ok(0)
}

/// Another filter before those that there are.
fn with(program: Program, before: Option<Arc<Link>>) -> Filters {
    Filters::Programs(Arc::new(Link { program, before }))
}

/// Instructions in all filters of a thread, to each of which some are added, as in Linux.
const MOST_IN_ALL: usize = 32768;
const COST: usize = 4;

fn chain(newest: Option<&Arc<Link>>) -> impl Iterator<Item = &Arc<Link>> {
    std::iter::successors(newest, |link| link.before.as_ref())
}

/// Whether a thread with these filters would only get more by those.
fn is_ancestor(filters: &Filters, of: Option<&Arc<Link>>) -> bool {
    match filters {
        Filters::None => true,
        Filters::Strict => false,
        Filters::Programs(newest) => chain(of).any(|link| Arc::ptr_eq(link, newest)),
    }
}

#[cfg(test)]
mod tests;
