//! One line for one event, as text or as an object of JSON.

use crate::exit::{Exit, reason_name};
use crate::time::Duration;
use crate::value::Value;
use crate::{Call, On};
use ring3_kvm::Errno;
use serde::Serialize;
use std::fmt::{self, Display, Formatter};

/// Who, and when.
#[derive(Clone, Copy)]
pub struct Stamp {
    pub pid: u32,
    pub tid: u32,
    /// Nanoseconds since tracing began.
    pub ns: u64,
}

/// What is known of a call's argument.
#[derive(Default)]
pub struct Argument {
    /// As it was before the call, be it a number or a structure.
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// Something about a descriptor other than an ioctl.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Open,
    Close,
    Dup { new: i32 },
    Mmap { at: u64, len: usize, offset: i64 },
}

#[derive(Serialize)]
struct CallLine<'a> {
    pid: u32,
    tid: u32,
    t: f64,
    call: &'static str,
    fd: i32,
    on: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpu: Option<u32>,
    name: String,
    request: u32,
    arg: u64,
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    before: Option<&'a Value>,
    #[serde(rename = "out", skip_serializing_if = "Option::is_none")]
    after: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<String>,
    ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<ExitLine<'a>>,
}

#[derive(Serialize)]
struct ExitLine<'a> {
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a Value>,
}

/// A call as JSON.
pub fn call_json(stamp: Stamp, call: &Call, argument: &Argument, exit: Option<&Exit>) -> String {
    let line = CallLine {
        pid: stamp.pid,
        tid: stamp.tid,
        t: stamp.ns as f64 / 1e9,
        call: "ioctl",
        fd: call.on.fd,
        on: call.on.kind_name(),
        vcpu: call.on.vcpu,
        name: call.name(),
        request: call.request,
        arg: call.arg,
        before: argument.before.as_ref(),
        after: argument.after.as_ref(),
        result: call.result.ok(),
        errno: call.result.err().map(|errno| format!("{errno:?}")),
        ns: call.ns,
        exit: exit.map(|exit| ExitLine {
            reason: reason_name(exit.like.reason),
            payload: exit.payload.as_ref(),
        }),
    };
    // There is nothing in it that JSON cannot say.
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}

#[derive(Serialize)]
struct EventLine {
    pid: u32,
    tid: u32,
    t: f64,
    call: &'static str,
    fd: i32,
    on: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    len: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
}

/// Another event as JSON.
pub fn event_json(stamp: Stamp, on: &On, event: Event) -> String {
    let (call, result, len, offset) = match event {
        Event::Open => ("open", None, None, None),
        Event::Close => ("close", None, None, None),
        Event::Dup { new } => ("dup", u64::try_from(new).ok(), None, None),
        Event::Mmap { at, len, offset } => ("mmap", Some(at), Some(len), Some(offset)),
    };
    let line = EventLine {
        pid: stamp.pid,
        tid: stamp.tid,
        t: stamp.ns as f64 / 1e9,
        call,
        fd: on.fd,
        on: on.kind_name(),
        vcpu: on.vcpu,
        result,
        len,
        offset,
    };
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}

impl Display for Stamp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:<7} {:>11.6}", self.pid, self.ns as f64 / 1e9)
    }
}

impl Display for On {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.vcpu {
            Some(id) => write!(f, "{} {id} (fd {})", self.kind_name(), self.fd),
            None => write!(f, "{} (fd {})", self.kind_name(), self.fd),
        }
    }
}

fn outcome(result: Result<i64, Errno>) -> String {
    match result {
        Ok(value @ -9..=0xffff) => value.to_string(),
        Ok(value) => format!("{value:#x}"),
        Err(errno) => format!("{errno:?}"),
    }
}

/// A call as text; `times`, if it stands for calls like it that got no line.
pub fn call_text(
    stamp: Stamp,
    call: &Call,
    argument: &Argument,
    exit: Option<&Exit>,
    times: Option<u64>,
) -> String {
    let mut text = format!("{stamp} {}: {}", call.on, call.name());
    match argument {
        Argument {
            before: None,
            after: None,
        } if exit.is_some() => {}
        Argument {
            before: None,
            after: None,
        } if call.arg == 0 => text += "()",
        Argument {
            before: None,
            after: None,
        } => text += &format!("({:#x})", call.arg),
        Argument {
            before: Some(before),
            after: None,
        } => text += &format!("({before})"),
        Argument {
            before: None,
            after: Some(after),
        } => text += &format!("(→ {after})"),
        Argument {
            before: Some(before),
            after: Some(after),
        } => match after.changes(before) {
            None => text += &format!("({before})"),
            Some(changes) if call.result.is_ok() && has_entries(after) => text += &format!("(→ {changes})"),
            Some(changes) => text += &format!("({before} → {changes})"),
        },
    }
    text += &format!(" = {} <{}>", outcome(call.result), Duration(call.ns));
    if let Some(exit) = exit.filter(|exit| exit.like.reason.is_some()) {
        text += &format!(" {}", reason_name(exit.like.reason));
        if let Some(payload) = &exit.payload {
            text += &format!(" {payload}");
        }
    }
    if let Some(times) = times {
        text += &format!(" [the {times}th like this]");
    }
    text.push('\n');
    text
}

/// Whether the value is that of a list: what there was in it before is of little interest then.
fn has_entries(value: &Value) -> bool {
    matches!(value, Value::Structure(fields) if fields.iter().any(|(name, _)| *name == "entries"))
}

/// Another event as text.
pub fn event_text(stamp: Stamp, on: &On, event: Event) -> String {
    match event {
        Event::Open => format!("{stamp} open(\"/dev/kvm\") = {}\n", on.fd),
        Event::Close => format!("{stamp} {on}: close\n"),
        Event::Dup { new } => format!("{stamp} {on}: dup = {new}\n"),
        Event::Mmap { at, len, offset } => {
            format!("{stamp} {on}: mmap({len:#x} bytes from {offset:#x}) = {at:#x}\n")
        }
    }
}
