//! One guest of a round: it boots, does its errand, and powers off.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use ring3_guest::guest::patience;
use ring3_guest::machine::KernelLog;
use ring3_guest::{Accel, Guest, Machine, places};

use crate::measure::Outcome;
use crate::programs::{Programs, result_of, understand};
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
    for task in &errand.tasks {
        done(*task, one(guest, *task, errand)?);
    }
    guest.powered_off()?;
    Ok(booted.at - guest.process.started)
}

/// One task in a guest.
fn one(guest: &Guest, task: Task, errand: &Errand) -> Result<Outcome> {
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
            let line = console.rest_of_line(patience(10))?;
            judge(name, &line, end.at - start.at, &errand.expected)
        }
        _ => Ok((end.at - start.at).as_secs_f64()),
    };
    guest.passed(&format!("work:{word}"), patience(10))?;
    Ok(outcome)
}

/// What a program said counts if its checksum is right and its clock agrees with the host's, by which it took `host`.
fn judge(name: &str, line: &str, host: Duration, expected: &BTreeMap<&'static str, u64>) -> Outcome {
    let said = understand(line).map_err(|error| format!("{name}: {error:#}"))?;
    check(name, said.checksum, expected)?;
    clocks_agree(said.warm + said.time, host).map_err(|error| format!("{name}: {error}"))?;
    Ok(said.time.as_secs_f64())
}

/// Whether a program found what it must find.
pub fn check(name: &str, checksum: u64, expected: &BTreeMap<&'static str, u64>) -> Result<(), String> {
    match expected.get(name) {
        Some(expected) if *expected == checksum => Ok(()),
        _ => Err(format!("{name} found the wrong checksum {checksum:016x}")),
    }
}

/// Starting a process and preparing data are not in the guest's time, and a marker may reach the host late.
fn clocks_agree(guest: Duration, host: Duration) -> Result<()> {
    let least = host.mul_f64(0.7).saturating_sub(Duration::from_millis(500));
    let most = host.mul_f64(1.1) + Duration::from_millis(300);
    if guest < least || guest > most {
        bail!("{guest:.2?} by the guest's clock were {host:.2?} by the host's");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::judge;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// Whether a second's work counts that took `host` by the host's clock.
    fn counts(checksum: &str, host: u64) -> bool {
        let expected = BTreeMap::from([("fib", 0xab)]);
        let line = format!("checksum={checksum} warm=1000000000 ns=1000000000");
        judge("fib", &line, Duration::from_millis(host), &expected) == Ok(1.0)
    }

    #[test]
    fn wrong_work_does_not_count() {
        assert!(counts("ab", 2100));
        assert!(!counts("ac", 2100));
        assert!(judge("lz", "checksum=0 warm=0 ns=0", Duration::ZERO, &BTreeMap::new()).is_err());
    }

    #[test]
    fn a_wrong_clock_does_not_count() {
        assert!(counts("ab", 2000) && counts("ab", 2900));
        assert!(!counts("ab", 1000) && !counts("ab", 4000));
    }
}
