//! One guest of a round: it boots, does its errand, and powers off.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ring3_guest::guest::patience;
use ring3_guest::machine::KernelLog;
use ring3_guest::{Accel, Guest, Machine, places};

use crate::measure::Outcome;
use crate::programs::{Programs, Said, result_of, understand};
use crate::workloads::{Kind, Workload};

/// What a guest, or the host, is to do in one go.
pub struct Errand<'a> {
    pub programs: &'a Programs,
    pub tasks: Vec<Task>,
    pub cpus: u32,
    /// How much of their work programs do, in percent.
    pub percent: u32,
    /// The checksums that the host found. Whoever finds another one did not do the work.
    pub expected: BTreeMap<&'static str, u64>,
}

/// A workload that runs inside, once or in several copies at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    pub workload: &'static Workload,
    pub copies: u32,
}

impl Task {
    /// Its name for init.
    fn word(self) -> String {
        format!("{}:{}", self.workload.name, self.copies)
    }
}

/// A guest that does the tasks that init's word `tests` names.
pub fn machine(programs: &Programs, accel: Accel, tests: &str) -> Machine {
    let mut machine = Machine::new(accel);
    machine.qemu = Some(programs.qemu.clone());
    machine.kernel_log = KernelLog::Shown;
    if !tests.is_empty() {
        machine = machine.word("test", tests);
    }
    machine.word("then", "poweroff")
}

/// Does the errand; `done` gets each task as it ends. It is an error if the guest itself breaks. Returns how long it took to
/// boot.
pub fn run(accel: Accel, errand: &Errand, mut done: impl FnMut(Task, Outcome)) -> Result<Duration> {
    let words: Vec<String> = errand
        .tasks
        .iter()
        .map(|task| format!("work:{}", task.word()))
        .collect();
    let mut machine = machine(errand.programs, accel, &words.join(","));
    machine.cpus = errand.cpus;
    let machine = machine.word("percent", &errand.percent.to_string());
    let mut guest = Guest::start(&machine, &errand.programs.assets)?;
    attend(&mut guest, errand, &mut done).or_else(|error| {
        // What a broken guest said first tells more than what it said last.
        let file = places::target().join(format!("bench/broken-{}.txt", accel.name()));
        std::fs::write(&file, guest.process.console.text())?;
        bail!("{error:#}\nall of the console is in {}", file.display())
    })
}

fn attend(guest: &mut Guest, errand: &Errand, done: &mut impl FnMut(Task, Outcome)) -> Result<Duration> {
    let booted = guest.process.expect("guest: init", patience(120))?;
    let mut clocks = Clocks::default();
    for task in &errand.tasks {
        done(*task, one(guest, *task, errand, &mut clocks)?);
    }
    guest.powered_off()?;
    clocks.agree()?;
    Ok(booted.at - guest.process.started)
}

/// The time that a guest's programs took: by its clock and by the host's.
#[derive(Default)]
struct Clocks {
    guest: Duration,
    /// When the first one started, and the last one ended.
    host: Option<(Instant, Instant)>,
}

impl Clocks {
    fn take(&mut self, said: Said, start: Instant, end: Instant) {
        self.guest += said.warm + said.time;
        let first = self.host.map_or(start, |(first, _)| first);
        self.host = Some((first, end));
    }

    /// Whether they are of the same speed. Single programs are not compared: on a busy machine a line may be on its way for
    /// seconds. Starting processes and preparing data are not in the guest's time.
    fn agree(&self) -> Result<()> {
        let Some((first, last)) = self.host else {
            return Ok(());
        };
        let (guest, host) = (self.guest, last - first);
        let slack = Duration::from_secs(3);
        if guest > host.mul_f64(1.1) + slack || guest + slack < host.mul_f64(0.6) {
            bail!(
                "the guest's clock is wrong: programs took {guest:.2?} by it, and {host:.2?} by the host's"
            );
        }
        Ok(())
    }
}

/// One task in a guest.
fn one(guest: &Guest, task: Task, errand: &Errand, clocks: &mut Clocks) -> Result<Outcome> {
    let (name, word) = (task.workload.name, task.word());
    let console = &guest.process.console;
    let start = console.expect(&format!("guest: start {word}"), patience(60))?;
    let failed = format!("guest: FAIL work:{word}");
    let mark = match task.workload.kind {
        Kind::Program(_) => result_of(name),
        _ => format!("guest: end {word}"),
    };
    let end = console.expect_any(&[&mark, &failed], patience(120))?;
    if end.index == 1 {
        return Ok(Err(format!(
            "{name} failed; the console ends:\n{}",
            console.tail()
        )));
    }
    let outcome = match task.workload.kind {
        Kind::Program(_) => {
            let said = understand(&console.rest_of_line(patience(10))?)?;
            clocks.take(said, start.at, end.at);
            judge(name, said, &errand.expected)
        }
        _ => Ok((end.at - start.at).as_secs_f64()),
    };
    guest.passed(&format!("work:{word}"), patience(10))?;
    Ok(outcome)
}

/// What a program said counts if it did the work.
pub fn judge(name: &str, said: Said, expected: &BTreeMap<&'static str, u64>) -> Outcome {
    match expected.get(name) {
        Some(expected) if *expected == said.checksum => Ok(said.time.as_secs_f64()),
        _ => Err(format!("{name} found the wrong checksum {:016x}", said.checksum)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Clocks, judge};
    use crate::programs::Said;
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    fn said(checksum: u64, seconds: u64) -> Said {
        Said {
            checksum,
            warm: Duration::from_secs(1),
            time: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn wrong_work_does_not_count() {
        let expected = BTreeMap::from([("fib", 0xab)]);
        assert_eq!(judge("fib", said(0xab, 5), &expected), Ok(5.0));
        assert!(judge("fib", said(0xac, 5), &expected).is_err());
        assert!(judge("lz", said(0xab, 5), &expected).is_err());
    }

    #[test]
    fn a_wrong_clock_is_found() {
        let start = Instant::now();
        let agree = |host| {
            let mut clocks = Clocks::default();
            clocks.take(said(0, 10), start, start + Duration::from_secs(8));
            clocks.take(said(0, 10), start, start + Duration::from_secs(host));
            clocks.agree().is_ok()
        };
        assert!(agree(22) && agree(30) && agree(20));
        assert!(!agree(11) && !agree(44));
        assert!(Clocks::default().agree().is_ok());
    }
}
