//! Processes that this one started, and theirs: none of them outlives a limit or an interrupt.
//!
//! Guests stand in process groups of their own, so neither the terminal's Ctrl-C nor the death of the test that
//! started one reaches it. Orphans are therefore handed to this process, where they can be found and ended.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};

/// Exit status of a program that an interrupt ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// How often the tree is looked through for what was being started meanwhile.
const ROUNDS: usize = 50;

/// From here on, descendants stay in reach, and end with this process when it is interrupted.
pub fn keep() -> Result<()> {
    set_child_subreaper(Some(getpid())).context("adopting orphans")?;
    ctrlc::set_handler(|| {
        end_all();
        std::process::exit(INTERRUPTED);
    })
    .context("handling interrupts")
}

/// Whether work was done within its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    InTime,
    /// All descendants were killed, whereupon the work came to whatever end.
    Late,
}

/// Does `work`, which waits for child processes; when it takes longer than `limit`, they are killed.
pub fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> (T, Ended) {
    let (done, wait) = mpsc::channel::<()>();
    let watch = thread::spawn(move || match wait.recv_timeout(limit) {
        Err(RecvTimeoutError::Timeout) => {
            end_all();
            Ended::Late
        }
        _ => Ended::InTime,
    });
    let result = work();
    drop(done);
    (result, watch.join().unwrap_or(Ended::InTime))
}

/// Kills every descendant; gives up on what does not die.
fn end_all() {
    for _ in 0..ROUNDS {
        let alive = descendants();
        if alive.is_empty() {
            return;
        }
        for pid in alive {
            // It may have ended meanwhile; and only descendants' numbers are used.
            let _ = kill_process(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// All descendants that still run.
fn descendants() -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Ok(stat) = std::fs::read_to_string(entry.path().join("stat"))
            && let Some((pid, parent)) = running(&stat)
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut pending = vec![getpid().as_raw_nonzero().get()];
    while let Some(parent) = pending.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            pending.push(child);
            found.extend(Pid::from_raw(child));
        }
    }
    found
}

/// Process and parent of a line of `/proc/PID/stat`, unless it is a zombie.
fn running(stat: &str) -> Option<(i32, i32)> {
    // The name in parentheses may hold anything, parentheses and spaces too.
    let (pid, _) = stat.split_once(' ')?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (state != "Z" && state != "X").then_some((pid.parse().ok()?, parent))
}

#[cfg(test)]
mod tests {
    use super::{Ended, running, within};
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[test]
    fn lines_of_stat() {
        assert_eq!(running("12 (a) b (c) S 7 12 12 0"), Some((12, 7)));
        assert_eq!(running("12 (sh) Z 7 12 12 0"), None);
        assert_eq!(running(""), None);
    }

    #[test]
    fn what_takes_too_long_is_ended_with_all_it_started() {
        let start = Instant::now();
        let (status, ended) = within(Duration::from_millis(200), || {
            Command::new("sh")
                .args(["-c", "sleep 1000 & sleep 1000"])
                .status()
        });
        assert_eq!(ended, Ended::Late);
        assert!(!status.expect("sh starts").success());
        assert!(start.elapsed() < Duration::from_secs(100));
    }

    #[test]
    fn what_ends_in_time_is_left_alone() {
        assert_eq!(within(Duration::from_secs(100), || 7), (7, Ended::InTime));
    }
}
