//! One service thread that watches descriptors and runs timers.
//!
//! Irqfds and the timers of in-kernel devices live here. The thread starts at first use, blocks every signal but
//! those of its own faults, so that no handler of the client's ever runs on it, and is joined when the loop is
//! dropped. Callbacks run on it one at a time, with no lock of the loop's held.
//!
//! Cancelling does not wait: a callback that has begun when its [`Watch`] is dropped or its [`Timer`] is disarmed still
//! finishes. So whoever cancels may hold the locks that the callback takes, and a callback looks at the state of its
//! device again.

mod client;

pub use client::ClientWatch;

use crate::fd;
use crate::sys::{self, MaskHow, SigSet};
use crate::time::{Monotonic, monotonic_now};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What is called when a descriptor is readable or a timer expires.
pub type Callback = Arc<dyn Fn() + Send + Sync>;

const STOP: u64 = 0;
const TIMER: u64 = 1;
const FIRST_ID: u64 = 2;

/// The service thread and what it waits for.
#[derive(Default)]
pub struct EventLoop {
    running: Mutex<Option<Running>>,
}

struct Running {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    epoll: OwnedFd,
    timerfd: OwnedFd,
    stop: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    callbacks: HashMap<u64, Callback>,
    /// Of the client's numbers that are watched, the newest watch.
    by_number: HashMap<RawFd, u64>,
    /// Armed timers, the next to expire first.
    armed: BTreeSet<(Monotonic, u64)>,
    /// What the timerfd is set to.
    set: Option<Monotonic>,
}

impl EventLoop {
    /// A loop whose thread does not run yet.
    pub fn new() -> EventLoop {
        EventLoop::default()
    }

    /// Calls `callback` whenever `fd` is readable, for as long as it stays readable: the callback reads it.
    pub fn watch(&self, fd: Arc<OwnedFd>, callback: Callback) -> io::Result<Watch> {
        let shared = self.shared()?;
        let id = shared.state().add(callback);
        let watch = Watch {
            shared: shared.clone(),
            id,
            fd,
        };
        // Where this fails, dropping `watch` takes the callback out again.
        epoll::add(&shared.epoll, &*watch.fd, EventData::new_u64(id), EventFlags::IN)?;
        Ok(watch)
    }

    /// A timer that calls `callback` each time it expires; not armed yet.
    pub fn timer(&self, callback: Callback) -> io::Result<Timer> {
        let shared = self.shared()?;
        let id = shared.state().add(callback);
        Ok(Timer {
            shared,
            id,
            at: Mutex::new(None),
        })
    }

    fn shared(&self) -> io::Result<Arc<Shared>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*running {
            return Ok(running.shared.clone());
        }
        let shared = Arc::new(Shared::new()?);
        let thread = spawn(shared.clone())?;
        *running = Some(Running {
            shared: shared.clone(),
            thread,
        });
        Ok(shared)
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        let running = self
            .running
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Running { shared, thread }) = running else {
            return;
        };
        // It cannot fail: the counter is ours and far from full.
        let _ = fd::eventfd_signal(&shared.stop);
        // The last owner may be a callback, on the very thread.
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLoop").finish_non_exhaustive()
    }
}

/// A watched descriptor; no longer watched once dropped.
pub struct Watch {
    shared: Arc<Shared>,
    id: u64,
    fd: Arc<OwnedFd>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let callback = self.shared.state().callbacks.remove(&self.id);
        // Fails only where adding it failed.
        let _ = epoll::delete(&self.shared.epoll, &*self.fd);
        // Not under the lock: what the callback owns may drop further watches.
        drop(callback);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}

/// A one-shot timer that can be armed again and again.
pub struct Timer {
    shared: Arc<Shared>,
    id: u64,
    at: Mutex<Option<Monotonic>>,
}

impl Timer {
    /// Makes it expire at `at`, and not when it was to before. A moment in the past is now.
    pub fn arm(&self, at: Monotonic) {
        self.change(Some(at));
    }

    /// Makes it not expire.
    pub fn disarm(&self) {
        self.change(None);
    }

    fn change(&self, to: Option<Monotonic>) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.shared.state();
        if let Some(at) = *at {
            state.armed.remove(&(at, self.id));
        }
        *at = to;
        if let Some(to) = to {
            state.armed.insert((to, self.id));
            // A later one waits its turn: the thread sets the next whenever one expires.
            if state.set.is_none_or(|set| to < set) {
                self.shared.set_timerfd(&mut state, Some(to));
            }
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.disarm();
        let callback = self.shared.state().callbacks.remove(&self.id);
        drop(callback);
    }
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timer")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl State {
    fn add(&mut self, callback: Callback) -> u64 {
        let id = FIRST_ID + self.next_id;
        self.next_id += 1;
        self.callbacks.insert(id, callback);
        id
    }
}

impl Shared {
    fn new() -> io::Result<Shared> {
        let epoll = fd::out_of_the_way(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timerfd = fd::out_of_the_way(rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?);
        let stop = fd::out_of_the_way(fd::eventfd()?);
        epoll::add(&epoll, &timerfd, EventData::new_u64(TIMER), EventFlags::IN)?;
        epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        Ok(Shared {
            epoll,
            timerfd,
            stop,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_timerfd(&self, state: &mut State, to: Option<Monotonic>) {
        state.set = to;
        // All zero would mean never; the past is expired just as well one nanosecond after zero.
        let ns = to.map_or(0, |Monotonic(ns)| ns.clamp(1, i64::MAX as u64));
        let value = Timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        };
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: value,
        };
        let set = rustix::time::timerfd_settime(&self.timerfd, TimerfdTimerFlags::ABSTIME, &once);
        debug_assert!(set.is_ok());
    }

    /// Calls what has expired, and sets the timerfd to what expires next.
    fn run_timers(&self) {
        // Empty if another thread set the timer anew just now.
        let _ = rustix::io::read(&self.timerfd, &mut [0; 8]);
        loop {
            let mut state = self.state();
            let next = state.armed.first().copied();
            match next {
                Some((at, id)) if at <= monotonic_now() => {
                    state.armed.pop_first();
                    let callback = state.callbacks.get(&id).cloned();
                    drop(state);
                    if let Some(callback) = callback {
                        callback();
                    }
                }
                _ => {
                    self.set_timerfd(&mut state, next.map(|(at, _)| at));
                    return;
                }
            }
        }
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(16);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                // The client closed our descriptor: there is nothing left to serve.
                Err(_) => return,
            }
            for event in &events {
                let id = event.data.u64();
                match id {
                    STOP => return,
                    TIMER => self.run_timers(),
                    _ => {
                        let callback = self.state().callbacks.get(&id).cloned();
                        if let Some(callback) = callback {
                            callback();
                        }
                    }
                }
            }
        }
    }
}

fn spawn(shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    // The new thread inherits the mask. Faults stay deliverable: callbacks touch client memory.
    let all = SigSet(u64::MAX).without(crate::signal::FAULTS);
    let before = sys::sigprocmask(MaskHow::Set, all);
    let thread = std::thread::Builder::new()
        .name("ring3-events".into())
        .spawn(move || shared.run());
    sys::sigprocmask(MaskHow::Set, before);
    thread
}

#[cfg(test)]
mod tests;
