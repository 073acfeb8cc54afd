//! What a process uses that it might not give back.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub descriptors: usize,
    /// Resident.
    pub pages: u64,
    pub threads: usize,
}

impl Usage {
    /// Of this process.
    pub fn own() -> io::Result<Usage> {
        Usage::at(Path::new("/proc/self"))
    }

    /// Of another one of this user's.
    pub fn of(process: u32) -> io::Result<Usage> {
        Usage::at(&PathBuf::from(format!("/proc/{process}")))
    }

    fn at(process: &Path) -> io::Result<Usage> {
        let statm = std::fs::read_to_string(process.join("statm"))?;
        let pages = statm
            .split_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse().ok());
        Ok(Usage {
            descriptors: std::fs::read_dir(process.join("fd"))?.count(),
            pages: pages.ok_or(io::ErrorKind::InvalidData)?,
            threads: std::fs::read_dir(process.join("task"))?.count(),
        })
    }

    /// Whether `now` comes to say that no more is in use, but for so many pages. Threads that end take their time.
    pub fn is_left(self, slack: u64, now: impl Fn() -> io::Result<Usage>) -> bool {
        let still = || {
            now().is_ok_and(|now| {
                now.descriptors <= self.descriptors
                    && now.threads <= self.threads
                    && now.pages <= self.pages + slack
            })
        };
        (0..1000).any(|_| {
            still() || {
                std::thread::sleep(Duration::from_millis(5));
                false
            }
        })
    }
}
