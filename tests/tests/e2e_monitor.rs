//! QEMU's monitor rules the guest: stop, cont, system_reset, and a look at the registers.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Result, ensure};
use ring3_guest::guest::patience;
use ring3_guest::machine::OnReset;
use ring3_guest::qmp::Qmp;
use ring3_tests::e2e::Bench;

fn stop_and_cont(cpus: u32) -> Result<()> {
    let bench = Bench::new()?;
    let mut machine = bench.machine();
    let socket = bench.dir.path().join("qmp");
    machine.qmp = Some(socket.clone());
    machine.cpus = cpus;
    let mut guest = bench.start(&machine)?;
    let mut qmp = Qmp::connect(&socket, patience(60))?;
    guest.booted()?;
    guest.shell()?;
    guest.process.send("while usleep 100000; do echo tick; done\n")?;
    guest.process.expect("tick\r\ntick", patience(30))?;

    for _ in 0..3 {
        qmp.execute("stop")?;
        qmp.event("STOP")?;
        // What QEMU had already taken from the guest may still arrive; after that, silence.
        std::thread::sleep(Duration::from_millis(300));
        let stopped_at = guest.process.console.len();
        std::thread::sleep(Duration::from_secs(1));
        ensure!(
            guest.process.console.len() == stopped_at,
            "the guest printed while it was stopped"
        );
        let registers = qmp.human("info registers")?;
        ensure!(registers.contains("CR3="), "info registers says {registers:?}");
        guest.process.console.skip();
        qmp.execute("cont")?;
        qmp.event("RESUME")?;
        guest.process.expect("tick\r\ntick", patience(30))?;
    }
    qmp.execute("quit")?;
    guest.process.wait_success(patience(30))
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn stop_and_cont_smp_1() -> Result<()> {
    stop_and_cont(1)
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn stop_and_cont_smp_2() -> Result<()> {
    stop_and_cont(2)
}

/// A reset in the middle of work boots the machine again, firmware included; twice, on two processors.
#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn system_reset_boots_again() -> Result<()> {
    let bench = Bench::new()?;
    let mut machine = bench.machine();
    let socket = bench.dir.path().join("qmp");
    machine.qmp = Some(socket.clone());
    machine.cpus = 2;
    machine.on_reset = OnReset::Reboot;
    let mut guest = bench.start(&machine)?;
    let mut qmp = Qmp::connect(&socket, patience(60))?;
    guest.booted()?;
    guest.shell()?;
    guest.process.send("while :; do :; done\n")?;
    qmp.execute("system_reset")?;
    qmp.event("RESET")?;
    guest.booted()?;
    guest.shell()?;
    // And a reset while it is stopped takes effect at cont.
    qmp.execute("stop")?;
    qmp.execute("system_reset")?;
    qmp.execute("cont")?;
    guest.booted()?;
    guest.shell()?;
    guest.process.send("poweroff -f\n")?;
    guest.process.wait_success(patience(30))
}

/// The guest may reset itself too.
#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn reboot_from_inside() -> Result<()> {
    let bench = Bench::new()?;
    let mut machine = bench.machine().word("test", "smp").word("then", "reboot");
    machine.on_reset = OnReset::Reboot;
    let guest = bench.start(&machine)?;
    guest.booted()?;
    guest.passed("smp", patience(60))?;
    guest.process.expect("guest: reboot", patience(30))?;
    guest.booted()?;
    Ok(())
}
