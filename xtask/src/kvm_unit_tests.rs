//! `cargo xtask kvm-unit-tests`: the tests of the kvm-unit-tests project, unchanged, under QEMU on `ring3 run`.
//!
//! They are bare guests, each a kernel of its own, and licensed under the GPL: `RING3_KVM_UNIT_TESTS` says where a checkout is, and
//! without it nothing is run. Every configuration of its `x86/unittests.cfg` is run as its own runner does, those that it leaves
//! out by default too; the ones for i386 from a second build. `tests/upstream/kvm-unit-tests.toml` has the reason for each that
//! does not pass. `RING3_QEMU` names another QEMU than the newest on `PATH`; on a machine that is slow or has other work,
//! `RING3_E2E_SLOWNESS` gives the tests more time than their own runner does.
//!
//! The parameters of Linux's module that tests make use of are on, as far as ring3 has them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ring3_guest::guest::patience;
use ring3_guest::{Accel, places};
use serde::Deserialize;

use crate::ci;
use crate::run::{Tally, minutes};
use crate::unittests_cfg::{self, Configuration};
use crate::upstream::{self, excerpt};

const EXPECTATIONS: &str = "tests/upstream/kvm-unit-tests.toml";

const SOURCE: &str = "RING3_KVM_UNIT_TESTS";

/// What the tests want on of what ring3 has off by default.
const PARAMETERS: (&str, &str) = (
    "RING3_PARAMETERS",
    "force_emulation_prefix=1,enable_vmware_backdoor=Y",
);

/// The files that configurations ask for, as ring3 behaves. Others are read from the machine.
const MODULE: [(&str, &str); 5] = [
    ("/sys/module/kvm/parameters/enable_pmu", "Y"),
    ("/sys/module/kvm/parameters/enable_vmware_backdoor", "Y"),
    ("/sys/module/kvm/parameters/ignore_msrs", "N"),
    ("/sys/module/kvm_intel/parameters/allow_smaller_maxphyaddr", "Y"),
    // It would take a performance counter of the host's, of which ring3 uses none.
    ("/proc/sys/kernel/nmi_watchdog", "0"),
];

/// Seconds for a configuration that does not say.
const LIMIT: u64 = 90;

/// The devices that the tests are written for, and what their runner leaves out of the machine.
const MACHINE: &str = "--no-reboot -nodefaults -global kvm-pit.lost_tick_policy=discard -device pc-testdev \
                       -device isa-debug-exit,iobase=0xf4,iosize=0x4 -display none -serial stdio -device pci-testdev";

/// QEMU's exit status where the test has written 0 to its exit port.
const PASSED: i32 = 1;

/// And where it has written 77.
const SKIPPED: i32 = 77 << 1 | 1;

/// Nothing is asked of them.
#[derive(Deserialize)]
struct Nothing {}

pub fn run(accel: Accel, filter: Option<&str>) -> Result<Tally> {
    let (expectations, Nothing {}) = upstream::read(EXPECTATIONS)?;
    let Some(source) = std::env::var_os(SOURCE).map(PathBuf::from) else {
        return Ok(Tally {
            skipped: vec![format!("kvm-unit-tests: {SOURCE} names no checkout of them")],
            ..Tally::default()
        });
    };
    let list = source.join("x86/unittests.cfg");
    let text = std::fs::read_to_string(&list).with_context(|| format!("{SOURCE}: {}", list.display()))?;
    let all = unittests_cfg::parse(&text)?;
    let runner = Runner::new(accel, &source)?;

    let names: Vec<String> = all.iter().map(|one| one.name.clone()).collect();
    let mut tally = if accel == Accel::Ring3 {
        expectations.tally(&names)
    } else {
        Tally::default()
    };
    for one in &all {
        match (filter, expectations.slow(&one.name)) {
            (None, Some(why)) => {
                tally.skipped.push(format!("{}: {why}", one.name));
                continue;
            }
            (Some(filter), _) if !one.name.contains(filter) => continue,
            _ => {}
        }
        let started = Instant::now();
        let result = runner.run(one);
        let took = minutes(started.elapsed());
        let word = if accel == Accel::Ring3 {
            expectations.judge(&mut tally, &one.name, result)
        } else {
            upstream::count(&mut tally, &one.name, result)
        };
        println!("test {} ({took}) ... {word}", one.name);
    }
    Ok(tally)
}

struct Runner {
    accel: Accel,
    ring3: Option<PathBuf>,
    qemu: OsString,
    x86_64: PathBuf,
    /// Or why there is none.
    i386: Result<PathBuf>,
}

impl Runner {
    fn new(accel: Accel, source: &Path) -> Result<Runner> {
        let source = source.canonicalize().context(SOURCE)?;
        places::need("make", "make")?;
        let x86_64 = build(&source, "x86_64")?;
        let i386 = build(&source, "i386");
        let ring3 = match accel {
            Accel::Ring3 => Some(ci::build_ring3()?),
            _ => None,
        };
        let qemu = match std::env::var_os("RING3_QEMU") {
            Some(qemu) => qemu,
            None => places::newest_qemu()?.path.into(),
        };
        Ok(Runner {
            accel,
            ring3,
            qemu,
            x86_64,
            i386,
        })
    }

    fn run(&self, one: &Configuration) -> Result<()> {
        if self.accel == Accel::Tcg && one.accel.as_deref() == Some("kvm") {
            bail!("is for KVM only");
        }
        if self.ring3.is_some() {
            check(one)?;
        }
        let place = match (one.arch.as_deref(), &self.i386) {
            (Some("i386"), Ok(place)) => place,
            (Some("i386"), Err(why)) => bail!("the tests for i386 cannot be built: {why:#}"),
            _ => &self.x86_64,
        };
        let kernel = place.join("x86").join(&one.file);
        let account = place.join(format!("{}.account", one.name));
        let _ = std::fs::remove_file(&account);
        let output = self
            .command(one, &kernel, &account)
            .output()
            .context("starting sh")?;
        let why = match output.status.code() {
            // Without ring3, the machine's own KVM would serve the test.
            Some(PASSED) if self.ring3.is_some() && !account.is_file() => "passed without ring3".to_string(),
            Some(PASSED) if complains(&output) => "QEMU ended with status 1".to_string(),
            Some(PASSED) => return Ok(()),
            Some(SKIPPED) => "skipped itself".to_string(),
            Some(124 | 137) => format!("not finished after {} s", limit(one)),
            _ => output.status.to_string(),
        };
        bail!("{why}\n{}", excerpt(&output, |line| !line.starts_with("PASS")))
    }

    /// What is in the list is put to a shell, as it is by the tests' own runner.
    fn command(&self, one: &Configuration, kernel: &Path, account: &Path) -> Command {
        let accel = match self.accel {
            Accel::Tcg => "tcg",
            Accel::Ring3 | Accel::Kvm => "kvm",
        };
        let text = |what: &Option<String>| what.clone().unwrap_or_default();
        let mut script = format!("exec \"$@\" {MACHINE} -machine accel={accel} -kernel \"$KERNEL\"");
        script += &format!(" -smp {}", one.smp.as_deref().unwrap_or("1"));
        if let Some(arguments) = &one.test_args {
            script += &format!(" -append {arguments}");
        }
        let mut parameters = text(&one.qemu_params);
        if self.accel == Accel::Tcg {
            parameters = parameters.replace("-enable-kvm", "");
        }
        script += &format!(" {parameters}");
        let mut command = Command::new("sh");
        command.args([
            "-c",
            &script,
            "sh",
            "timeout",
            "--kill-after=5",
            &limit(one).to_string(),
        ]);
        if let Some(ring3) = &self.ring3 {
            command.arg(ring3).args(["run", "--"]);
            command
                .env(PARAMETERS.0, PARAMETERS.1)
                .env("RING3_STATS", account);
        }
        command.arg(&self.qemu).env("KERNEL", kernel).stdin(Stdio::null());
        command
    }
}

/// Seconds until a test is ended, as many as the tests' own runner gives it.
fn limit(one: &Configuration) -> u64 {
    let own = one.timeout.as_deref().and_then(|text| text.parse().ok());
    patience(own.unwrap_or(LIMIT)).as_secs()
}

/// QEMU's own failures have the status of a test that passes; but then it says why.
fn complains(output: &Output) -> bool {
    let text = String::from_utf8_lossy(&output.stderr);
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.any(|line| !line.to_lowercase().contains("warning"))
}

/// Whether files of the kernel's have what a configuration needs, in ring3's place.
fn check(one: &Configuration) -> Result<()> {
    for needed in &one.check {
        let Some((path, value)) = needed.split_once('=') else {
            bail!("unittests.cfg checks {needed}, which is not a file and its content");
        };
        let known = MODULE.iter().find(|(file, _)| *file == path);
        let found = match known {
            Some((_, value)) => (*value).to_string(),
            None => std::fs::read_to_string(path).unwrap_or_default(),
        };
        if found.trim() != value {
            bail!("{path} is not {value}");
        }
    }
    Ok(())
}

/// Builds the tests for one architecture below the target directory; where they are.
fn build(source: &Path, arch: &str) -> Result<PathBuf> {
    let place = places::target().join("upstream/kvm-unit-tests").join(arch);
    std::fs::create_dir_all(&place)?;
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut configure = Command::new(source.join("configure"));
    configure.arg(format!("--arch={arch}")).current_dir(&place);
    let mut make = Command::new("make");
    make.arg("--silent").arg(format!("-j{jobs}")).current_dir(&place);
    // Our own make and cargo may have said how many jobs there are.
    make.env_remove("MAKEFLAGS").env_remove("MFLAGS");
    for command in [&mut configure, &mut make] {
        let output = command
            .output()
            .with_context(|| format!("starting {command:?}"))?;
        // Compilers have much to say of what is none of our business.
        if !output.status.success() {
            bail!(
                "{command:?}: {}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    Ok(place)
}
