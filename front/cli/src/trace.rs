//! `ring3 trace`: as `ring3 run`, with the library told to trace.

use crate::run::{self, Refusal, refusal};
use clap::Args;
use ring3_trace::options::{self, Form, Lines};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Options {
    /// Write to this file, not to standard error
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write an object of JSON on each line, complete where text is abbreviated
    #[arg(long)]
    json: bool,
    /// Write only the summary of each process
    #[arg(long)]
    summary: bool,
    /// Give each call a line; without it, of calls that are alike only the first few have one
    #[arg(long, conflicts_with = "summary")]
    all: bool,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<OsString>,
}

/// Runs the command in place of this process; returns only if that fails.
pub fn trace(options: Options) -> Refusal {
    let output = match options.output.as_deref().map(create).transpose() {
        Ok(output) => output,
        Err(refusal) => return refusal,
    };
    let wanted = options::Options {
        form: if options.json { Form::Json } else { Form::Text },
        lines: match (options.summary, options.all) {
            (true, _) => Lines::Summary,
            (_, true) => Lines::All,
            _ => Lines::Folded,
        },
    };
    run::run(&options.command, wanted.environment(output))
}

/// An empty file, by a name that is good in every directory.
fn create(path: &Path) -> Result<OsString, Refusal> {
    let told = |error| refusal(1, format!("{}: {error}", path.display()));
    fs::File::create(path).map_err(told)?;
    Ok(fs::canonicalize(path).map_err(told)?.into_os_string())
}
