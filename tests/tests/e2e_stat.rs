//! `ring3 stat` sees a guest of QEMU's while it runs, and nothing of it afterwards.

#![forbid(unsafe_code)]

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ring3_guest::guest::patience;
use ring3_guest::places;
use ring3_tests::e2e::Bench;
use serde_json::Value;

/// What `ring3 stat` says of a process, an object for each VM and vCPU; none if it has none.
fn stat(pid: u32) -> Result<Vec<Value>> {
    let mut command = Command::new(places::ring3()?);
    command.args(["stat", "--once", "--json", &pid.to_string()]);
    let output = command.output().context("starting ring3")?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success() != text.is_empty(),
        "{} with {text:?}",
        output.status
    );
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_string()))
        .collect()
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn stat_sees_a_guest() -> Result<()> {
    let bench = Bench::new()?;
    if !bench.needs_ring3("ring3 stat") {
        return Ok(());
    }
    let mut machine = bench.machine();
    machine.cpus = 2;
    let mut guest = bench.start(&machine)?;
    guest.booted()?;
    guest.shell()?;
    let pid = guest.process.id();
    let (before, now) = (stat(pid)?, stat(pid)?);
    let vcpus = |of: &[Value]| -> Vec<Value> {
        of.iter()
            .filter(|object| !object["vcpu"].is_null())
            .cloned()
            .collect()
    };
    let (before, now) = (vcpus(&before), vcpus(&now));
    ensure!(now.len() == 2, "{now:?}");
    for (id, (before, now)) in before.iter().zip(&now).enumerate() {
        ensure!(now["vcpu"] == id && now["pid"] == pid, "{now}");
        for name in [
            "exits",
            "io_exits",
            "halt_exits",
            "guest_ns",
            "translations",
            "translated_bytes",
        ] {
            let number = |of: &Value| of["stats"][name].as_u64();
            ensure!(number(now) > Some(0) || name == "io_exits", "{name}: {now}");
            ensure!(number(now) >= number(before), "{name} shrank: {before}, {now}");
        }
    }
    guest.process.send("poweroff -f\n")?;
    guest.process.wait_success(patience(60))?;
    ensure!(stat(pid)?.is_empty());
    Ok(())
}
