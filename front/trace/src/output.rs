//! Where the lines go: the standard error of the process as it was when tracing began, or a file.
//!
//! The descriptor is the client's to close by accident. So what it stands for is looked at before each use, and a file is
//! opened again.

use ring3_host::fd::{FdId, dup_raw, identity_of_raw, out_of_the_way, with_raw};
use rustix::fs::{CWD, Mode, OFlags};
use std::ffi::OsString;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};

/// An open output.
pub struct Output {
    /// The file; the standard error without one.
    path: Option<OsString>,
    open: Option<(RawFd, FdId)>,
}

impl Output {
    pub fn new(path: Option<OsString>) -> Output {
        let mut output = Output { path, open: None };
        let first = match &output.path {
            None => dup_raw(2).ok(),
            Some(_) => output.reopened(),
        };
        output.open = first.and_then(kept);
        output
    }

    fn reopened(&self) -> Option<OwnedFd> {
        let how = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::openat(CWD, self.path.as_ref()?, how, Mode::from_raw_mode(0o666)).ok()
    }

    fn fd(&mut self) -> Option<RawFd> {
        let is_still = |&(fd, id): &(RawFd, FdId)| identity_of_raw(fd).is_ok_and(|now| now == id);
        if !self.open.as_ref().is_some_and(is_still) {
            // What the number stands for now, if anything, is the client's.
            self.open = self.reopened().and_then(kept);
        }
        Some(self.open?.0)
    }

    /// Writes whole lines. What cannot be written is lost: tracing must not change how the client fares.
    pub fn write(&mut self, lines: &str) {
        let Some(fd) = self.fd() else { return };
        let mut rest = lines.as_bytes();
        while !rest.is_empty() {
            match with_raw(fd, |fd| rustix::io::write(fd, rest)) {
                Ok(Ok(written)) => rest = rest.get(written..).unwrap_or_default(),
                Ok(Err(rustix::io::Errno::INTR)) => {}
                _ => return,
            }
        }
    }
}

fn kept(fd: OwnedFd) -> Option<(RawFd, FdId)> {
    let fd = out_of_the_way(fd).into_raw_fd();
    Some((fd, identity_of_raw(fd).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_host::fd::adopt_raw;

    #[test]
    fn a_descriptor_that_the_client_closed_is_opened_again() {
        let path = std::env::temp_dir().join(format!("ring3-trace-{}", std::process::id()));
        let mut output = Output::new(Some(path.clone().into_os_string()));
        output.write("one\n");
        let (fd, _) = output.open.expect("open");
        drop(adopt_raw(fd));
        output.write("two\n");
        let text = std::fs::read_to_string(&path).expect("a file");
        std::fs::remove_file(&path).expect("a file");
        assert_eq!(text, "one\ntwo\n");
    }
}
