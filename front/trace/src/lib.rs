//! `ring3 trace`: what a client does with KVM, decoded.
//!
//! A [`Tracer`] is told of each call by `front/interpose`, in the traced process itself. It reads the argument from the client's
//! memory ([`argument`]), decodes it by the ABI's own descriptions ([`decode`], [`value`], and [`exit`] for what KVM_RUN returned
//! with), writes a line ([`line`], [`output`]), and keeps accounts ([`summary`]) of which the most useful is what the client
//! asked for in vain ([`lack`]). [`options`] is how `ring3 trace` says what is wanted.
//!
//! Not supported: an account of a process that is killed, or that executes another program in its place.
#![forbid(unsafe_code)]

mod argument;
mod decode;
mod exit;
mod lack;
mod line;
pub mod options;
mod output;
mod summary;
#[cfg(test)]
mod tests;
mod time;
mod value;

pub use line::Event;

use argument::{Memory, When};
use exit::{Exit, Like};
use line::{Argument, Stamp};
use options::{Form, Lines, Options, Wanted};
use output::Output;
use ring3_host::shared::SharedPages;
use ring3_host::time::{Monotonic, monotonic_now};
use ring3_kvm::{Errno, FileKind};
use ring3_uapi::arch::Level;
use ring3_uapi::ioctl::{self, IoctlRow, KVM_CREATE_DEVICE, KVM_RUN};
use std::collections::HashMap;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use summary::{Summary, Whose};

/// What a call is on.
#[derive(Clone, Copy, Debug)]
pub struct On {
    pub fd: RawFd,
    pub kind: FileKind,
    /// The vCPU's id.
    pub vcpu: Option<u32>,
}

impl On {
    fn kind_name(&self) -> &'static str {
        kind_name(self.kind)
    }
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::System => "system",
        FileKind::Vm => "vm",
        FileKind::Vcpu => "vcpu",
        FileKind::Device => "device",
        FileKind::Stats => "stats",
        FileKind::GuestMemfd => "guest_memfd",
    }
}

fn row(kind: FileKind, request: u32) -> Option<&'static IoctlRow> {
    let level = match kind {
        FileKind::System => Level::System,
        FileKind::Vm => Level::Vm,
        FileKind::Vcpu => Level::Vcpu,
        FileKind::Device => Level::Device,
        FileKind::Stats | FileKind::GuestMemfd => return None,
    };
    ioctl::lookup(level, request)
}

fn call_name(kind: FileKind, request: u32) -> String {
    let row = row(kind, request).or_else(|| ioctl::lookup_any(request));
    row.map_or_else(|| format!("{request:#010x}"), |row| row.name.to_string())
}

/// Whether there is such a request here at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    Yes,
    No,
}

/// An ioctl that has returned.
struct Call {
    on: On,
    request: u32,
    arg: u64,
    result: Result<i64, Errno>,
    served: Served,
    ns: u64,
}

impl Call {
    fn name(&self) -> String {
        call_name(self.on.kind, self.request)
    }
}

/// An ioctl that is about to be made.
pub struct Begun {
    on: On,
    request: u32,
    arg: u64,
    row: Option<&'static IoctlRow>,
    before: Option<Memory>,
    start: Monotonic,
}

/// What makes calls on a descriptor alike.
#[derive(PartialEq, Eq, Hash)]
enum Alike {
    /// KVM_RUN: where it ended.
    Exit(RawFd, Like),
    /// Other requests: what went in, and the result. A hash of these.
    Call(RawFd, u64),
}

/// Of calls that are alike, so many get a line; later ones at powers of ten only.
const FIRST: u64 = 5;
/// Calls that are told apart.
const ALIKE: usize = 1 << 16;

struct State {
    output: Output,
    summary: Summary,
    /// How often there were calls that are alike.
    seen: HashMap<Alike, u64>,
    /// The types of the devices' descriptors.
    devices: HashMap<RawFd, u32>,
    finished: bool,
}

/// Traces one process.
pub struct Tracer {
    options: Options,
    start: Monotonic,
    began: Monotonic,
    pid: u32,
    file: Option<OsString>,
    state: Mutex<State>,
}

impl Tracer {
    pub fn new(wanted: Wanted) -> Tracer {
        let now = monotonic_now();
        Tracer {
            options: wanted.options,
            file: wanted.file.clone(),
            start: wanted.start.map_or(now, Monotonic),
            began: now,
            pid: rustix::process::getpid().as_raw_nonzero().get() as u32,
            state: Mutex::new(State {
                output: Output::new(wanted.file),
                summary: Summary::default(),
                seen: HashMap::new(),
                devices: HashMap::new(),
                finished: false,
            }),
        }
    }

    /// The tracer of a forked child, which is one of these: it takes no lock, since a thread that only the parent has may hold
    /// it.
    pub fn forked(&self) -> Tracer {
        Tracer::new(Wanted {
            options: self.options,
            file: self.file.clone(),
            start: Some(self.start.0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self, at: Monotonic) -> Stamp {
        Stamp {
            pid: self.pid,
            tid: rustix::thread::gettid().as_raw_nonzero().get() as u32,
            ns: at.since(self.start),
        }
    }

    /// An ioctl is about to be made.
    pub fn begin(&self, on: On, request: u32, arg: u64) -> Begun {
        let row = row(on.kind, request);
        Begun {
            on,
            request,
            arg,
            row,
            before: row.and_then(|row| argument::read(row, arg, When::Before)),
            start: monotonic_now(),
        }
    }

    /// It has returned. `page` is the vCPU's run page, if it was on a vCPU.
    pub fn end(
        &self,
        begun: Begun,
        (result, served): (Result<i64, Errno>, Served),
        page: Option<&SharedPages>,
    ) {
        let call = Call {
            on: begun.on,
            request: begun.request,
            arg: begun.arg,
            result,
            served,
            ns: monotonic_now().since(begun.start),
        };
        let run = call.on.kind == FileKind::Vcpu && call.request == KVM_RUN;
        let exit = page.filter(|_| run).and_then(|page| exit::read(page, result));
        let after = begun
            .row
            .filter(|_| result.is_ok() || begun.before.is_some())
            .and_then(|row| argument::read(row, call.arg, When::After))
            .map(|after| match result {
                Ok(_) => after,
                // The list is as long as it was, whatever the header says it should have been.
                Err(_) => after.without_entries(),
            });
        let mut state = self.state();
        state.account(&call, begun.before.as_ref(), after.as_ref(), exit.as_ref());
        if self.options.lines == Lines::Summary {
            return;
        }
        let text = self.options.form == Form::Text;
        let mut note = None;
        if text && self.options.lines == Lines::Folded {
            match state.times(&call, begun.before.as_ref(), exit.as_ref()) {
                times if times <= FIRST => {}
                times if is_power_of_ten(times) => note = Some(times),
                _ => return,
            }
        }
        let number = || begun.row.and_then(|row| argument::number(row, call.arg));
        let argument = Argument {
            before: begun.before.as_ref().map(Memory::value).or_else(number),
            after: after.as_ref().map(Memory::value),
        };
        let stamp = self.stamp(begun.start);
        let line = match self.options.form {
            Form::Text => line::call_text(stamp, &call, &argument, exit.as_ref(), note),
            Form::Json => line::call_json(stamp, &call, &argument, exit.as_ref()),
        };
        state.output.write(&line);
    }

    /// Something else happened to a descriptor.
    pub fn event(&self, on: On, event: Event) {
        let mut state = self.state();
        if matches!(event, Event::Close) {
            state.devices.remove(&on.fd);
        }
        if self.options.lines == Lines::Summary {
            return;
        }
        let line = match self.options.form {
            Form::Text => line::event_text,
            Form::Json => line::event_json,
        };
        state.output.write(&line(self.stamp(monotonic_now()), &on, event));
    }

    /// The process ends: the summary, once.
    pub fn finish(&self) {
        let mut state = self.state();
        if std::mem::replace(&mut state.finished, true) {
            return;
        }
        let name = rustix::fs::openat(
            rustix::fs::CWD,
            "/proc/self/comm",
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        let mut comm = [0; 64];
        let len = name
            .and_then(|file| rustix::io::read(file, &mut comm))
            .unwrap_or(0);
        let name = String::from_utf8_lossy(comm.get(..len).unwrap_or_default());
        let whose = Whose {
            pid: self.pid,
            name: name.trim_end().to_string(),
            ns: monotonic_now().since(self.began),
        };
        let lines = match self.options.form {
            Form::Text => state.summary.text(&whose).to_string(),
            Form::Json => format!("{}\n", state.summary.json(&whose)),
        };
        if !state.summary.is_empty() {
            state.output.write(&lines);
        }
    }
}

fn is_power_of_ten(number: u64) -> bool {
    number
        .checked_ilog10()
        .is_some_and(|log| 10u64.checked_pow(log) == Some(number))
}

impl State {
    fn account(&mut self, call: &Call, before: Option<&Memory>, after: Option<&Memory>, exit: Option<&Exit>) {
        self.summary.add_call(call);
        let device = self.devices.get(&call.on.fd).copied();
        if let Some(lack) = lack::of_call(call, before, device) {
            self.summary.add_lack(lack);
        }
        if call.request == KVM_CREATE_DEVICE
            && call.result.is_ok()
            && let Some(after) = after
            && let (Some(fd), Some(number)) = (after.number("fd"), after.number("type"))
        {
            self.devices.insert(fd as RawFd, number as u32);
        }
        if let Some(exit) = exit {
            self.summary.add_exit(exit.like, call.ns);
            if let Some(lack) = lack::of_exit(exit) {
                self.summary.add_lack(lack);
            }
        }
    }

    /// How many calls like this one there were, with it.
    fn times(&mut self, call: &Call, before: Option<&Memory>, exit: Option<&Exit>) -> u64 {
        let alike = match exit {
            Some(exit) => Alike::Exit(call.on.fd, exit.like),
            None => {
                let mut hasher = DefaultHasher::new();
                let errno = call.result.err().map(|errno| errno.0);
                (call.request, errno, before.map(Memory::bytes)).hash(&mut hasher);
                if before.is_none() {
                    call.arg.hash(&mut hasher);
                }
                Alike::Call(call.on.fd, hasher.finish())
            }
        };
        if self.seen.len() >= ALIKE && !self.seen.contains_key(&alike) {
            return 1;
        }
        let times = self.seen.entry(alike).or_default();
        *times += 1;
        *times
    }
}
