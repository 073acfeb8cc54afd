//! One guest of a round: it boots, runs every chosen workload, and powers off.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use ring3_guest::console::Seen;
use ring3_guest::guest::patience;
use ring3_guest::machine::KernelLog;
use ring3_guest::{Accel, Guest, Machine};

use crate::measure::{Outcome, Round};
use crate::programs::{Programs, result_of, understand};
use crate::workloads::{Kind, Workload};

/// What the guests of a run have in common.
pub struct Plan<'a> {
    pub programs: &'a Programs,
    pub workloads: &'a [&'static Workload],
    /// How much of their work programs do, in percent.
    pub percent: u32,
    /// The checksums that the host found.
    pub expected: &'a BTreeMap<&'static str, u64>,
}

/// The machine, with the words that make init run `tests`.
pub fn machine(accel: Accel, tests: &str, percent: u32) -> Machine {
    let mut machine = Machine::new(accel).word("percent", &percent.to_string());
    machine.kernel_log = KernelLog::Shown;
    if !tests.is_empty() {
        machine = machine.word("test", tests);
    }
    machine.word("then", "poweroff")
}

/// Runs one. It is an error if the guest itself breaks; a workload that fails is an outcome.
pub fn round(accel: Accel, plan: &Plan) -> Result<Round> {
    let inside = || {
        plan.workloads
            .iter()
            .filter(|workload| workload.kind != Kind::Boot)
    };
    let tests: Vec<String> = inside()
        .map(|workload| format!("work:{}", workload.name))
        .collect();
    let machine = machine(accel, &tests.join(","), plan.percent);
    let mut guest = Guest::start(&machine, &plan.programs.assets)?;
    let booted = guest.process.expect("guest: init", patience(300))?;
    let mut round = Vec::new();
    if plan.workloads.iter().any(|workload| workload.kind == Kind::Boot) {
        round.push(("boot", Ok(booted.at - guest.process.started)));
    }
    for workload in inside() {
        round.push((workload.name, one(&guest, workload, plan)?));
    }
    guest.powered_off()?;
    Ok(round)
}

/// One workload in a guest.
fn one(guest: &Guest, workload: &Workload, plan: &Plan) -> Result<Outcome> {
    let name = workload.name;
    let console = &guest.process.console;
    let start = console.expect(&format!("guest: start {name}"), patience(120))?;
    let failed = format!("guest: FAIL work:{name}");
    let mark = match workload.kind {
        Kind::Program(_) => result_of(name),
        _ => format!("guest: end {name}"),
    };
    let end = console.expect_any(&[&mark, &failed], patience(300))?;
    if end.index == 1 {
        return Ok(Err(format!(
            "{name} failed; the console ends:\n{}",
            console.tail()
        )));
    }
    let outcome = match workload.kind {
        Kind::Program(_) => judge(name, &console.rest_of_line(patience(10))?, (start, end), plan),
        _ => Ok(end.at - start.at),
    };
    guest.passed(&format!("work:{name}"), patience(10))?;
    Ok(outcome)
}

/// What a program said counts if its checksum is right and its clock agrees with the host's.
fn judge(name: &str, line: &str, (start, end): (Seen, Seen), plan: &Plan) -> Outcome {
    let said = understand(line).map_err(|error| format!("{name}: {error:#}"))?;
    if plan.expected.get(name) != Some(&said.checksum) {
        return Err(format!("{name} found the wrong checksum {:016x}", said.checksum));
    }
    clocks_agree(said.warm + said.time, end.at - start.at).map_err(|error| format!("{name}: {error}"))?;
    Ok(said.time)
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
    use super::clocks_agree;
    use std::time::Duration;

    #[test]
    fn a_wrong_clock_is_found() {
        let agree =
            |guest, host| clocks_agree(Duration::from_millis(guest), Duration::from_millis(host)).is_ok();
        assert!(agree(2000, 2100) && agree(2000, 2900) && agree(10, 300));
        assert!(!agree(2000, 1000) && !agree(2000, 4000));
    }
}
