//! VM exits: the client `ring3-exits`, under `ring3 run` or on the machine's own KVM.

use std::process::Command;

use anyhow::{Context, Result};
use ring3_guest::guest::patience;
use ring3_guest::{Process, places};

use crate::Peer;
use crate::programs::result_of;

/// Nanoseconds of a round trip; of ring3, or else of `/dev/kvm` as it is.
pub fn one(peer: Peer, way: &str, percent: u32) -> Result<f64> {
    let client = places::target().join("release/ring3-exits");
    let mut command = if peer == Peer::Ring3 {
        let mut command = Command::new(places::ring3()?);
        command.args(["run", "--"]).arg(client);
        command
    } else {
        Command::new(client)
    };
    command.arg(percent.to_string()).arg(way);
    let mut process = Process::start(command)?;
    answer(&mut process, way).with_context(|| way.to_string())
}

fn answer(process: &mut Process, way: &str) -> Result<f64> {
    process.expect(&result_of(way), patience(30))?;
    let line = process.console.rest_of_line(patience(10))?;
    process.wait_success(patience(10))?;
    nanoseconds(&line)
}

fn nanoseconds(line: &str) -> Result<f64> {
    let word = line.split_whitespace().find_map(|word| word.strip_prefix("ns="));
    let word = word.with_context(|| format!("no time in {line:?}"))?;
    word.parse().with_context(|| format!("the time in {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::nanoseconds;

    #[test]
    fn the_time_is_found() {
        assert_eq!(nanoseconds("ns=12.5 trips=7").expect("a time"), 12.5);
        assert!(nanoseconds("trips=7").is_err());
    }
}
