//! The one door: `cargo xtask ci` and the commands it is made of.
//!
//! Needs no privileges and no `/dev/kvm`. What a run skips it names with the reason.

#![forbid(unsafe_code)]

mod api;
mod book;
mod children;
mod ci;
mod container;
mod deb;
mod demo;
mod kvm_ioctls;
mod kvm_unit_tests;
mod lint;
mod pages;
mod run;
mod selftests;
mod state;
mod unittests_cfg;
mod upstream;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use ring3_guest::Accel;
use ring3_guest::assets::Freshness;
use selftests::{Choice, Linkage};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Checks, tests and measures ring3")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// All checks and tests: lint, test, fuzz, lockstep-boot, api, e2e, kvm-ioctls, and that the benchmarks run
    Ci,
    /// Format, clippy, layer directions, unsafe islands, file sizes, documents, lock ranks
    Lint {
        /// Leave out clippy, the only slow check
        #[arg(long)]
        quick: bool,
    },
    /// Unit and integration tests of all crates
    Test,
    /// The tests of the API again, as a client that opens /dev/kvm under `ring3 run`
    Api {
        /// Link it statically
        #[arg(long = "static")]
        statically: bool,
    },
    /// Debian boots under QEMU on ring3, and its devices, console and monitor work
    E2e {
        /// ring3, tcg (shows that the tests themselves are right) or kvm (the machine's own)
        #[arg(long, default_value = "ring3")]
        accel: String,
        /// Run only the tests whose name contains this
        filter: Option<String>,
    },
    /// Debian installs itself in the guest, and the other guests that are slow or large: firmware, kernels, a whole Debian
    Guests {
        /// ring3, tcg or kvm
        #[arg(long, default_value = "ring3")]
        accel: String,
    },
    /// Arbitrary bytes as guest code: the corpus, then mutations of it. Or guests that try to get out, or arbitrary ioctls
    Fuzz {
        /// Stop after so many seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Have guests try to reach the host's memory
        #[arg(long, conflicts_with = "ioctls")]
        escape: bool,
        /// Make ioctls: so many, or as many as the seconds allow
        #[arg(long, num_args = 0..=1, value_name = "COUNT")]
        ioctls: Option<Option<u64>>,
    },
    /// Debian's kernel boots on interpreter and translator in lockstep, compared all the way
    LockstepBoot {
        /// How far, in millions of instructions
        #[arg(long, default_value_t = 300)]
        millions: u64,
    },
    /// The kvm-ioctls crate's own tests under `ring3 run`
    KvmIoctls {
        /// Run only the tests whose name contains this, and judge only those
        filter: Option<String>,
    },
    /// The Linux kernel's own KVM selftests under `ring3 run`
    Selftests {
        /// Link them statically
        #[arg(long = "static")]
        statically: bool,
        /// Run only the tests whose name contains this, and judge only those
        filter: Option<String>,
    },
    /// The kvm-unit-tests of the checkout that RING3_KVM_UNIT_TESTS names, under QEMU on ring3
    KvmUnitTests {
        /// ring3, or for comparison tcg or kvm (the machine's own)
        #[arg(long, default_value = "ring3")]
        accel: String,
        /// Run only the configurations whose name contains this, and judge only those
        filter: Option<String>,
    },
    /// A busy guest's state is saved and loaded, and moved from one QEMU to another, many times
    State(state::Options),
    /// Guests and clients are treated badly for a long time: nothing may crash, leak or get stuck
    Soak {
        /// For how long
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// What is done follows from it; drawn if it is not said
        #[arg(long)]
        seed: Option<String>,
    },
    /// Fetch the guest's kernel and busybox from Debian, and build the initramfs
    Assets {
        /// Look for a newer kernel package than the one already fetched
        #[arg(long)]
        refresh: bool,
    },
    /// The command's manual pages and completions, into a directory
    Man { directory: PathBuf },
    /// A Debian package, unpacked and tried
    Deb,
    /// A container image of the package and QEMU, in which a guest is then booted; with podman, buildah or docker
    Container {
        /// Begin with this image, not the one that the Containerfile names
        #[arg(long)]
        base: Option<String>,
    },
    /// The book: its chapters exist, and the commands in it that are marked so are run
    Book,
    /// Time the workloads natively, under QEMU's TCG and under ring3
    Bench(ring3_benches::Options),
    /// Boot Debian's kernel under QEMU on ring3 to a shell on this terminal
    Demo(demo::Options),
}

fn main() -> ExitCode {
    match children::keep().and_then(|()| perform(Arguments::parse().command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A run of tests has closed with its own line.
            if !error.is::<run::TestsFailed>() {
                eprintln!("xtask: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Ci => ci::everything(),
        Task::Lint { quick } => lint::all(if quick {
            lint::Depth::Quick
        } else {
            lint::Depth::Full
        }),
        Task::Test => ci::test().and_then(|tally| tally.verdict()),
        Task::Api { statically } => api::run(Linkage::of(statically)).and_then(|tally| tally.verdict()),
        Task::E2e { accel, filter } => ci::e2e(&accel, filter.as_deref()).and_then(|tally| tally.verdict()),
        Task::Guests { accel } => ci::guests(&accel).and_then(|tally| tally.verdict()),
        Task::Fuzz {
            seconds,
            ioctls: Some(count),
            ..
        } => ci::fuzz_ioctls(seconds, count, None),
        Task::Fuzz {
            seconds,
            escape: true,
            ..
        } => ci::fuzz_escape(seconds, None),
        Task::Fuzz { seconds, .. } => ci::fuzz(seconds, None),
        Task::LockstepBoot { millions } => ci::lockstep_boot(millions).and_then(|tally| tally.verdict()),
        Task::KvmIoctls { filter } => kvm_ioctls::run(filter.as_deref()).and_then(|tally| tally.verdict()),
        Task::Selftests { statically, filter } => {
            let linkage = Linkage::of(statically);
            let choice = filter.as_deref().map_or(Choice::All, Choice::With);
            selftests::run(linkage, choice).and_then(|tally| tally.verdict())
        }
        Task::KvmUnitTests { accel, filter } => {
            kvm_unit_tests::run(Accel::named(&accel)?, filter.as_deref()).and_then(|tally| tally.verdict())
        }
        Task::State(options) => state::run(&options),
        Task::Soak { minutes, seed } => ci::soak(60 * minutes, seed.as_deref()),
        Task::Assets { refresh } => assets(if refresh {
            Freshness::Newest
        } else {
            Freshness::Cached
        }),
        Task::Man { directory } => pages::write(&directory),
        Task::Container { base } => container::make(base.as_deref()),
        Task::Deb => deb::make().and_then(|tally| tally.verdict()),
        Task::Book => book::check().and_then(|tally| tally.verdict()),
        Task::Bench(options) => ci::bench(&options),
        Task::Demo(options) => demo::run(&options),
    }
}

fn assets(freshness: Freshness) -> Result<()> {
    let assets = ring3_guest::Assets::prepare(freshness, &mut |step| eprintln!("assets: {step}"))?;
    println!("kernel package  {}", assets.kernel_package);
    println!("kernel          {}", assets.kernel.display());
    println!("initramfs       {}", assets.initramfs.display());
    println!("busybox         {}", assets.busybox.display());
    Ok(())
}

/// The subcommands, as the document check sees them.
fn subcommands() -> Vec<String> {
    use clap::CommandFactory;
    Arguments::command()
        .get_subcommands()
        .map(|command| command.get_name().to_string())
        .chain(["help".to_string()])
        .collect()
}
