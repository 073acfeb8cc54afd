//! Debian's other kernels boot, and their disk and network work: the standard one and both of 32 bits.

#![forbid(unsafe_code)]

use anyhow::{Result, ensure};
use ring3_guest::guest::patience;
use ring3_guest::kernels::Flavour;
use ring3_guest::{Guest, noise};
use ring3_tests::e2e::{Bench, Echo};

const MIB: usize = 1 << 20;

/// The usual tests of a guest's devices, on two processors.
fn works(flavour: Flavour, ending: &str) -> Result<()> {
    let assets = flavour.assets()?;
    let bench = Bench::new()?;
    let half = noise::bytes(5, MIB);
    let disk = bench.dir.path().join("disk");
    std::fs::write(&disk, [&half[..], &vec![0; MIB]].concat())?;
    let echo = Echo::serve(noise::bytes(6, MIB))?;
    let machine = bench.machine_with_devices(&disk, &echo);
    let mut guest = Guest::start(&machine, &assets)?;
    guest.booted()?;
    guest.process.expect("on 2 cpus, ", patience(60))?;
    let release = guest.process.console.rest_of_line(patience(10))?;
    ensure!(
        assets.kernel_package.ends_with(&release) && release.ends_with(ending),
        "{} says that it is {release}",
        assets.kernel_package
    );
    for test in ["smp", "blk", "net"] {
        guest.passed(test, patience(120))?;
    }
    guest.powered_off()?;
    echo.join()?;
    let all = std::fs::read(&disk)?;
    ensure!(
        all[..MIB] == half && all[MIB..] == half,
        "the halves of the disk differ"
    );
    Ok(())
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn standard_kernel_smp_2() -> Result<()> {
    works(Flavour::Standard, "-amd64")
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn kernel_686_pae_smp_2() -> Result<()> {
    works(Flavour::Pae, "-686-pae")
}

#[test]
#[ignore = "boots a guest: cargo xtask e2e"]
fn kernel_686_smp_2() -> Result<()> {
    works(Flavour::TwoLevel, "-686")
}
