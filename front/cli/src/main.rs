//! The `ring3` command.
#![forbid(unsafe_code)]

mod boot;
mod coverage;
mod doctor;
mod help;
mod pages;
mod run;
mod stat;
mod trace;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// KVM in ring 3: runs KVM clients without virtualization hardware.
#[derive(Parser)]
#[command(name = "ring3", version, after_help = help::COMMAND)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a program, and every program it runs, with ring3's /dev/kvm
    #[command(after_help = help::RUN)]
    Run {
        /// Tell perf of translated code (sets RING3_PERF)
        #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "jitdump")]
        perf: Option<Perf>,
        /// The program and its arguments
        #[arg(
            required = true,
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "CMD"
        )]
        command: Vec<OsString>,
    },
    /// As run, and tell what it does with KVM: each call decoded, and what it asked for that ring3 lacks
    #[command(after_help = help::TRACE)]
    Trace(trace::Options),
    /// Boot a Linux kernel, its serial console on this terminal (Ctrl-A X quits)
    #[command(after_help = help::BOOT)]
    Boot(boot::Options),
    /// Show what the VMs of your processes do, live
    Stat(stat::Options),
    /// Say which parts of the KVM API there are, read off the tables that requests go through
    #[command(after_help = help::COVERAGE)]
    Coverage(coverage::Options),
    /// Say what this machine offers, and whether ring3 works on it
    #[command(after_help = help::DOCTOR)]
    Doctor,
    /// Write manual pages and completions
    #[command(hide = true)]
    Pages(pages::Options),
    /// Look for /dev/kvm, as a client does
    #[command(hide = true)]
    Probe,
}

/// How translated code is told to perf.
#[derive(Clone, Copy, ValueEnum)]
enum Perf {
    /// jit-PID.dump in the directory of temporary files, for `perf inject --jit`
    Jitdump,
    /// /tmp/perf-PID.map
    Map,
}

impl Perf {
    fn value(self) -> OsString {
        match self {
            Perf::Jitdump => "jitdump".into(),
            Perf::Map => "map".into(),
        }
    }
}

fn main() -> ExitCode {
    let log = EnvFilter::try_from_env("RING3_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(log)
        .with_writer(std::io::stderr)
        .init();
    match Arguments::parse().command {
        Command::Run { command, perf: None } => refuse(&run::run(&command, [])),
        Command::Run {
            command,
            perf: Some(form),
        } => refuse(&run::run(&command, [("RING3_PERF", form.value())])),
        Command::Trace(options) => refuse(&trace::trace(options)),
        Command::Boot(options) => told(boot::boot(options)),
        Command::Stat(options) => told(stat::stat(&options)),
        Command::Coverage(options) => {
            print!("{}", coverage::coverage(&options));
            ExitCode::SUCCESS
        }
        Command::Pages(options) => told(pages::write(&options, Arguments::command())),
        Command::Doctor => doctor::doctor(),
        Command::Probe => doctor::probe(),
    }
}

fn told(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ring3: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn refuse(refusal: &run::Refusal) -> ExitCode {
    eprintln!("ring3: {}", refusal.message);
    ExitCode::from(refusal.code)
}
