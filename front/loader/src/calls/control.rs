//! prctl, arch_prctl and seccomp, as far as they are about what ring3 stands before.

use super::{Call, Outcome, done, failed};
use crate::seccomp;
use crate::signal::calls::fault;
use crate::sites;
use crate::thread::Thread;
use ring3_host::user::UserPtr;

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_GET_GS: u64 = 0x1004;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
/// Where user memory ends.
const TOP: u64 = (1 << 47) - 4096;

pub fn arch_prctl(thread: &Thread, call: &Call) -> Outcome {
    let [what, address, ..] = call.arguments;
    match what {
        ARCH_SET_FS if address >= TOP => failed(libc::EPERM),
        ARCH_SET_FS => {
            thread.client_fs.set(address);
            Outcome::Value(0)
        }
        ARCH_GET_FS => {
            let told = UserPtr::new(address).write(&thread.client_fs.get());
            done(told.map(|()| 0).map_err(fault))
        }
        ARCH_SET_GS => {
            sites::give_up_gs();
            call.pass(thread)
        }
        // As long as the client sets none, it is zero as far as it knows.
        ARCH_GET_GS if !sites::gs_is_the_clients() => {
            done(UserPtr::new(address).write(&0u64).map(|()| 0).map_err(fault))
        }
        _ => call.pass(thread),
    }
}

/// Syscall User Dispatch is ring3's here.
const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;

pub fn prctl(thread: &Thread, call: &Call) -> Outcome {
    let [what, a, b, ..] = call.arguments;
    match what as i32 {
        libc::PR_GET_SECCOMP => seccomp::mode(thread),
        libc::PR_SET_SECCOMP => seccomp::set_mode(thread, a, b),
        PR_SET_SYSCALL_USER_DISPATCH => failed(libc::EINVAL),
        _ => call.pass(thread),
    }
}

pub fn seccomp(thread: &Thread, call: &Call) -> Outcome {
    let [operation, flags, argument, ..] = call.arguments;
    seccomp::operate(thread, operation, flags, argument)
}
