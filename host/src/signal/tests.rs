//! Handlers of a client that does not know us. Signal actions are the process's: one test at a time.

use super::*;
use crate::mem::{HostFault, HostRegion};
use crate::sys::{MaskHow, SA_NODEFER, SA_RESETHAND, SA_SIGINFO, SIG_DFL, SIG_IGN, sigprocmask};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicI64, AtomicU32};
use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static CALLS: AtomicU32 = AtomicU32::new(0);
static VALUE: AtomicI64 = AtomicI64::new(0);

fn alone() -> MutexGuard<'static, ()> {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    CALLS.store(0, SeqCst);
    VALUE.store(0, SeqCst);
    activate();
    guard
}

extern "C" fn count(_: i32, info: *const libc::siginfo_t) {
    CALLS.fetch_add(1, SeqCst);
    // SAFETY: the kernel's siginfo; the tests that look queue a value.
    VALUE.store(unsafe { (*info).si_value().sival_ptr } as i64, SeqCst);
}

fn action(flags: u64) -> Action {
    Action {
        handler: count as *const () as u64,
        flags: flags | SA_SIGINFO,
        ..Action::default()
    }
}

fn set(signal: i32, action: Action) -> Action {
    client_sigaction(signal, Some(&action)).unwrap()
}

/// Sends this thread a signal with a value.
fn queue(signal: i32, value: i64) {
    // SAFETY: all zeroes are a siginfo.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    (info.si_signo, info.si_code) = (signal, libc::SI_QUEUE);
    // SAFETY: si_value is the third word of the union, within the 128 bytes.
    unsafe {
        *std::ptr::from_mut(&mut info).cast::<i64>().add(3) = value;
        crate::sys::queue_to_self(signal, &info).unwrap();
    }
}

fn calls() -> u32 {
    CALLS.load(SeqCst)
}

fn pending(signal: i32) -> bool {
    // SAFETY: plain calls on a set of our own.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigpending(&mut set);
        libc::sigismember(&set, signal) == 1
    }
}

#[test]
fn handlers_run_and_read_back() {
    let _alone = alone();
    let mine = action(SA_NODEFER);
    assert_eq!(set(libc::SIGUSR1, mine).handler, SIG_DFL);
    queue(libc::SIGUSR1, 42);
    assert_eq!((calls(), VALUE.load(SeqCst)), (1, 42));
    let seen = client_sigaction(libc::SIGUSR1, None).unwrap();
    assert_eq!(
        (seen.handler, seen.flags & SA_NODEFER),
        (mine.handler, SA_NODEFER)
    );
    assert_eq!(
        set(
            libc::SIGUSR1,
            Action {
                handler: SIG_IGN,
                ..mine
            }
        )
        .handler,
        mine.handler
    );
    queue(libc::SIGUSR1, 1);
    assert_eq!(calls(), 1);
    assert_eq!(set(libc::SIGUSR1, Action::default()).handler, SIG_IGN);
}

#[test]
fn refusals_are_the_kernels() {
    let _alone = alone();
    for signal in [-1, 0, 65, libc::SIGKILL, libc::SIGSTOP] {
        assert_eq!(
            client_sigaction(signal, Some(&action(0))),
            Err(rustix::io::Errno::INVAL)
        );
    }
    assert!(client_sigaction(libc::SIGKILL, None).is_ok());
}

#[test]
fn a_handler_may_run_once() {
    let _alone = alone();
    set(libc::SIGUSR1, action(SA_RESETHAND));
    queue(libc::SIGUSR1, 1);
    assert_eq!(calls(), 1);
    assert_eq!(client_sigaction(libc::SIGUSR1, None).unwrap().handler, SIG_DFL);
}

#[test]
fn signals_wait_for_work_to_end() {
    let _alone = alone();
    set(libc::SIGUSR1, action(0));
    let outer = Shield::enter();
    let inner = Shield::enter();
    queue(libc::SIGUSR1, 7);
    queue(libc::SIGUSR1, 8);
    drop(inner);
    assert_eq!(calls(), 0);
    drop(outer);
    assert_eq!((calls(), VALUE.load(SeqCst)), (1, 7));
    queue(libc::SIGUSR1, 9);
    assert_eq!(calls(), 2);
    set(libc::SIGUSR1, Action::default());
}

#[test]
fn queued_signals_all_arrive() {
    let _alone = alone();
    let signal = libc::SIGRTMIN() + 3;
    set(signal, action(SA_NODEFER));
    let work = Shield::enter();
    (0..5).for_each(|n| queue(signal, n));
    assert_eq!(calls(), 0);
    drop(work);
    assert_eq!(calls(), 5);
    set(signal, Action::default());
}

#[test]
fn a_handled_signal_kicks_the_run() {
    let _alone = alone();
    set(libc::SIGUSR1, action(0));
    set(
        libc::SIGUSR2,
        Action {
            handler: SIG_IGN,
            ..Action::default()
        },
    );
    let kick = AtomicU32::new(1);
    let run = RunScope::enter(&kick, 4, None);
    queue(libc::SIGUSR2, 1);
    assert_eq!(kick.load(SeqCst), 1);
    queue(libc::SIGUSR1, 1);
    assert_eq!((kick.load(SeqCst), calls()), (5, 0));
    drop(run);
    assert_eq!(calls(), 1);
    kick.store(0, SeqCst);
    queue(libc::SIGUSR1, 1);
    assert_eq!((kick.load(SeqCst), calls()), (0, 2));
    // Between the call and the run.
    let call = Shield::enter();
    queue(libc::SIGUSR1, 1);
    drop(RunScope::enter(&kick, 4, None));
    assert_eq!((kick.load(SeqCst), calls()), (4, 2));
    drop(call);
    assert_eq!(calls(), 3);
    set(libc::SIGUSR1, Action::default());
    set(libc::SIGUSR2, Action::default());
}

#[test]
fn a_run_mask_leaves_its_signal_pending() {
    let _alone = alone();
    for handled in [true, false] {
        set(libc::SIGUSR1, if handled { action(0) } else { Action::default() });
        let blocked = SigSet::of(libc::SIGUSR1).with(SigSet::of(libc::SIGTERM));
        let before = client_sigmask(MaskChange::Block(blocked));
        let kick = AtomicU32::new(0);
        let run = RunScope::enter(&kick, 2, Some(SigSet::of(libc::SIGTERM)));
        queue(libc::SIGTERM, 0);
        assert_eq!(kick.load(SeqCst), 0);
        queue(libc::SIGUSR1, 5);
        assert_eq!(kick.load(SeqCst), 2);
        drop(run);
        assert_eq!(calls(), 0);
        assert_eq!(client_sigmask(MaskChange::Keep).common(blocked), blocked);
        assert!(pending(libc::SIGUSR1) && pending(libc::SIGTERM));
        // SAFETY: plain calls on a set of our own; both signals are pending, so it does not wait.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut set, libc::SIGUSR1);
            libc::sigaddset(&mut set, libc::SIGTERM);
            let mut got = 0;
            libc::sigwait(&set, &mut got);
            libc::sigwait(&set, &mut got);
        }
        client_sigmask(MaskChange::Set(before));
        assert_eq!(client_sigmask(MaskChange::Keep), before);
    }
    // Pending before the run begins, it ends the run at once.
    set(libc::SIGUSR1, action(0));
    let before = client_sigmask(MaskChange::Block(SigSet::of(libc::SIGUSR1)));
    queue(libc::SIGUSR1, 5);
    let kick = AtomicU32::new(0);
    drop(RunScope::enter(&kick, 2, Some(SigSet::EMPTY)));
    assert_eq!((kick.load(SeqCst), calls()), (2, 0));
    client_sigmask(MaskChange::Set(before));
    assert_eq!((calls(), VALUE.load(SeqCst)), (1, 5));
    set(libc::SIGUSR1, Action::default());
}

#[test]
fn blocking_everything_still_catches_faults() {
    let _alone = alone();
    let before = client_sigmask(MaskChange::Set(SigSet(u64::MAX)));
    let bad = HostRegion::from_client(0x1000, 0x1000).unwrap().page(0).unwrap();
    assert_eq!(bad.load::<u8>(0), Err(HostFault));
    assert!(client_sigmask(MaskChange::Keep).has(libc::SIGSEGV));
    client_sigmask(MaskChange::Unblock(SigSet::of(libc::SIGSEGV)));
    let now = client_sigmask(MaskChange::Set(before));
    assert!(!now.has(libc::SIGSEGV) && now.has(libc::SIGBUS));
    // Blocked behind our back.
    sigprocmask(MaskHow::Block, FAULTS);
    std::thread::spawn(move || {
        let work = Shield::enter();
        assert_eq!(bad.load::<u8>(0), Err(HostFault));
        drop(work);
        assert_eq!(client_sigmask(MaskChange::Keep).common(FAULTS), FAULTS);
    })
    .join()
    .unwrap();
    sigprocmask(MaskHow::Unblock, FAULTS);
}

extern "C" fn skip_mov(signal: i32, info: *const libc::siginfo_t, context: *mut libc::ucontext_t) {
    CALLS.fetch_add(1, SeqCst);
    // SAFETY: the kernel's own; the faulting instruction is the three-byte MOV of the test below.
    unsafe {
        VALUE.store((*info).si_addr() as i64, SeqCst);
        (*context).uc_mcontext.gregs[libc::REG_RIP as usize] += 3;
    }
    // Ring3 works inside of the client's handler too, though the client blocks the signal there.
    if signal == libc::SIGSEGV {
        let bad = HostRegion::from_client(0x2000, 0x1000).unwrap().page(0).unwrap();
        let _work = Shield::enter();
        assert_eq!(bad.load::<u8>(0), Err(HostFault));
    }
}

#[test]
fn the_clients_own_faults_are_its_own() {
    let _alone = alone();
    let mine = Action {
        handler: skip_mov as *const () as u64,
        flags: SA_SIGINFO | SA_NODEFER,
        ..Action::default()
    };
    let before = set(libc::SIGSEGV, mine);
    // SAFETY: the handler steps over the one instruction that faults.
    unsafe {
        std::arch::asm!("mov rax, [rcx]", in("rcx") 0x3008u64, out("rax") _);
    }
    assert_eq!((calls(), VALUE.load(SeqCst)), (1, 0x3008));
    let bad = HostRegion::from_client(0x1000, 0x1000).unwrap().page(0).unwrap();
    assert_eq!((bad.load::<u8>(0), calls()), (Err(HostFault), 1));
    set(libc::SIGSEGV, before);
}

#[test]
fn hooks_are_asked_before_the_client() {
    let _alone = alone();
    fn skip(fault: &mut Fault<'_>) -> Handled {
        if fault.signal() != libc::SIGILL {
            return Handled::No;
        }
        VALUE.store(fault.vector() as i64, SeqCst);
        let next = fault.rip() + 2;
        fault.set_rip(next);
        Handled::Yes
    }
    add_fault_hook(skip).unwrap();
    add_fault_hook(skip).unwrap();
    // SAFETY: the hook steps over it.
    unsafe { std::arch::asm!("ud2") };
    assert_eq!(VALUE.load(SeqCst), 6);
}

/// Runs `body` in a child and says which signal ended it, zero for none.
fn dies_of(body: fn()) -> i32 {
    // SAFETY: the child only makes system calls and ends.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::setrlimit(
                libc::RLIMIT_CORE,
                &libc::rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                },
            );
            body();
            libc::_exit(0);
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        if libc::WIFSIGNALED(status) {
            libc::WTERMSIG(status)
        } else {
            0
        }
    }
}

#[test]
fn default_actions_still_end_the_process() {
    let _alone = alone();
    fn default(signal: i32) {
        set(signal, Action::default());
    }
    let segv = || {
        default(libc::SIGSEGV);
        // SAFETY: it faults, which is the point.
        unsafe { std::arch::asm!("mov rax, [rcx]", in("rcx") 0x3008u64, out("rax") _) };
    };
    assert_eq!(dies_of(segv), libc::SIGSEGV);
    let trap = || {
        default(libc::SIGTRAP);
        // SAFETY: it traps, which is the point.
        unsafe { std::arch::asm!("int3") };
    };
    assert_eq!(dies_of(trap), libc::SIGTRAP);
    let sent = || {
        set(
            libc::SIGBUS,
            Action {
                handler: SIG_IGN,
                ..Action::default()
            },
        );
        queue(libc::SIGBUS, 0);
        default(libc::SIGBUS);
        queue(libc::SIGBUS, 0);
    };
    assert_eq!(dies_of(sent), libc::SIGBUS);
    let held = || {
        client_sigmask(MaskChange::Block(SigSet::of(libc::SIGUSR2)));
        drop(RunScope::enter(&AtomicU32::new(0), 1, Some(SigSet::EMPTY)));
        client_sigmask(MaskChange::Unblock(SigSet::of(libc::SIGUSR2)));
        queue(libc::SIGUSR2, 0);
    };
    assert_eq!(dies_of(held), libc::SIGUSR2);
    assert_eq!(dies_of(|| ()), 0);
}
