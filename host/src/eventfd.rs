//! Telling eventfds apart.

use std::os::fd::{AsFd, AsRawFd};

/// Whether two descriptors stand for the same eventfd. (They share one inode with every other eventfd, so that does not tell.)
pub fn same(a: impl AsFd, b: impl AsFd) -> bool {
    let (a, b) = (a.as_fd(), b.as_fd());
    let compared = crate::sys::same_file(a.as_raw_fd(), b.as_raw_fd());
    // A program may be forbidden to compare files. To look them up takes a descriptor of a low number for a moment.
    compared.unwrap_or_else(|| id(a).is_some_and(|id_of_a| Some(id_of_a) == id(b)))
}

/// Whether the kernel compares files here.
pub fn files_compare() -> bool {
    crate::sys::same_file(0, 0).is_some()
}

/// The kernel's number of the eventfd, the same for all its descriptors. `None` if `fd` is not an eventfd, or /proc is not there.
fn id(fd: impl AsFd) -> Option<u64> {
    use rustix::fs::{Mode, OFlags};
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let info = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = [0; 512];
    let len = rustix::io::read(&info, &mut text).ok()?;
    let line = text[..len]
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"eventfd-id:"))?;
    str::from_utf8(line).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fd;

    #[test]
    fn duplicates_are_the_same_and_others_are_not() {
        let (a, b) = (fd::eventfd().unwrap(), fd::eventfd().unwrap());
        let again = fd::dup_raw(a.as_raw_fd()).unwrap();
        assert!(id(&a).is_some());
        assert_eq!(id(&a), id(&again));
        assert_ne!(id(&a), id(&b));
        assert_eq!(id(fd::memfd_create("x", 1).unwrap()), None);
        assert!(same(&a, &again) && !same(&a, &b) && !same(&b, &again));
    }
}
