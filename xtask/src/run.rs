//! Running cargo, and counting what its tests say.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ring3_guest::places;

/// `cargo`, in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(places::workspace());
    command
}

/// Runs `command` with the terminal's own output; fails if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{} ended with {status}", describe(command));
    }
    Ok(())
}

/// Runs `command` and returns its stdout; its stderr goes to the terminal.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{} ended with {}", describe(command), output.status);
    }
    String::from_utf8(output.stdout).context("output is not UTF-8")
}

fn describe(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or(&program);
    let arguments: Vec<_> = command
        .get_args()
        .map(|argument| argument.to_string_lossy())
        .collect();
    format!("`{program} {}`", arguments.join(" "))
}

/// The error of a run of tests that has already printed its closing line.
#[derive(Debug)]
pub struct TestsFailed;

impl std::error::Error for TestsFailed {}

impl std::fmt::Display for TestsFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("tests failed")
    }
}

/// What a run of tests came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    /// Tests that did not run: name and reason.
    pub skipped: Vec<String>,
    /// Failures that are no counted test: a crashed binary, a failed build.
    pub broken: Vec<String>,
    /// How long it took, where that is told.
    pub took: Option<Duration>,
    /// Names of the failed tests.
    pub failures: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.broken.extend(other.broken);
        self.failures.extend(other.failures);
    }

    /// Tells of what failed as of what did not run, and why it is not counted.
    pub fn forgive(&mut self, why: &str) {
        let failed = std::mem::take(&mut self.failures);
        let broken = std::mem::take(&mut self.broken);
        self.failed = 0;
        self.skipped.extend(
            failed
                .into_iter()
                .chain(broken)
                .map(|what| format!("{what}: {why}")),
        );
    }

    /// Prints the closing lines; an error if anything failed.
    pub fn verdict(&self) -> Result<()> {
        println!();
        for skipped in &self.skipped {
            println!("skipped: {skipped}");
        }
        for failure in &self.failures {
            println!("failed:  {failure}");
        }
        for broken in &self.broken {
            println!("broken:  {broken}");
        }
        println!("{}", self.closing_line());
        if self.failed > 0 || !self.broken.is_empty() {
            return Err(TestsFailed.into());
        }
        Ok(())
    }

    fn closing_line(&self) -> String {
        let verdict = if self.failed > 0 || !self.broken.is_empty() {
            "FAILED"
        } else {
            "ok"
        };
        let broken = match self.broken.len() {
            0 => String::new(),
            count => format!(", {count} broken"),
        };
        let took = self
            .took
            .map_or_else(String::new, |took| format!(" in {}", minutes(took)));
        format!(
            "{verdict}: {} passed, {} failed{broken}, {} skipped{took}",
            self.passed,
            self.failed,
            self.skipped.len()
        )
    }

    /// Takes in one line of libtest's output.
    fn read_line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            let number = |word: &str| {
                let before = counts.split(word).next()?;
                before.split_whitespace().last()?.parse::<usize>().ok()
            };
            self.passed += number(" passed").unwrap_or(0);
            self.failed += number(" failed").unwrap_or(0);
        } else if let Some(test) = line.strip_prefix("test ") {
            if let Some(name) = test.strip_suffix(" ... FAILED") {
                self.failures.push(name.to_string());
            } else if let Some((name, reason)) = test.split_once(" ... ignored") {
                let reason = reason.trim_start_matches(", ");
                let reason = if reason.is_empty() {
                    "no reason given"
                } else {
                    reason
                };
                self.skipped.push(format!("{name}: {reason}"));
            }
        } else if let Some(skipped) = line.trim_start().strip_prefix("skipped: ") {
            self.skipped.push(skipped.to_string());
        }
    }
}

/// `m` minutes and `s` seconds.
pub fn minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// The test program that a `cargo test` command makes, without running it.
pub fn test_program(command: &mut Command) -> Result<PathBuf> {
    let what = describe(command);
    let messages = output(command.args(["--no-run", "--message-format=json-render-diagnostics"]))?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["profile"]["test"] == true)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("{what} made no test program"))
}

/// Runs a `cargo test` command, passing its output on and counting.
pub fn tests(command: &mut Command) -> Result<Tally> {
    let what = describe(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.read_line(&line);
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        tally.broken.push(format!("{what} ended with {status}"));
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use std::time::Duration;

    #[test]
    fn libtest_lines_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "running 4 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test a::d ... ignored, needs a machine",
            "test a::e ... ignored",
            "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.0s",
        ] {
            tally.read_line(line);
        }
        assert_eq!((tally.passed, tally.failed), (15, 1));
        assert_eq!(tally.failures, ["a::c"]);
        assert_eq!(tally.skipped, ["a::d: needs a machine", "a::e: no reason given"]);
        assert_eq!(tally.closing_line(), "FAILED: 15 passed, 1 failed, 2 skipped");
        assert!(tally.verdict().is_err());
    }

    #[test]
    fn the_closing_line_tells_the_time() {
        let tally = Tally {
            passed: 7,
            took: Some(Duration::from_secs(754)),
            ..Tally::default()
        };
        assert_eq!(
            tally.closing_line(),
            "ok: 7 passed, 0 failed, 0 skipped in 12 min 34 s"
        );
    }
}
