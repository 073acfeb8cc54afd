//! Samples as text for people.

use super::sample::{Numbers, Process, Sample};
use ring3_client::board::Owner;
use std::fmt::Write;
use std::time::Duration;

/// Columns of counts, with the statistic that each is of.
const COUNTS: [(&str, &str); 6] = [
    ("EXITS", "exits"),
    ("IO", "io_exits"),
    ("MMIO", "mmio_exits"),
    ("HALTS", "halt_exits"),
    ("IRQS", "irq_injections"),
    ("TRANSL", "translations"),
];

/// Numbers since the VMs were made. What is per cent of time in [`rates`] is time here.
pub fn totals(now: &Sample) -> String {
    let mut text = head(["CPU", "GUEST", "HALT", "MINSTR"], "CODE");
    let none = Numbers::default();
    for (process, owner, numbers) in vcpus(now) {
        line(
            &mut text,
            process,
            owner,
            &Row {
                cpu: time(process.cpu_ns),
                guest: time(numbers.get("guest_ns")),
                halt: time(halted(numbers)),
                instructions: counted(numbers, || short(numbers.get("guest_instructions") as f64 / 1e6)),
                counts: COUNTS.map(|(_, name)| short(more(&none, numbers, name))),
                code: bytes(numbers.get("translated_bytes")),
            },
        );
    }
    text
}

/// What happened between two samples, per second.
pub fn rates(before: &Sample, now: &Sample) -> String {
    let mut text = head(["CPU%", "GUEST%", "HALT%", "MIPS"], "CODE");
    let span = now
        .at
        .saturating_duration_since(before.at)
        .as_secs_f64()
        .max(1e-9);
    let none = Numbers::default();
    for (process, owner, numbers) in vcpus(now) {
        let old = before.processes.iter().find(|old| old.pid == process.pid);
        let cpu = process
            .cpu_ns
            .saturating_sub(old.map_or(process.cpu_ns, |old| old.cpu_ns));
        let old = old.and_then(|old| old.things.get(owner)).unwrap_or(&none);
        let share = |ns: u64| format!("{:.0}", ns as f64 / span / 1e7);
        line(
            &mut text,
            process,
            owner,
            &Row {
                cpu: share(cpu),
                guest: share(more(old, numbers, "guest_ns") as u64),
                halt: share(halted(numbers).saturating_sub(halted(old))),
                instructions: counted(numbers, || {
                    short(more(old, numbers, "guest_instructions") / span / 1e6)
                }),
                counts: COUNTS.map(|(_, name)| short(more(old, numbers, name) / span)),
                code: bytes(numbers.get("translated_bytes")),
            },
        );
    }
    text
}

struct Row {
    cpu: String,
    guest: String,
    halt: String,
    instructions: String,
    counts: [String; COUNTS.len()],
    code: String,
}

fn head(times: [&str; 4], code: &str) -> String {
    let mut text = format!("{:>7} {:<15} {:>3} {:>4}", "PID", "COMMAND", "VM", "VCPU");
    for name in times
        .into_iter()
        .chain(COUNTS.map(|(name, _)| name))
        .chain([code])
    {
        let _ = write!(text, " {name:>7}");
    }
    text.push('\n');
    text
}

fn line(text: &mut String, process: &Process, owner: &Owner, row: &Row) {
    let (pid, command, vm) = (process.pid, &process.command, owner.vm);
    let vcpu = owner.vcpu.map_or("-".to_string(), |id| id.to_string());
    let _ = write!(text, "{pid:>7} {command:<15} {vm:>3} {vcpu:>4}");
    let times = [&row.cpu, &row.guest, &row.halt, &row.instructions];
    for number in times.into_iter().chain(&row.counts).chain([&row.code]) {
        let _ = write!(text, " {number:>7}");
    }
    text.push('\n');
}

/// The vCPUs. A VM that has none yet has a line, too.
fn vcpus(sample: &Sample) -> impl Iterator<Item = (&Process, &Owner, &Numbers)> {
    sample.processes.iter().flat_map(|process| {
        let things = process.things.iter();
        let lonely = |owner: &Owner| {
            owner.vcpu.is_none() && process.things.keys().filter(|other| other.vm == owner.vm).count() == 1
        };
        things
            .filter(move |(owner, _)| owner.vcpu.is_some() || lonely(owner))
            .map(move |(owner, numbers)| (process, owner, numbers))
    })
}

fn more(old: &Numbers, new: &Numbers, name: &str) -> f64 {
    new.get(name).saturating_sub(old.get(name)) as f64
}

fn halted(numbers: &Numbers) -> u64 {
    ["halt_wait_ns", "halt_poll_success_ns", "halt_poll_fail_ns"]
        .map(|name| numbers.get(name))
        .iter()
        .sum()
}

fn counted(numbers: &Numbers, text: impl FnOnce() -> String) -> String {
    match numbers.get("counts_instructions") {
        0 => "-".to_string(),
        _ => text(),
    }
}

fn time(ns: u64) -> String {
    let time = Duration::from_nanos(ns).as_secs_f64();
    if time < 1000.0 {
        format!("{time:.2}s")
    } else {
        format!("{:.0}m", time / 60.0)
    }
}

/// In at most six letters.
fn short(number: f64) -> String {
    for (unit, letter) in [(1e12, 'T'), (1e9, 'G'), (1e6, 'M')] {
        if number >= unit {
            return format!("{:.1}{letter}", number / unit);
        }
    }
    if number >= 1e5 {
        format!("{:.0}k", number / 1e3)
    } else {
        format!("{number:.0}")
    }
}

fn bytes(number: u64) -> String {
    match number {
        0..0x10_0000 => format!("{}K", number >> 10),
        _ => format!("{:.1}M", number as f64 / (1 << 20) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Instant;

    fn sample(at: Instant, scale: u64) -> Sample {
        let numbers = |of: &[(&str, u64)]| {
            Numbers(
                of.iter()
                    .map(|(name, number)| (name.to_string(), vec![*number]))
                    .collect(),
            )
        };
        let vcpu = numbers(&[
            ("exits", 1500 * scale),
            ("guest_ns", 500_000_000 * scale),
            ("translated_bytes", 3 << 20),
        ]);
        let owner = |vcpu| Owner { vm: 0, vcpu };
        let things = BTreeMap::from([(owner(None), Numbers::default()), (owner(Some(1)), vcpu)]);
        Sample {
            at,
            processes: vec![Process {
                pid: 77,
                command: "vmm".to_string(),
                cpu_ns: 0,
                things,
            }],
        }
    }

    #[test]
    fn rates_are_per_second() {
        let start = Instant::now();
        let (before, now) = (sample(start, 1), sample(start + Duration::from_secs(2), 3));
        let text = rates(&before, &now);
        let words: Vec<&str> = text.lines().nth(1).expect("a vCPU").split_whitespace().collect();
        assert_eq!(words[..8], ["77", "vmm", "0", "1", "0", "50", "0", "-"]);
        assert_eq!((words[8], words[14]), ("1500", "3.0M"));
        assert_eq!(text.lines().count(), 2, "a VM with vCPUs has no line of its own");
    }

    #[test]
    fn totals_are_since_the_beginning() {
        let text = totals(&sample(Instant::now(), 2));
        let words: Vec<&str> = text.lines().nth(1).expect("a vCPU").split_whitespace().collect();
        assert_eq!((words[5], words[8]), ("1.00s", "3000"));
    }

    #[test]
    fn numbers_stay_short() {
        for (number, text) in [
            (7.0, "7"),
            (99999.0, "99999"),
            (123456.0, "123k"),
            (2.5e6, "2.5M"),
            (1e13, "10.0T"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
