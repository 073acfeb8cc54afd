//! The client's eventfds.

use crate::errno::Errno;
use ring3_host::{eventfd, fd};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

/// An eventfd that the client named. We hold a descriptor of our own, so it stays when the client closes its number.
#[derive(Debug)]
pub struct EventFd {
    fd: Arc<OwnedFd>,
}

impl EventFd {
    /// The eventfd behind the client's number: EBADF if there is nothing, EINVAL if it is something else.
    pub fn of_client(number: RawFd) -> Result<EventFd, Errno> {
        let fd = fd::dup_raw(number)?;
        if !fd::is_eventfd(&fd) {
            return Err(Errno::EINVAL);
        }
        Ok(EventFd { fd: Arc::new(fd) })
    }

    /// The descriptor, for waiting.
    pub fn shared(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// Empties it; whether there was anything.
    pub fn take(&self) -> bool {
        matches!(fd::eventfd_take(&*self.fd), Ok(Some(_)))
    }

    /// Adds one.
    pub fn signal(&self) {
        if let Err(error) = fd::eventfd_signal(&*self.fd) {
            tracing::warn!(%error, "an eventfd of the client's cannot be signalled");
        }
    }

    /// Whether both are the same eventfd.
    pub fn is(&self, other: &EventFd) -> bool {
        eventfd::same(&*self.fd, &*other.fd)
    }
}
