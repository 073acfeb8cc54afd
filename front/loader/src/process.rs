//! What is the process's: what it does with signals, where its program is, where its data ends.

use crate::signal::actions::Actions;
use crate::thread::Thread;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub struct Process {
    pub actions: Actions,
    /// The program, for who asks.
    pub program: PathBuf,
    /// `libring3.so`, and the directory that it is in, for programs that are executed.
    pub library: PathBuf,
    /// The end of the data: where it began, and where it is.
    pub data_end: Mutex<(u64, u64)>,
    pub kind: Kind,
    threads: Mutex<Vec<Member>>,
}

/// Whether the process has its memory to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Own,
    Vforked,
}

/// A thread, as a list of them has it.
#[derive(Clone, Copy)]
pub struct Member(&'static Thread);

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.tid.fmt(f)
    }
}

// SAFETY: other threads use the atomic words and the locked parts alone.
unsafe impl Send for Member {}

impl Member {
    pub fn thread(&self) -> &'static Thread {
        self.0
    }
}

/// All that another thread could be changing.
type Held<'a> = (
    MutexGuard<'a, (u64, u64)>,
    MutexGuard<'a, ()>,
    MutexGuard<'a, Vec<Member>>,
);

impl Process {
    /// A process that has just begun.
    pub fn new(program: PathBuf, library: PathBuf, data_end: u64) -> Process {
        Process {
            actions: Actions::of_kernel(),
            program,
            library,
            data_end: Mutex::new((data_end, data_end)),
            kind: Kind::Own,
            threads: Mutex::default(),
        }
    }

    /// Its threads; none begins or ends while this is held.
    pub fn threads(&self) -> MutexGuard<'_, Vec<Member>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `thread` the only one.
    pub fn has_only(&self, thread: &'static Thread) {
        *self.threads() = vec![Member(thread)];
    }

    /// Puts in a thread that `begin` makes.
    pub fn has_also(&self, begin: impl FnOnce() -> &'static Thread) -> &'static Thread {
        let mut threads = self.threads();
        let thread = begin();
        threads.push(Member(thread));
        thread
    }

    /// Takes a thread out.
    pub fn has_no_longer(&self, thread: &Thread) {
        self.threads().retain(|member| !std::ptr::eq(member.0, thread));
    }

    /// Keeps others from changing it.
    pub fn hold(&self) -> Held<'_> {
        let data_end = self.data_end.lock().unwrap_or_else(PoisonError::into_inner);
        (data_end, self.actions.hold(), self.threads())
    }

    /// What a child of `vfork` begins with.
    pub fn vforked(&self) -> Process {
        Process {
            actions: self.actions.copy(),
            program: self.program.clone(),
            library: self.library.clone(),
            data_end: Mutex::new(self.data_end.lock().map_or((0, 0), |end| *end)),
            kind: Kind::Vforked,
            threads: Mutex::default(),
        }
    }
}

/// What the kernel tells under the names by which a process asks for its own program.
pub fn is_own_program(path: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(b"/proc/") else {
        return false;
    };
    let Some(who) = rest.strip_suffix(b"/exe") else {
        return false;
    };
    who == b"self" || who == b"thread-self" || who == std::process::id().to_string().as_bytes()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_the_own_program() {
        let own = format!("/proc/{}/exe", std::process::id());
        for name in ["/proc/self/exe", "/proc/thread-self/exe", &own] {
            assert!(super::is_own_program(name.as_bytes()), "{name}");
        }
        for name in ["/proc/1/exe", "/proc/exe", "/proc/self/fd/1", "/bin/exe", ""] {
            assert!(!super::is_own_program(name.as_bytes()), "{name}");
        }
    }
}
