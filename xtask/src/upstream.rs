//! Tests of other projects, which pass unless `tests/upstream` lists them with the reason.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use ring3_guest::places;
use serde::Deserialize;

use crate::run::Tally;

/// A file of `tests/upstream`, as much of it as all of them have.
#[derive(Debug, Deserialize)]
pub struct Expectations {
    /// Where it was read from, relative to the workspace.
    #[serde(skip)]
    file: &'static str,
    #[serde(default)]
    exception: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
struct Exception {
    test: String,
    reason: String,
    #[serde(default)]
    outcome: Outcome,
    /// How long it may take, if that is not what others may.
    seconds: Option<u64>,
}

/// What may become of a listed test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    #[default]
    Fails,
    /// It passes on some machines, or sometimes.
    Varies,
    /// It takes too long to be found out each time.
    Slow,
    /// It passes as others do, but takes longer.
    Passes,
}

/// Reads a file of `tests/upstream`: what is in it for everyone, and for the caller alone.
pub fn read<T: serde::de::DeserializeOwned>(file: &'static str) -> Result<(Expectations, T)> {
    let text = std::fs::read_to_string(places::workspace().join(file)).context(file)?;
    let mut expectations: Expectations = toml::from_str(&text).context(file)?;
    expectations.file = file;
    Ok((expectations, toml::from_str(&text).context(file)?))
}

impl Expectations {
    fn exception(&self, test: &str) -> Option<&Exception> {
        self.exception.iter().find(|exception| exception.test == test)
    }

    /// Whether a test has to pass.
    pub fn is_listed(&self, test: &str) -> bool {
        self.exception(test).is_some()
    }

    /// How long a test may take, if that is not what others may.
    pub fn seconds(&self, test: &str) -> Option<u64> {
        self.exception(test)?.seconds
    }

    /// Why a test is not to be run, unless asked for by name.
    pub fn slow(&self, test: &str) -> Option<&str> {
        let exception = self.exception(test)?;
        (exception.outcome == Outcome::Slow).then_some(exception.reason.as_str())
    }

    /// A tally that complains of what is listed twice, or is none of all the tests there are.
    pub fn tally(&self, tests: &[String]) -> Tally {
        let mut tally = Tally::default();
        let mut seen = BTreeSet::new();
        for Exception { test, .. } in &self.exception {
            if !tests.contains(test) {
                tally
                    .broken
                    .push(format!("{} lists {test}, which is no test", self.file));
            }
            if !seen.insert(test) {
                tally.broken.push(format!("{} lists {test} twice", self.file));
            }
        }
        tally
    }

    /// Counts what became of a test that may only fail with a reason, and must then; the word for it.
    pub fn judge(&self, tally: &mut Tally, test: &str, result: Result<()>) -> String {
        match (result, self.exception(test)) {
            (
                Ok(()),
                None
                | Some(Exception {
                    outcome: Outcome::Varies | Outcome::Slow | Outcome::Passes,
                    ..
                }),
            ) => {
                tally.passed += 1;
                "ok".to_string()
            }
            (Ok(()), Some(_)) => {
                tally.failed += 1;
                tally
                    .failures
                    .push(format!("{test} passes: take it out of {}", self.file));
                "passes now".to_string()
            }
            (Err(_), Some(Exception { reason, outcome, .. })) if *outcome != Outcome::Passes => {
                tally.skipped.push(format!("{test}: {reason}"));
                format!("does not pass, as expected: {reason}")
            }
            (Err(error), _) => count(tally, test, Err(error)),
        }
    }
}

/// Counts what became of a test of which nothing is expected; the word for it.
pub fn count(tally: &mut Tally, test: &str, result: Result<()>) -> String {
    match result {
        Ok(()) => {
            tally.passed += 1;
            "ok".to_string()
        }
        Err(error) => {
            tally.failed += 1;
            tally.failures.push(test.to_string());
            format!("FAILED\n{error:#}")
        }
    }
}

/// What a program wrote, as far as it tells why it failed: a few lines, indented.
pub fn excerpt(output: &std::process::Output, keep: impl Fn(&str) -> bool) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<String> = stdout
        .lines()
        .chain(stderr.lines())
        .filter(|line| !line.trim().is_empty() && keep(line))
        .take(30)
        .map(|line| format!("    | {line}"))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expectations(text: &str) -> Expectations {
        let mut expectations: Expectations = toml::from_str(text).unwrap();
        expectations.file = "tests/upstream/some.toml";
        expectations
    }

    #[test]
    fn what_is_not_expected_fails_the_run() {
        let listed = "[[exception]]\ntest = \"a::b\"\nreason = \"no such device\"";
        let may = format!("{listed}\noutcome = \"varies\"");
        let long = format!("{listed}\noutcome = \"passes\"\nseconds = 90");
        assert_eq!(expectations(&long).seconds("a::b"), Some(90));
        assert_eq!(expectations(&may).seconds("a::b"), None);
        let bad = || Err(anyhow::anyhow!("exit status: 101"));
        for (result, list, fails) in [
            (Ok(()), "", false),
            (bad(), listed, false),
            (bad(), "", true),
            (Ok(()), listed, true),
            (Ok(()), &may, false),
            (bad(), &may, false),
            (Ok(()), &long, false),
            (bad(), &long, true),
        ] {
            let mut tally = Tally::default();
            expectations(list).judge(&mut tally, "a::b", result);
            assert_eq!(tally.verdict().is_err(), fails, "{tally:?}");
        }
    }

    #[test]
    fn the_list_names_tests_once() {
        let row = "[[exception]]\ntest = \"a\"\nreason = \"r\"\n";
        let there = ["a".to_string()];
        assert_eq!(expectations(row).tally(&there), Tally::default());
        assert_eq!(expectations(row).tally(&[]).broken.len(), 1);
        let twice = format!("{row}{row}");
        assert_eq!(expectations(&twice).tally(&there).broken.len(), 1);
    }
}
