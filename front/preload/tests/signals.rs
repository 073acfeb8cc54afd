//! A client's signals, before and after it opens the device.

mod support;

use ring3_uapi::KvmUserspaceMemoryRegion;
use ring3_uapi::ioctl::{
    KVM_CHECK_EXTENSION, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_VCPU_MMAP_SIZE,
    KVM_RUN, KVM_SET_REGS, KVM_SET_SIGNAL_MASK, KVM_SET_SREGS, KVM_SET_USER_MEMORY_REGION,
};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use support::{client, client_with, ioctl, open_kvm};

static CALLS: AtomicU32 = AtomicU32::new(0);
static VALUE: AtomicI64 = AtomicI64::new(0);
static VCPU: AtomicI32 = AtomicI32::new(-1);

extern "C" fn handler(_: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    CALLS.fetch_add(1, SeqCst);
    // SAFETY: the kernel's siginfo.
    VALUE.store(unsafe { (*info).si_value().sival_ptr } as i64, SeqCst);
    // A handler may do anything with a vCPU that it has interrupted, as with a kernel's.
    let vcpu = VCPU.load(SeqCst);
    if vcpu >= 0 {
        let mut regs = [0u64; 18];
        assert_eq!(ioctl(vcpu, KVM_GET_REGS, regs.as_mut_ptr() as u64), Ok(0));
    }
}

fn calls() -> u32 {
    CALLS.load(SeqCst)
}

fn set(signal: c_int, handler: usize, flags: c_int) -> libc::sigaction {
    // SAFETY: zero is a value of the structure; the handlers are functions.
    unsafe {
        let (mut new, mut old): (libc::sigaction, libc::sigaction) = (std::mem::zeroed(), std::mem::zeroed());
        new.sa_sigaction = handler;
        new.sa_flags = flags | libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(signal, &new, &mut old), 0);
        old
    }
}

fn address() -> usize {
    handler as *const () as usize
}

fn send(thread: libc::pthread_t, signal: c_int) {
    // SAFETY: the thread is alive in these tests.
    assert_eq!(unsafe { libc::pthread_kill(thread, signal) }, 0);
}

fn this_thread() -> libc::pthread_t {
    // SAFETY: it has no conditions.
    unsafe { libc::pthread_self() }
}

#[test]
fn handlers_stay_what_they_were() {
    client("handlers_stay_what_they_were", || {
        set(libc::SIGUSR1, address(), libc::SA_RESTART);
        let kvm = open_kvm();
        let seen = set(libc::SIGUSR1, address(), libc::SA_RESETHAND);
        assert_eq!(
            (seen.sa_sigaction, seen.sa_flags & libc::SA_RESTART),
            (address(), libc::SA_RESTART)
        );
        let value = libc::sigval {
            sival_ptr: 77 as *mut _,
        };
        // SAFETY: a signal to ourselves; this thread or another takes it.
        unsafe { libc::sigqueue(libc::getpid(), libc::SIGUSR1, value) };
        while calls() == 0 {
            std::thread::yield_now();
        }
        assert_eq!((calls(), VALUE.load(SeqCst)), (1, 77));
        assert_eq!(set(libc::SIGUSR1, address(), 0).sa_sigaction, libc::SIG_DFL);
        // SAFETY: the handler is a function.
        let old = unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
        assert_eq!(old, address());
        send(this_thread(), libc::SIGUSR1);
        assert_eq!(calls(), 1);
        assert!(ioctl(kvm, KVM_CHECK_EXTENSION, 3) > Ok(0));
    });
}

/// Reads from an empty pipe, interrupted by a signal after which a byte comes.
fn interrupted_read(flags: c_int) -> isize {
    set(libc::SIGUSR1, address(), flags);
    let mut pipe = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    let before = calls();
    let reader = this_thread();
    std::thread::scope(|s| {
        s.spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            send(reader, libc::SIGUSR1);
            while calls() == before {
                std::thread::yield_now();
            }
            // SAFETY: one byte of ours.
            unsafe { libc::write(pipe[1], b"x".as_ptr().cast(), 1) };
        });
        let mut byte = 0u8;
        // SAFETY: room for one byte.
        unsafe { libc::read(pipe[0], std::ptr::from_mut(&mut byte).cast(), 1) }
    })
}

#[test]
fn system_calls_restart_as_asked() {
    client("system_calls_restart_as_asked", || {
        for _ in 0..2 {
            assert_eq!(interrupted_read(libc::SA_RESTART), 1);
            assert_eq!(interrupted_read(0), -1);
            open_kvm();
        }
    });
}

static STACK_AT: AtomicI64 = AtomicI64::new(0);

extern "C" fn where_am_i(_: c_int) {
    let here = 0u8;
    STACK_AT.store(std::ptr::from_ref(&here) as i64, SeqCst);
}

#[test]
fn handlers_run_on_the_stack_they_asked_for() {
    client("handlers_run_on_the_stack_they_asked_for", || {
        open_kvm();
        let mut stack = vec![0u8; 1 << 16];
        let range = stack.as_ptr_range();
        let alternate = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: stack.len(),
        };
        let mut before = libc::stack_t {
            ss_sp: null_mut(),
            ss_flags: 0,
            ss_size: 0,
        };
        // SAFETY: the stack outlives its use: it is put back below.
        unsafe { libc::sigaltstack(&alternate, &mut before) };
        for (flags, there) in [(libc::SA_ONSTACK, true), (0, false)] {
            set(libc::SIGUSR1, where_am_i as *const () as usize, flags);
            send(this_thread(), libc::SIGUSR1);
            let at = STACK_AT.load(SeqCst) as *const u8;
            assert_eq!(range.contains(&at), there);
        }
        // SAFETY: as above.
        unsafe { libc::sigaltstack(&before, null_mut()) };
    });
}

#[test]
fn blocking_everything_is_no_danger() {
    client("blocking_everything_is_no_danger", || {
        let kvm = open_kvm();
        let vm = ioctl(kvm, KVM_CREATE_VM, 0).expect("a VM");
        // SAFETY: sets of our own.
        let now = unsafe {
            let (mut all, mut now) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&mut all);
            assert_eq!(libc::pthread_sigmask(libc::SIG_SETMASK, &all, null_mut()), 0);
            assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, null_mut(), &mut now), 0);
            assert_eq!(libc::pthread_sigmask(12345, &all, null_mut()), libc::EINVAL);
            now
        };
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGTERM] {
            // SAFETY: as above.
            assert_eq!(unsafe { libc::sigismember(&now, signal) }, 1);
        }
        assert_eq!(ioctl(vm, KVM_SET_USER_MEMORY_REGION, 16), Err(libc::EFAULT));
    });
}

struct Guest {
    vcpu: c_int,
    /// Of `kvm_run`.
    page: *mut u8,
}

/// A vCPU about to execute `code` at 0x1000, in real mode.
fn guest(code: &[u8]) -> Guest {
    let kvm = open_kvm();
    let vm = ioctl(kvm, KVM_CREATE_VM, 0).expect("a VM");
    let map = |fd, len, flags| {
        // SAFETY: a new mapping.
        let at = unsafe { libc::mmap(null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        at.cast::<u8>()
    };
    let memory = map(-1, 0x10000, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: the mapping has room.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), memory.add(0x1000), code.len()) };
    let region = KvmUserspaceMemoryRegion {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: 0x10000,
        userspace_addr: memory as u64,
    };
    assert_eq!(
        ioctl(vm, KVM_SET_USER_MEMORY_REGION, std::ptr::from_ref(&region) as u64),
        Ok(0)
    );
    let vcpu = ioctl(vm, KVM_CREATE_VCPU, 0).expect("a vCPU");
    let len = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0).expect("a size");
    let page = map(vcpu, len as usize, libc::MAP_SHARED);
    let mut sregs = [0u64; 39];
    assert_eq!(ioctl(vcpu, KVM_GET_SREGS, sregs.as_mut_ptr() as u64), Ok(0));
    // CS is first: its base, and its selector after the limit.
    sregs[0] = 0;
    sregs[1] &= !0xffff_0000_0000;
    assert_eq!(ioctl(vcpu, KVM_SET_SREGS, sregs.as_ptr() as u64), Ok(0));
    let mut regs = [0u64; 18];
    (regs[16], regs[17]) = (0x1000, 2);
    assert_eq!(ioctl(vcpu, KVM_SET_REGS, regs.as_ptr() as u64), Ok(0));
    Guest { vcpu, page }
}

impl Guest {
    fn run(&self) -> Result<c_int, i32> {
        ioctl(self.vcpu, KVM_RUN, 0)
    }

    fn exit_reason(&self) -> u32 {
        // SAFETY: a field of the mapped page.
        unsafe { self.page.add(8).cast::<u32>().read_volatile() }
    }
}

const LOOP: &[u8] = &[0xeb, 0xfe];
const HALT: &[u8] = &[0xb0, 0x2a, 0xf4];

/// Sends `signal` to this thread a little later.
fn soon<R>(signal: c_int, meanwhile: impl FnOnce() -> R) -> R {
    let thread = this_thread();
    std::thread::scope(|s| {
        s.spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            send(thread, signal);
        });
        meanwhile()
    })
}

#[test]
fn a_signal_ends_kvm_run() {
    client("a_signal_ends_kvm_run", || {
        set(libc::SIGUSR1, address(), libc::SA_RESTART);
        let guest = guest(LOOP);
        VCPU.store(guest.vcpu, SeqCst);
        for n in 1..=3 {
            assert_eq!(soon(libc::SIGUSR1, || guest.run()), Err(libc::EINTR));
            assert_eq!((calls(), guest.exit_reason()), (n, 10));
        }
        // Set by the client, it ends before it begins.
        // SAFETY: a field of the mapped page.
        unsafe { guest.page.add(1).write_volatile(1) };
        assert_eq!(guest.run(), Err(libc::EINTR));
        assert_eq!(calls(), 3);
    });
}

#[test]
fn a_thread_in_kvm_run_can_be_cancelled() {
    client("a_thread_in_kvm_run_can_be_cancelled", || {
        // jmp to itself
        let guest = guest(&[0xeb, 0xfe]);
        // SAFETY: the functions below use nothing of this thread's but the descriptor.
        unsafe {
            let mut thread = std::mem::zeroed();
            let fd = guest.vcpu as *mut c_void;
            assert_eq!(
                pthread_create(&mut thread, std::ptr::null(), runs_for_ever, fd),
                0
            );
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(pthread_cancel(thread), 0);
            let mut result = std::ptr::null_mut();
            assert_eq!(libc::pthread_join(thread, &mut result), 0);
            assert_eq!(result as isize, -1, "PTHREAD_CANCELED");
        }
    });
}

unsafe extern "C-unwind" {
    fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const c_void,
        start: extern "C-unwind" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void,
    ) -> c_int;
    fn pthread_cancel(thread: libc::pthread_t) -> c_int;
    fn pthread_setcanceltype(kind: c_int, old: *mut c_int) -> c_int;
    #[link_name = "ioctl"]
    fn cancellable_ioctl(fd: c_int, request: libc::c_ulong, arg: libc::c_ulong) -> c_int;
}

extern "C-unwind" fn runs_for_ever(fd: *mut c_void) -> *mut c_void {
    const AT_ANY_MOMENT: c_int = 1;
    // SAFETY: plain calls; nothing here is to be dropped.
    unsafe {
        pthread_setcanceltype(AT_ANY_MOMENT, std::ptr::null_mut());
        cancellable_ioctl(fd as usize as c_int, KVM_RUN.into(), 0);
    }
    std::ptr::null_mut()
}

#[test]
fn the_mask_of_a_run_leaves_signals_pending() {
    client("the_mask_of_a_run_leaves_signals_pending", || {
        set(libc::SIGUSR1, address(), 0);
        let guest = guest(LOOP);
        // SAFETY: sets of our own.
        let usr1 = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigaddset(&mut set, libc::SIGUSR1);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, null_mut());
            set
        };
        // Length, and the eight bytes of an empty mask.
        let mask = [8u32, 0, 0];
        assert_eq!(
            ioctl(guest.vcpu, KVM_SET_SIGNAL_MASK, mask.as_ptr() as u64),
            Ok(0)
        );
        for _ in 0..3 {
            assert_eq!(soon(libc::SIGUSR1, || guest.run()), Err(libc::EINTR));
            assert_eq!(calls(), 0);
            let at_once = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: as above.
            let taken = unsafe { libc::sigtimedwait(&usr1, null_mut(), &at_once) };
            assert_eq!(taken, libc::SIGUSR1);
        }
    });
}

#[test]
fn guests_are_accounted_for() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = file.path().to_str().expect("a plain path");
    let environment = [("RING3_STATS", path)];
    let ran = client_with("guests_are_accounted_for", &environment, || {
        let guest = guest(HALT);
        assert_eq!((guest.run(), guest.exit_reason()), (Ok(0), 5));
    });
    if ran.is_some() {
        let account = std::fs::read_to_string(path).expect("it was written");
        assert!(account.starts_with("{\"guest_instructions\": 2,"), "{account}");
    }
}
