//! How much two processors do: each compute program alone, and in two copies at once, on a machine with two processors.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::guest::Task;
use crate::report::geomean;
use crate::workloads::{Class, Kind, of_kind};

pub const CPUS: u32 = 2;

/// Of the work that programs do by themselves; they run twice here.
pub const PERCENT: u32 = 30;

/// Seconds of one program.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pair {
    pub alone: f64,
    pub together: f64,
}

impl Pair {
    /// The work that was done in the time, in that of one processor.
    pub fn work(self) -> f64 {
        f64::from(CPUS) * self.alone / self.together
    }
}

/// Every program alone and then together, so that each ratio is of neighbours.
pub fn tasks() -> Vec<Task> {
    of_kind(Kind::Program(Class::Compute))
        .flat_map(|workload| [1, CPUS].map(|copies| Task { workload, copies }))
        .collect()
}

/// What came of the tasks of one round.
#[derive(Default)]
pub struct Round(BTreeMap<(&'static str, u32), f64>);

impl Round {
    pub fn take(&mut self, task: Task, seconds: f64) {
        self.0.insert((task.workload.name, task.copies), seconds);
    }

    /// The pairs of all programs; `None` if one is missing, for then the mean would be of something else.
    pub fn pairs(&self) -> Option<Vec<(&'static str, Pair)>> {
        of_kind(Kind::Program(Class::Compute))
            .map(|workload| {
                let seconds = |copies| self.0.get(&(workload.name, copies)).copied();
                let (alone, together) = (seconds(1)?, seconds(CPUS)?);
                Some((workload.name, Pair { alone, together }))
            })
            .collect()
    }
}

/// The work of two processors in that of one, over all programs.
pub fn work(pairs: &[(&'static str, Pair)]) -> Option<f64> {
    geomean(pairs.iter().map(|(_, pair)| pair.work()))
}

#[cfg(test)]
mod tests {
    use super::{Pair, Round, tasks, work};

    #[test]
    fn work_is_that_of_two() {
        let pair = |alone, together| ("fib", Pair { alone, together });
        assert_eq!(work(&[pair(1.0, 1.0)]), Some(2.0));
        assert_eq!(work(&[pair(1.0, 1.0), pair(1.0, 4.0)]), Some(1.0));
        assert_eq!(work(&[]), None);
    }

    #[test]
    fn a_round_is_whole_or_nothing() {
        let mut round = Round::default();
        let tasks = tasks();
        for task in &tasks[1..] {
            round.take(*task, 1.0);
        }
        assert!(round.pairs().is_none());
        round.take(tasks[0], 2.0);
        assert_eq!(round.pairs().expect("whole").len(), tasks.len() / 2);
    }
}
