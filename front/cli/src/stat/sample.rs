//! What all processes' boards say at one moment.

use ring3_client::board::{Board, Owner};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The unit of times in `/proc/PID/stat`: Linux's USER_HZ is 100 on x86.
const TICK_NS: u64 = 10_000_000;

/// A moment's numbers.
pub struct Sample {
    pub at: Instant,
    pub processes: Vec<Process>,
}

/// A process that has VMs.
pub struct Process {
    pub pid: u32,
    pub command: String,
    /// Time on processors, of all its threads.
    pub cpu_ns: u64,
    /// VMs and vCPUs.
    pub things: BTreeMap<Owner, Numbers>,
}

/// Statistics by name; a histogram is several numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(pub BTreeMap<String, Vec<u64>>);

impl Numbers {
    /// A number; zero if there is none of that name.
    pub fn get(&self, name: &str) -> u64 {
        self.0
            .get(name)
            .and_then(|numbers| numbers.first())
            .copied()
            .unwrap_or(0)
    }
}

impl Sample {
    /// Of these processes, or of all that can be seen.
    pub fn take(wanted: &[u32]) -> Sample {
        let mut pids = wanted.to_vec();
        if pids.is_empty() {
            let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
            pids.extend(entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()));
        }
        pids.sort_unstable();
        pids.dedup();
        Sample {
            at: Instant::now(),
            processes: pids.into_iter().filter_map(Process::look).collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// A line for each VM and vCPU.
    pub fn json(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = now.map_or(0.0, |now| now.as_secs_f64());
        let line = |process: &Process, owner: &Owner, numbers: &Numbers| {
            let stats: Map<String, Value> = numbers
                .0
                .iter()
                .map(|(name, numbers)| match numbers[..] {
                    [one] => (name.clone(), json!(one)),
                    _ => (name.clone(), json!(numbers)),
                })
                .collect();
            let object = json!({
                "time": time, "pid": process.pid, "command": process.command, "cpu_ns": process.cpu_ns,
                "vm": owner.vm, "vcpu": owner.vcpu, "stats": stats,
            });
            format!("{object}\n")
        };
        self.processes
            .iter()
            .flat_map(|process| process.things.iter().map(move |thing| (process, thing)))
            .map(|(process, (owner, numbers))| line(process, owner, numbers))
            .collect()
    }
}

impl Process {
    fn look(pid: u32) -> Option<Process> {
        let directory = Path::new("/proc").join(pid.to_string());
        let board = Board::of(&directory)?;
        let things: BTreeMap<_, _> = board
            .tables()
            .into_iter()
            .map(|(owner, table)| {
                let names = table.rows().iter().map(|(name, _)| name.clone());
                let numbers = names.filter_map(|name| Some((name.clone(), table.get(&name).ok()?)));
                (owner, Numbers(numbers.collect()))
            })
            .collect();
        if things.is_empty() {
            return None;
        }
        Some(Process {
            pid,
            command: fs::read_to_string(directory.join("comm"))
                .ok()?
                .trim_end()
                .to_string(),
            cpu_ns: cpu_ns(&fs::read_to_string(directory.join("stat")).ok()?)?,
            things,
        })
    }
}

/// User and system time of a line of `/proc/PID/stat`.
fn cpu_ns(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything; user time is the twelfth word behind it.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ').skip(11);
    let mut ticks = || words.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) * TICK_NS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_client::Kvm;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194304 90 0 0 0 12 30 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ns(line), Some(42 * TICK_NS));
        assert_eq!(cpu_ns("7 (a"), None);
    }

    #[test]
    fn a_sample_has_this_process_while_it_has_a_vm() {
        let vm = Kvm::in_process().and_then(|kvm| kvm.create_vm(0)).expect("a VM");
        let vcpu = vm.create_vcpu(0).expect("a vCPU");
        let own = std::process::id();
        let sample = Sample::take(&[own]);
        let process = &sample.processes[0];
        assert_eq!(process.pid, own);
        let lines = sample.json();
        let values: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert!(
            values
                .iter()
                .any(|value| value["vcpu"] == 0 && value["stats"]["runs"] == 0)
        );
        assert!(
            values
                .iter()
                .any(|value| value["vcpu"].is_null() && value["stats"]["pages_4k"] == 0)
        );
        assert!(
            Sample::take(&[])
                .processes
                .iter()
                .any(|process| process.pid == own)
        );
        drop((vcpu, vm));
    }
}
