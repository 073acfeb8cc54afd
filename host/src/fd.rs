//! File descriptors: memfds, eventfds, identity, polling.
//!
//! Descriptors are the standard library's `OwnedFd`, whose drop calls the C library's `close`. Inside `libring3.so`
//! that is our own `close`: it must not hold, while it closes, a lock that is held where one is dropped.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, MemfdFlags, SealFlags};
use rustix::io::{Errno, FdFlags, fcntl_getfd};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which open file a descriptor stands for, however many descriptors do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdId {
    device: u64,
    inode: u64,
}

/// Identifies what `fd` stands for.
pub fn identity(fd: impl AsFd) -> io::Result<FdId> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(FdId {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// Identifies what the number `fd` stands for, if anything.
pub fn identity_of_raw(fd: RawFd) -> io::Result<FdId> {
    with_raw(fd, |fd| identity(fd))?
}

/// Lends the descriptor with number `fd`, which may be closed or negative, for one call.
pub fn with_raw<R>(fd: RawFd, call: impl FnOnce(BorrowedFd<'_>) -> R) -> io::Result<R> {
    if fd < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: the number is not -1. That it may be closed or reused meanwhile is the client's affair, as with any
    // system call it makes: the kernel answers EBADF, and no memory depends on it.
    Ok(call(unsafe { BorrowedFd::borrow_raw(fd) }))
}

/// Another descriptor of our own (close-on-exec) for what the client's number `fd` stands for. Its number is high from the
/// first, so that none that the client has just closed seems to be open again.
pub fn dup_raw(fd: RawFd) -> io::Result<OwnedFd> {
    with_raw(fd, |fd| {
        match rustix::io::fcntl_dupfd_cloexec(fd, FIRST_OF_OURS) {
            // The client may have fewer than that.
            Err(Errno::INVAL | Errno::MFILE) => dup_for_client(fd),
            result => Ok(result?),
        }
    })?
}

/// Another descriptor (close-on-exec) to give to the client.
pub(crate) fn dup_for_client(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 0)?)
}

/// Where descriptors of our own are: the client's come out as without us.
const FIRST_OF_OURS: RawFd = 960;

/// Takes over the descriptor with number `fd`, or `None` if it is not open.
///
/// The caller says that nobody else will close it.
pub fn adopt_raw(fd: RawFd) -> Option<OwnedFd> {
    with_raw(fd, |fd| fcntl_getfd(fd)).ok()?.ok()?;
    // SAFETY: it is open, and by the caller's word nobody else closes it. A double close would be an I/O mistake, not
    // a memory one.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets or clears close-on-exec.
pub fn set_cloexec(fd: impl AsFd, cloexec: CloseOnExec) -> io::Result<()> {
    let flags = match cloexec {
        CloseOnExec::Yes => FdFlags::CLOEXEC,
        CloseOnExec::No => FdFlags::empty(),
    };
    Ok(rustix::io::fcntl_setfd(fd, flags)?)
}

/// Whether a descriptor is closed by exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseOnExec {
    /// It is.
    Yes,
    /// A program that is executed inherits it.
    No,
}

/// Moves a descriptor of our own to a high number, so that the client's numbers come out as without us.
pub fn out_of_the_way(fd: OwnedFd) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(&fd, FIRST_OF_OURS).unwrap_or(fd)
}

/// A descriptor of our own in a process whose client may close it, not knowing it, and use its number for something else.
#[derive(Debug)]
pub struct KeptFd {
    fd: ManuallyDrop<OwnedFd>,
    id: FdId,
}

impl KeptFd {
    /// Out of the client's way.
    pub fn new(fd: OwnedFd) -> io::Result<KeptFd> {
        let fd = out_of_the_way(fd);
        let id = identity(&fd)?;
        Ok(KeptFd {
            fd: ManuallyDrop::new(fd),
            id,
        })
    }

    /// The descriptor, if it still is what it was. A system call.
    pub fn get(&self) -> Option<&OwnedFd> {
        let now = identity(&*self.fd);
        now.is_ok_and(|now| now == self.id).then_some(&*self.fd)
    }

    pub fn id(&self) -> FdId {
        self.id
    }
}

impl Drop for KeptFd {
    fn drop(&mut self) {
        // Otherwise the number is the client's.
        if self.get().is_some() {
            // SAFETY: it is not used again, this being its end.
            drop(unsafe { ManuallyDrop::take(&mut self.fd) });
        }
    }
}

/// A close-on-exec memfd of `size` zero bytes.
pub fn memfd_create(name: &str, size: u64) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&fd, size)?;
    Ok(fd)
}

/// A memfd that keeps its size for ever.
pub fn sealed_memfd(name: &str, size: u64) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, size)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// A memfd that has this in it for ever.
pub fn constant_memfd(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    // Whole: it is a file in memory.
    rustix::io::pwrite(&fd, content, 0)?;
    rustix::fs::fcntl_add_seals(
        &fd,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(fd)
}

/// A non-blocking, close-on-exec eventfd with count zero.
pub fn eventfd() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(
        0,
        EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
    )?)
}

/// Whether the descriptor is an eventfd (an irqfd or ioeventfd must be).
pub fn is_eventfd(fd: impl AsFd) -> bool {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    rustix::fs::readlink(link, Vec::new()).is_ok_and(|target| target.as_bytes() == b"anon_inode:[eventfd]")
}

/// Whether the descriptor is a VFIO group or device, which only the kernel's own list of devices tells.
pub fn is_vfio(fd: impl AsFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(fd) else {
        return false;
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return false;
    }
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let class = rustix::fs::readlink(format!("/sys/dev/char/{major}:{minor}/subsystem"), Vec::new());
    class.is_ok_and(|class| {
        let class = class.as_bytes();
        class.ends_with(b"/vfio") || class.ends_with(b"/vfio-dev")
    })
}

/// Adds one to an eventfd. A full counter stays full, as with the kernel's own signalling.
pub fn eventfd_signal(fd: impl AsFd) -> io::Result<()> {
    // A blocking eventfd of the client's would block here when full, after 2^64-2 signals: never.
    match rustix::io::write(fd, &1u64.to_ne_bytes()) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Takes the count of an eventfd, `None` if it is zero. Never blocks, whatever the client set.
pub fn eventfd_take(fd: impl AsFd) -> io::Result<Option<u64>> {
    let fd = fd.as_fd();
    if !is_readable(fd)? {
        return Ok(None);
    }
    let mut count = [0; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(_) => Ok(Some(u64::from_ne_bytes(count))),
        Err(Errno::AGAIN) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether a read would return at once.
pub fn is_readable(fd: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        match rustix::event::poll(&mut fds, Some(&now)) {
            Ok(_) => return Ok(fds[0].revents().contains(PollFlags::IN)),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn duplicates_share_an_identity() {
        let a = memfd_create("a", 4096).unwrap();
        let b = memfd_create("b", 4096).unwrap();
        let id = identity(&a).unwrap();
        assert_eq!(
            identity_of_raw(dup_raw(a.as_raw_fd()).unwrap().as_raw_fd()).unwrap(),
            id
        );
        assert_ne!(identity(&b).unwrap(), id);
        assert_eq!(identity_of_raw(-1).unwrap_err().raw_os_error(), Some(9));
        assert_eq!(identity_of_raw(1 << 30).unwrap_err().raw_os_error(), Some(9));
        assert!(adopt_raw(1 << 30).is_none());
        assert!(adopt_raw(a.into_raw_fd()).is_some());
    }

    #[test]
    fn an_eventfd_counts() {
        let fd = eventfd().unwrap();
        assert_eq!(eventfd_take(&fd).unwrap(), None);
        eventfd_signal(&fd).unwrap();
        eventfd_signal(&fd).unwrap();
        assert!(is_readable(&fd).unwrap());
        assert_eq!(eventfd_take(&fd).unwrap(), Some(2));
        assert_eq!(eventfd_take(&fd).unwrap(), None);
        assert!(is_eventfd(&fd) && !is_eventfd(memfd_create("x", 1).unwrap()));
    }

    #[test]
    fn ours_move_up() {
        let fd = out_of_the_way(eventfd().unwrap());
        assert!(fd.as_raw_fd() >= FIRST_OF_OURS);
        assert!(dup_raw(fd.as_raw_fd()).unwrap().as_raw_fd() >= FIRST_OF_OURS);
        assert!(dup_for_client(&fd).unwrap().as_raw_fd() < FIRST_OF_OURS);
    }
}
