//! Debian's kernel boots under QEMU, with one and two processors and three processor models, and powers off.

#![forbid(unsafe_code)]

use anyhow::Result;
use ring3_guest::guest::patience;
use ring3_tests::e2e::Bench;

/// From SeaBIOS to a clean power-off, with work on every processor in between.
fn boots(cpu_model: &str, cpus: u32) -> Result<()> {
    let bench = Bench::new()?;
    let mut machine = bench.machine().word("test", "smp");
    machine.cpu_model = cpu_model.to_string();
    machine.cpus = cpus;
    let mut guest = bench.start(&machine)?;
    // QEMU's option ROM says this through SeaBIOS's console: the firmware ran.
    guest.process.expect("Linux version", patience(90))?;
    guest.booted()?;
    guest.process.expect(&format!("on {cpus} cpus"), patience(30))?;
    guest.passed("smp", patience(60))?;
    guest.powered_off()
}

macro_rules! boot_tests {
    ($($name:ident: $model:literal, $cpus:literal;)*) => {$(
        #[test]
        #[ignore = "boots a guest: cargo xtask e2e"]
        fn $name() -> Result<()> {
            boots($model, $cpus)
        }
    )*};
}

boot_tests! {
    cpu_host_smp_1: "host", 1;
    cpu_host_smp_2: "host", 2;
    cpu_qemu64_smp_1: "qemu64", 1;
    cpu_qemu64_smp_2: "qemu64", 2;
    cpu_max_smp_1: "max", 1;
    cpu_max_smp_2: "max", 2;
}
