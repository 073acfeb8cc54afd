//! `cargo xtask selftests`: the Linux kernel's own KVM selftests, unchanged, under `ring3 run`.
//!
//! The source is that of a Debian package. Which one stands in `tests/upstream/selftests.toml`, with the tests that need not
//! pass. All test programs for x86 are built, against the source's own headers, and linked dynamically, as they are
//! by default, or statically; the list is the same. The one test that is a shell script, of huge pages, is not run: it reconfigures the machine.

use std::arch::x86_64::__cpuid;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use anyhow::{Context, Result, bail};
use ring3_guest::debian::Fetcher;
use ring3_guest::places;
use serde::Deserialize;

use crate::ci;
use crate::run::{Tally, minutes, output, run as run_command};
use crate::upstream::{self, excerpt};

const EXPECTATIONS: &str = "tests/upstream/selftests.toml";

/// Seconds for one test, unless the list gives it another limit.
const LIMIT: u64 = 60;

/// The exit status of a test that says of itself that it cannot run here.
const SKIPPED: i32 = 4;

/// The parts of the source that take part in making headers and selftests; the drivers are there for headers that the
/// selftests' library for VFIO has links to.
const PARTS: [&str; 15] = [
    "Makefile",
    "Kbuild",
    "scripts",
    "include/uapi",
    "include/asm-generic",
    "include/linux/pci_ids.h",
    "usr",
    "arch/x86/Makefile",
    "arch/x86/include/uapi",
    "arch/x86/include/asm/Kbuild",
    "arch/x86/entry/syscalls",
    "drivers/dma/idxd",
    "drivers/dma/ioat",
    "drivers/net/ethernet/intel/igb",
    "tools",
];

/// The package of the one library that the tests are linked with besides the C library.
const LIBRARY: &str = "uuid-dev";

/// How the tests are linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    Dynamic,
    Static,
}

impl Linkage {
    /// As the option says.
    pub fn of(statically: bool) -> Linkage {
        if statically {
            Linkage::Static
        } else {
            Linkage::Dynamic
        }
    }
}

/// Which tests are run, of those whose expectation is judged.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'a> {
    /// All but the slow ones.
    All,
    /// Those with this in their name.
    With(&'a str),
    /// One of each kind: threads, signals, exits, memory, files, restartable sequences. Only they are built.
    Sample,
}

const SAMPLE: [&str; 8] = [
    "guest_memfd_test",
    "guest_print_test",
    "kvm_binary_stats_test",
    "memslot_modification_stress_test",
    "rseq_test",
    "x86/set_sregs_test",
    "x86/sync_regs_test",
    "x86/userspace_io_test",
];

/// Where the tests are.
struct Place {
    /// Their Makefile.
    source: PathBuf,
    /// The programs, by their names.
    programs: PathBuf,
}

#[derive(Deserialize)]
struct Source {
    package: String,
    suite: String,
    /// As CPUID names the maker of the processors on which the list was made.
    maker: String,
}

pub fn run(linkage: Linkage, choice: Choice<'_>) -> Result<Tally> {
    let (expectations, source): (_, Source) = upstream::read(EXPECTATIONS)?;
    let packages = match fetch(&source) {
        Ok(packages) => packages,
        Err(error) => return Ok(skipped(&format!("no {}: {error:#}", source.package))),
    };
    let ring3 = ci::build_ring3()?;
    let place = build(&source, &packages, linkage, choice)?;
    let names = list(&place)?;

    let mut tally = expectations.tally(&names);
    let mut chosen = Vec::new();
    for name in &names {
        match (choice, expectations.slow(name)) {
            (Choice::All, Some(why)) => tally.skipped.push(format!("{name}: {why}")),
            (Choice::With(part), _) if !name.contains(part) => {}
            (Choice::Sample, _) if !SAMPLE.contains(&name.as_str()) => {}
            _ => chosen.push(name),
        }
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(&mut tally);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(name) = chosen.get(next.fetch_add(1, Relaxed)) {
                    let started = std::time::Instant::now();
                    let limit = expectations.seconds(name).unwrap_or(LIMIT);
                    let result = under_ring3(&ring3, &place.programs, name, limit);
                    let result = if result.is_err() && !expectations.is_listed(name) {
                        println!("test {name} ... did not pass, and is tried again");
                        under_ring3(&ring3, &place.programs, name, limit)
                    } else {
                        result
                    };
                    let took = minutes(started.elapsed());
                    let mut tally = results.lock().unwrap_or_else(|broken| broken.into_inner());
                    println!(
                        "test {name} ({took}) ... {}",
                        expectations.judge(&mut tally, name, result)
                    );
                }
            });
        }
    });
    if !matches!(choice, Choice::With(_)) && source.maker != maker() {
        tally.forgive(&format!("the list is of {} processors", source.maker));
    }
    Ok(tally)
}

/// The maker of this host's processors.
fn maker() -> String {
    let leaf = __cpuid(0);
    let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
    String::from_utf8_lossy(&name).into_owned()
}

fn skipped(why: &str) -> Tally {
    Tally {
        skipped: vec![format!("the kernel's selftests: {why}")],
        ..Tally::default()
    }
}

/// Runs one test. Its output is only shown if it does not pass.
fn under_ring3(ring3: &Path, place: &Path, name: &str, limit: u64) -> Result<()> {
    let account = place.join(format!("{name}.account"));
    let _ = std::fs::remove_file(&account);
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", &limit.to_string()])
        .arg(ring3)
        .args(["run", "--"])
        .arg(place.join(name))
        .current_dir(place)
        .env("RING3_STATS", &account)
        // Some have more to test so.
        .env("RING3_PARAMETERS", "force_emulation_prefix=1")
        .stdin(Stdio::null());
    let output = command.output().context("starting timeout")?;
    let why = match output.status.code() {
        // Without ring3, the machine's own KVM would serve the test.
        Some(0) if !account.is_file() => "passed without ring3".to_string(),
        Some(0) => return Ok(()),
        Some(SKIPPED) => "skipped itself".to_string(),
        Some(124 | 137) => format!("not finished after {limit} s"),
        _ => output.status.to_string(),
    };
    bail!("{why}\n{}", excerpt(&output, |_| true))
}

/// The tests' names: their paths below the directory of the KVM selftests.
fn list(place: &Place) -> Result<Vec<String>> {
    let print = "print-tests: ; @echo $(TEST_GEN_PROGS)";
    let text = output(place.make().args(["--silent", "--eval", print, "print-tests"]))?;
    let here = format!("{}/", place.programs.display());
    let names: Vec<String> = text
        .split_whitespace()
        .map(|path| path.strip_prefix(&here).unwrap_or(path).to_string())
        .collect();
    if names.is_empty() {
        bail!("the selftests' Makefile names no test");
    }
    Ok(names)
}

fn make(place: &Path) -> Command {
    let mut command = Command::new("make");
    command.arg("-C").arg(place).arg("ARCH=x86");
    // Our own make and cargo may have said how many jobs there are.
    command.env_remove("MAKEFLAGS").env_remove("MFLAGS");
    command
}

impl Place {
    /// A make of the tests.
    fn make(&self) -> Command {
        let mut command = make(&self.source);
        if self.programs != self.source {
            command.arg(format!("OUTPUT={}", self.programs.display()));
        }
        command
    }
}

/// Builds the tests below the target directory; where they are.
fn build(source: &Source, packages: &Packages, linkage: Linkage, choice: Choice<'_>) -> Result<Place> {
    let tree = upstream_dir().join(&source.package);
    if !tree.join("Makefile").is_file() {
        unpack(source, &packages.source, &tree)?;
    }
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let jobs = format!("-j{jobs}");
    let mut headers = make(&tree);
    run_command(headers.args(["--silent", &jobs, "headers"])).context("the kernel's headers")?;
    let makefile = tree.join("tools/testing/selftests/kvm");
    let (programs, link) = match linkage {
        Linkage::Dynamic => (makefile.clone(), ""),
        Linkage::Static => (
            upstream_dir().join(format!("{}-static", source.package)),
            "-static",
        ),
    };
    std::fs::create_dir_all(&programs)?;
    let place = Place {
        source: makefile,
        programs,
    };
    let mut tests = place.make();
    if matches!(choice, Choice::Sample) {
        tests.args(SAMPLE.map(|name| place.programs.join(name)));
    }
    let library = packages.library.join("usr");
    tests.env("EXTRA_CFLAGS", format!("-isystem {}/include", library.display()));
    let directory = library.join("lib/x86_64-linux-gnu");
    tests.env("LDFLAGS", format!("{link} -L{}", directory.display()));
    run_command(tests.args(["--silent", &jobs])).context("the kernel's selftests")?;
    Ok(place)
}

fn upstream_dir() -> PathBuf {
    places::target().join("upstream")
}

/// Unpacked Debian packages.
struct Packages {
    source: PathBuf,
    library: PathBuf,
}

fn fetch(source: &Source) -> Result<Packages> {
    let dir = upstream_dir().join("debian");
    places::need("make", "make")?;
    places::need("xz", "xz-utils")?;
    Ok(Packages {
        library: Fetcher::new(&dir)?.unpack(LIBRARY)?,
        source: Fetcher::of_suite(&dir, &source.suite)?.unpack(&source.package)?,
    })
}

/// Unpacks the needed parts of the archive that is in the package.
fn unpack(source: &Source, package: &Path, tree: &Path) -> Result<()> {
    let archive = package.join(format!("usr/src/{}.tar.xz", source.package));
    let partial = tree.with_extension("partial");
    let _ = std::fs::remove_dir_all(&partial);
    std::fs::create_dir_all(&partial)?;
    let mut tar = Command::new("tar");
    tar.arg("-xJf").arg(archive).arg("-C").arg(&partial);
    tar.arg("--strip-components=1");
    tar.args(PARTS.map(|part| format!("{}/{part}", source.package)));
    run_command(&mut tar)?;
    std::fs::rename(&partial, tree)?;
    Ok(())
}
