//! What is wanted of a trace, as `ring3 trace` hands it to the traced processes in their environment.

use ring3_host::time::monotonic_now;
use std::ffi::OsString;

/// Names the form, and what is left out of it.
const WANTED: &str = "RING3_TRACE";
/// The file to write to; the standard error if it is not set.
const FILE: &str = "RING3_TRACE_FILE";
/// When tracing began, in nanoseconds of the monotonic clock.
const START: &str = "RING3_TRACE_START";

/// The form of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Which calls get a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lines {
    /// All, but of calls that are alike only the first few. In JSON, all.
    #[default]
    Folded,
    All,
    /// None: only the summary.
    Summary,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub form: Form,
    pub lines: Lines,
}

impl Options {
    /// The environment of a process that is to be traced, with what it executes, from now on.
    pub fn environment(self, file: Option<OsString>) -> [(&'static str, OsString); 3] {
        [
            (WANTED, self.text().into()),
            (FILE, file.unwrap_or_default()),
            (START, monotonic_now().0.to_string().into()),
        ]
    }

    /// The value of [`WANTED`].
    fn text(self) -> String {
        let form = match self.form {
            Form::Text => "text",
            Form::Json => "json",
        };
        let lines = match self.lines {
            Lines::Folded => "folded",
            Lines::All => "all",
            Lines::Summary => "summary",
        };
        format!("{form},{lines}")
    }

    /// Out of the value of [`WANTED`]; words that are not known say nothing.
    fn parse(text: &str) -> Options {
        let mut options = Options::default();
        for word in text.split(',') {
            match word {
                "json" => options.form = Form::Json,
                "all" => options.lines = Lines::All,
                "summary" => options.lines = Lines::Summary,
                _ => {}
            }
        }
        options
    }
}

/// What the environment says: the options, the file, and the moment that times count from.
pub struct Wanted {
    pub options: Options,
    pub file: Option<OsString>,
    pub start: Option<u64>,
}

/// What is wanted of this process, if anything.
pub fn wanted() -> Option<Wanted> {
    let options = std::env::var(WANTED).ok().filter(|text| !text.is_empty())?;
    Some(Wanted {
        options: Options::parse(&options),
        file: std::env::var_os(FILE).filter(|path| !path.is_empty()),
        start: std::env::var(START).ok().and_then(|text| text.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_the_environment() {
        for form in [Form::Text, Form::Json] {
            for lines in [Lines::Folded, Lines::All, Lines::Summary] {
                let options = Options { form, lines };
                assert_eq!(Options::parse(&options.text()), options);
            }
        }
        assert_eq!(Options::parse("yes"), Options::default());
    }
}
