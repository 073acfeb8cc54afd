//! The serial console is interactive: what is typed is echoed, executed and answered.

#![forbid(unsafe_code)]

use anyhow::{Result, ensure};
use ring3_guest::guest::patience;
use ring3_tests::e2e::Bench;

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn a_shell_answers() -> Result<()> {
    let bench = Bench::new()?;
    let mut guest = bench.start(&bench.machine())?;
    guest.booted()?;
    guest.shell()?;
    let answer = guest.run("echo $((6 * 7)) is the answer", patience(30))?;
    ensure!(answer == "42 is the answer", "the shell answered {answer:?}");
    let kernel = guest.run("uname -s -m", patience(30))?;
    ensure!(kernel == "Linux x86_64", "uname says {kernel:?}");
    // More than a FIFO at once, in both directions.
    let lines = guest.run("seq 1 300", patience(60))?;
    let expected: Vec<String> = (1..=300).map(|n| n.to_string()).collect();
    ensure!(
        lines.lines().eq(expected.iter().map(String::as_str)),
        "seq printed {lines:?}"
    );
    let long = "x".repeat(200);
    let echoed = guest.run(&format!("echo {long} | wc -c"), patience(30))?;
    ensure!(
        echoed.ends_with("201"),
        "200 characters and a newline are {echoed:?}"
    );
    guest.process.send("poweroff -f\n")?;
    guest.process.wait_success(patience(30))
}
