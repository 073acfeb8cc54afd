//! The errand on the host itself: the guest's busybox, and the guest's programs.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::guest::{Errand, Task, judge};
use crate::measure::Outcome;
use crate::workloads::Kind;

/// Does the errand; `done` gets each task as it ends.
pub fn run(errand: &Errand, mut done: impl FnMut(Task, Outcome)) -> Result<()> {
    for task in &errand.tasks {
        let outcome = match task.workload.kind {
            Kind::Script(_) => script(errand, task.workload.name)?,
            _ => program(errand, *task),
        };
        done(*task, outcome);
    }
    Ok(())
}

fn program(errand: &Errand, task: Task) -> Outcome {
    let name = task.workload.name;
    let said = errand
        .programs
        .run(name, errand.percent, task.copies)
        .map_err(|error| format!("{error:#}"))?;
    judge(name, said, &errand.expected)
}

fn script(errand: &Errand, name: &str) -> Result<Outcome> {
    let busybox = &errand.programs.assets.busybox;
    let mut command = Command::new(busybox);
    command
        .arg("sh")
        .arg(errand.programs.script(name))
        .env("BUSYBOX", busybox);
    let start = Instant::now();
    let status = command.status().context("starting busybox")?;
    let time = start.elapsed();
    Ok(if status.success() {
        Ok(time.as_secs_f64())
    } else {
        Err(format!("{name} ended with {status}"))
    })
}
