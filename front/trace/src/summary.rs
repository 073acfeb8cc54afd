//! What a process did in all: its ioctls, its exits, and what it did not get.

use crate::exit::{Like, Place, reason_name};
use crate::lack::Lack;
use crate::time::Duration;
use crate::{Call, call_name, kind_name};
use ring3_kvm::{Errno, FileKind};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display, Formatter};

/// Places that are told apart.
const PLACES: usize = 1 << 16;
/// Places of a reason that are shown.
const SHOWN: usize = 4;

#[derive(Default)]
struct Calls {
    count: u64,
    ns: u64,
    errors: BTreeMap<i32, u64>,
}

#[derive(Clone, Copy, Default)]
struct Exits {
    count: u64,
    ns: u64,
}

/// The account of a process.
#[derive(Default)]
pub struct Summary {
    calls: HashMap<(FileKind, u32), Calls>,
    exits: HashMap<Like, Exits>,
    lacks: BTreeMap<Lack, u64>,
}

/// Whose account it is.
pub struct Whose {
    pub pid: u32,
    pub name: String,
    pub ns: u64,
}

struct Reason {
    reason: Option<u32>,
    total: Exits,
    places: Vec<(Place, u64)>,
}

impl Summary {
    pub fn add_call(&mut self, call: &Call) {
        let calls = self.calls.entry((call.on.kind, call.request)).or_default();
        calls.count += 1;
        calls.ns += call.ns;
        if let Err(errno) = call.result {
            *calls.errors.entry(errno.0).or_default() += 1;
        }
    }

    pub fn add_exit(&mut self, like: Like, ns: u64) {
        let known = self.exits.len() < PLACES || self.exits.contains_key(&like);
        let place = if known { like.place } else { Place::Nowhere };
        let exits = self.exits.entry(Like { place, ..like }).or_default();
        exits.count += 1;
        exits.ns += ns;
    }

    pub fn add_lack(&mut self, lack: Lack) {
        *self.lacks.entry(lack).or_default() += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Calls by name, those that took longest first.
    fn calls(&self) -> Vec<(String, &Calls)> {
        let mut rows: Vec<_> = self
            .calls
            .iter()
            .map(|(&(kind, request), calls)| {
                (format!("{} {}", kind_name(kind), call_name(kind, request)), calls)
            })
            .collect();
        rows.sort_by(|a, b| b.1.ns.cmp(&a.1.ns).then_with(|| a.0.cmp(&b.0)));
        rows
    }

    /// Exits by reason, the most frequent first, and so their places.
    fn reasons(&self) -> Vec<Reason> {
        let mut reasons: BTreeMap<Option<u32>, Reason> = BTreeMap::new();
        for (like, exits) in &self.exits {
            let entry = reasons.entry(like.reason).or_insert_with(|| Reason {
                reason: like.reason,
                total: Exits::default(),
                places: Vec::new(),
            });
            entry.total.count += exits.count;
            entry.total.ns += exits.ns;
            if like.place != Place::Nowhere {
                entry.places.push((like.place, exits.count));
            }
        }
        let mut reasons: Vec<_> = reasons.into_values().collect();
        for entry in &mut reasons {
            entry.places.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        }
        reasons.sort_by_key(|entry| std::cmp::Reverse(entry.total.count));
        reasons
    }

    /// As an object of JSON.
    pub fn json(&self, whose: &Whose) -> Json {
        let calls = self.calls();
        let ioctls = calls.iter().map(|(name, calls)| {
            let (on, name) = name.split_once(' ').unwrap_or(("", name));
            let errors: serde_json::Map<String, Json> = calls
                .errors
                .iter()
                .map(|(errno, count)| (errno_name(*errno), json!(count)))
                .collect();
            json!({"on": on, "name": name, "count": calls.count, "ns": calls.ns, "errors": errors})
        });
        let reasons = self.reasons();
        let exits = reasons.iter().map(|entry| {
            let places = entry
                .places
                .iter()
                .map(|(place, count)| json!({"at": place.to_string(), "count": count}));
            json!({
                "reason": reason_name(entry.reason), "count": entry.total.count, "ns": entry.total.ns,
                "places": places.collect::<Vec<_>>(),
            })
        });
        let lacks = self.lacks.iter().map(
            |(lack, count)| json!({"what": lack.what, "name": lack.name, "answer": lack.how, "count": count}),
        );
        json!({
            "pid": whose.pid, "call": "summary", "process": whose.name, "ns": whose.ns,
            "ioctls": ioctls.collect::<Vec<_>>(),
            "exits": exits.collect::<Vec<_>>(),
            "lacks": lacks.collect::<Vec<_>>(),
        })
    }

    /// As lines of text.
    pub fn text<'a>(&'a self, whose: &'a Whose) -> impl Display + 'a {
        Text(self, whose)
    }
}

fn errno_name(errno: i32) -> String {
    Errno(errno)
        .name()
        .map_or_else(|| errno.to_string(), str::to_string)
}

struct Text<'a>(&'a Summary, &'a Whose);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Text(summary, whose) = self;
        writeln!(
            f,
            "--- {} ({}), {} ---",
            whose.pid,
            whose.name,
            Duration(whose.ns)
        )?;
        writeln!(f, "{:>9} {:>10}  ioctl", "calls", "time")?;
        for (name, calls) in summary.calls() {
            write!(
                f,
                "{:>9} {:>10}  {name}",
                calls.count,
                Duration(calls.ns).to_string()
            )?;
            for (errno, count) in &calls.errors {
                write!(f, ", {count} {}", errno_name(*errno))?;
            }
            writeln!(f)?;
        }
        if !summary.exits.is_empty() {
            writeln!(f, "{:>9} {:>10}  exit", "times", "in KVM_RUN")?;
        }
        for entry in summary.reasons() {
            let Exits { count, ns } = entry.total;
            write!(
                f,
                "{count:>9} {:>10}  {}",
                Duration(ns).to_string(),
                reason_name(entry.reason)
            )?;
            for (n, (place, count)) in entry.places.iter().take(SHOWN).enumerate() {
                write!(f, "{} {place} ({count})", if n == 0 { ":" } else { "," })?;
            }
            if entry.places.len() > SHOWN {
                write!(f, ", … {} more", entry.places.len() - SHOWN)?;
            }
            writeln!(f)?;
        }
        if summary.lacks.is_empty() {
            return writeln!(f, "    Nothing that it asked for is lacking.");
        }
        writeln!(f, "{:>9}  lacking in ring3, and asked for", "times")?;
        for (Lack { what, name, how }, count) in &summary.lacks {
            writeln!(f, "{count:>9}  {what} {name}: {how}")?;
        }
        Ok(())
    }
}
