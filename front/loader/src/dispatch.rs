//! A system call of the client's, from the instruction to the answer.

use crate::calls::{Call, Outcome, rows};
use crate::seccomp::{self, Verdict};
use crate::sites;
use crate::thread::*;
use std::sync::atomic::Ordering::Relaxed;

/// Does what the client wants. Runs on ring3's stack, as any code of ring3's; signals of the client's wait.
pub extern "C" fn dispatch(thread: &'static Thread) -> Exit {
    debug_assert_eq!(thread.state.load(Relaxed), AT_HOST);
    if thread.caught.replace(false) {
        sites::caught(thread);
    }
    let call = Call::of(thread);
    let outcome = match seccomp::judge(thread, &call) {
        Verdict::Allow => rows::serve(thread, &call),
        Verdict::Instead(outcome) => outcome,
    };
    match outcome {
        Outcome::Value(value) => {
            thread.set_register(REG_RAX, value as u64);
            Exit::Return
        }
        Outcome::Frame => Exit::Frame,
        Outcome::Leave => Exit::Leave,
    }
}
