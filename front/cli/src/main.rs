//! The `ring3` command.
//!
//! `ring3 boot` is not here yet: there is no bundled VMM.
#![forbid(unsafe_code)]

mod run;

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// KVM in ring 3: runs KVM clients without virtualization hardware.
#[derive(Parser)]
#[command(name = "ring3", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a program, and every program it runs, with ring3's /dev/kvm
    Run {
        /// The program and its arguments
        #[arg(
            required = true,
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "CMD"
        )]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { command } => {
            let refusal = run::run(&command);
            eprintln!("ring3: {}", refusal.message);
            ExitCode::from(refusal.code)
        }
    }
}
