//! Watching what a number of the client's stands for, without keeping it open: when the client closes the last descriptor, nothing
//! is watched any more, as the kernel's own waiting has it.
//!
//! That needs the system call that compares a descriptor with what an epoll instance watches.

use super::{Callback, EventLoop, Shared};
use crate::fd::{self, with_raw};
use crate::sys;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// What is watched; not any more once dropped.
pub struct ClientWatch {
    shared: Arc<Shared>,
    id: u64,
    number: RawFd,
}

/// What a descriptor is to a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    Same,
    Other,
    /// Nothing is watched: it was closed.
    Gone,
    /// The kernel does not say.
    Unknown,
}

impl EventLoop {
    /// Calls `callback` whenever what `number` stands for, which is what `file` does, becomes readable. `None` where the kernel
    /// does not compare.
    pub fn watch_client(
        &self,
        number: RawFd,
        file: impl AsFd,
        callback: Callback,
    ) -> io::Result<Option<ClientWatch>> {
        let shared = self.shared()?;
        let mut state = shared.state();
        let id = state.add(callback);
        let flags = EventFlags::IN | EventFlags::ET;
        let added = with_raw(number, |fd| {
            epoll::add(&shared.epoll, fd, EventData::new_u64(id), flags)
        });
        if let Err(error) = added.and_then(|added| Ok(added?)) {
            state.callbacks.remove(&id);
            return Err(error);
        }
        state.by_number.insert(number, id);
        drop(state);
        let watch = ClientWatch { shared, id, number };
        match watch.compare(file) {
            Compared::Same => Ok(Some(watch)),
            Compared::Unknown => Ok(None),
            // The number was closed, and maybe given to something else, just now.
            Compared::Other | Compared::Gone => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }
}

impl ClientWatch {
    /// Whether the number was watched for something else later, so that nothing can be said of what it was.
    fn is_superseded(&self) -> bool {
        self.shared.state().by_number.get(&self.number) != Some(&self.id)
    }

    fn compare(&self, fd: impl AsFd) -> Compared {
        if self.is_superseded() {
            return Compared::Other;
        }
        let (epoll, fd) = (self.shared.epoll.as_raw_fd(), fd.as_fd().as_raw_fd());
        // Under one number there may be several files, as one that was closed may have other descriptors. When one of them goes
        // meanwhile, those behind it move up.
        let mut before = 0;
        loop {
            let mut nth = 0;
            let end = loop {
                match sys::epoll_watches(epoll, self.number, nth, fd) {
                    Ok(true) => return Compared::Same,
                    Ok(false) => nth += 1,
                    Err(error) => break error,
                }
            };
            match (end, nth) {
                (Errno::NOENT, 0) => return Compared::Gone,
                (Errno::NOENT, _) if nth == before => return Compared::Other,
                (Errno::NOENT, _) => before = nth,
                _ => return Compared::Unknown,
            }
        }
    }

    /// Whether `fd` stands for it.
    pub fn is(&self, fd: impl AsFd) -> bool {
        self.compare(fd) == Compared::Same
    }

    /// Whether its last descriptor is closed.
    pub fn is_gone(&self) -> bool {
        self.compare(&self.shared.epoll) == Compared::Gone
    }

    /// A descriptor of it, if the client's number still stands for it.
    pub fn open(&self) -> Option<OwnedFd> {
        let fd = fd::dup_raw(self.number).ok()?;
        self.is(&fd).then_some(fd)
    }
}

impl Drop for ClientWatch {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let callback = state.callbacks.remove(&self.id);
        if state.by_number.get(&self.number) == Some(&self.id) {
            state.by_number.remove(&self.number);
            // If the number stands for something else by now, that is not watched.
            let _ = with_raw(self.number, |fd| epoll::delete(&self.shared.epoll, fd));
        }
        drop(state);
        // Not under the lock: what the callback owns may drop further watches.
        drop(callback);
    }
}

impl std::fmt::Debug for ClientWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientWatch")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fd::{eventfd, eventfd_signal};
    use std::sync::mpsc;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn what_is_closed_is_gone_and_a_duplicate_keeps_it() {
        let events = EventLoop::new();
        let (told, fires) = mpsc::channel();
        let callback: Callback = Arc::new(move || told.send(()).unwrap_or(()));
        let first = eventfd().unwrap();
        let number = first.as_raw_fd();
        let Some(watch) = events.watch_client(number, &first, callback).unwrap() else {
            return eprintln!("skipped: the kernel does not compare files");
        };
        let again = fd::dup_raw(number).unwrap();
        assert!(watch.is(&first) && watch.is(&again) && !watch.is(eventfd().unwrap()));
        assert!(watch.open().is_some() && !watch.is_gone());
        eventfd_signal(&first).unwrap();
        assert_eq!(fires.recv_timeout(SOON), Ok(()));
        drop(first);
        // The number may stand for another one now, which is no matter.
        let second = eventfd().unwrap();
        assert!(watch.open().is_none() && watch.is(&again) && !watch.is_gone());
        assert!(!watch.is(&second));
        eventfd_signal(&again).unwrap();
        assert_eq!(fires.recv_timeout(SOON), Ok(()));
        drop(again);
        assert!(watch.is_gone() && !watch.is(&second));
    }

    #[test]
    fn a_number_can_be_watched_for_one_after_the_other() {
        let events = EventLoop::new();
        let nothing: Callback = Arc::new(|| ());
        let first = eventfd().unwrap();
        let number = first.as_raw_fd();
        let Some(old) = events.watch_client(number, &first, nothing.clone()).unwrap() else {
            return eprintln!("skipped: the kernel does not compare files");
        };
        let again = fd::dup_raw(number).unwrap();
        drop(first);
        let second = eventfd().unwrap();
        if second.as_raw_fd() != number {
            return eprintln!("skipped: another thread took the number");
        }
        let new = events.watch_client(number, &second, nothing).unwrap().unwrap();
        drop((again, old));
        assert!(new.is(&second) && !new.is_gone());
        assert!(events.watch_client(-1, &second, Arc::new(|| ())).is_err());
    }
}
