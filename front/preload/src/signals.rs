//! sigaction and its relatives: a client's handler that is due on a vCPU's thread must end KVM_RUN, so ours stands before
//! it, from the time that `/dev/kvm` is opened.

use super::fail;
use super::masks::{from_kernel, to_kernel};
use ring3_host::signal::{Action, SigSet, client_sigaction, is_active};
use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// A symbol of the next library's, looked up once.
pub(super) struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    pub(super) const fn new(name: &'static CStr) -> Next {
        Next {
            name,
            found: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// Null if there is none.
    pub(super) fn get(&self) -> *mut c_void {
        let known = self.found.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the name is a string, and RTLD_NEXT asks for the one after ours.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }
}

type SigactionFn = unsafe extern "C" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;
type SignalFn = unsafe extern "C" fn(c_int, libc::sighandler_t) -> libc::sighandler_t;

fn to_libc(action: &Action) -> libc::sigaction {
    // SAFETY: sigaction is plain data, for which zero is a value.
    let mut out: libc::sigaction = unsafe { std::mem::zeroed() };
    out.sa_sigaction = action.handler as usize;
    out.sa_flags = action.flags as c_int;
    from_kernel(action.mask, &mut out.sa_mask);
    out
}

fn ours(signal: c_int, new: Option<&Action>) -> Result<Action, c_int> {
    client_sigaction(signal, new).map_err(|errno| errno.raw_os_error())
}

macro_rules! sigactions {
    ($($name:ident $next:ident $string:literal;)*) => {$(
        static $next: Next = Next::new($string);

        /// As the C library's.
        ///
        /// # Safety
        /// Both pointers are valid or null, and the handler is one.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            signal: c_int,
            new: *const libc::sigaction,
            old: *mut libc::sigaction,
        ) -> c_int {
            let next = if is_active() { std::ptr::null_mut() } else { $next.get() };
            if !next.is_null() {
                // SAFETY: the symbol is the C library's function of this type; the arguments are the client's.
                return unsafe { std::mem::transmute::<*mut c_void, SigactionFn>(next)(signal, new, old) };
            }
            // SAFETY: valid or null by contract.
            unsafe { active_sigaction(signal, new, old) }
        }
    )*};
}

sigactions! {
    sigaction NEXT_SIGACTION c"sigaction";
    __sigaction NEXT_SIGACTION_2 c"__sigaction";
}

/// # Safety
/// Both pointers are valid or null, and the handler is one.
unsafe fn active_sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
    // SAFETY: valid or null by contract.
    let new = unsafe { new.as_ref() }.map(|new| Action {
        handler: new.sa_sigaction as u64,
        flags: u64::from(new.sa_flags as u32),
        restorer: 0,
        mask: to_kernel(&new.sa_mask),
    });
    match ours(signal, new.as_ref()) {
        Ok(was) => {
            if !old.is_null() {
                // SAFETY: valid by contract.
                unsafe { old.write(to_libc(&was)) };
            }
            0
        }
        Err(errno) => fail(errno),
    }
}

macro_rules! signals {
    ($($name:ident $next:ident $string:literal $flags:expr;)*) => {$(
        static $next: Next = Next::new($string);

        /// As the C library's.
        ///
        /// # Safety
        /// `handler` is one.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(number: c_int, handler: libc::sighandler_t) -> libc::sighandler_t {
            let next = if is_active() { std::ptr::null_mut() } else { $next.get() };
            if !next.is_null() {
                // SAFETY: the symbol is the C library's function of this type; the arguments are the client's.
                return unsafe { std::mem::transmute::<*mut c_void, SignalFn>(next)(number, handler) };
            }
            active_signal(number, handler, $flags)
        }
    )*};
}

/// BSD's meaning: system calls restart, the handler stays.
const BSD: c_int = libc::SA_RESTART;
/// System V's: they do not, it does not, and it may interrupt itself.
const SYSV: c_int = libc::SA_RESETHAND | libc::SA_NODEFER;

signals! {
    signal NEXT_SIGNAL c"signal" BSD;
    bsd_signal NEXT_BSD_SIGNAL c"bsd_signal" BSD;
    ssignal NEXT_SSIGNAL c"ssignal" BSD;
    sysv_signal NEXT_SYSV_SIGNAL c"sysv_signal" SYSV;
    __sysv_signal NEXT_SYSV_SIGNAL_2 c"__sysv_signal" SYSV;
}

fn active_signal(number: c_int, handler: libc::sighandler_t, flags: c_int) -> libc::sighandler_t {
    let itself = if flags & libc::SA_NODEFER == 0 && (1..=64).contains(&number) {
        SigSet::of(number)
    } else {
        SigSet::EMPTY
    };
    let new = Action {
        handler: handler as u64,
        flags: u64::from(flags as u32),
        restorer: 0,
        mask: itself,
    };
    match ours(number, Some(&new)) {
        Ok(was) => was.handler as libc::sighandler_t,
        Err(errno) => {
            fail(errno);
            libc::SIG_ERR
        }
    }
}
