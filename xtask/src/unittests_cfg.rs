//! The file that lists the configurations of kvm-unit-tests, `x86/unittests.cfg`.

use anyhow::{Result, bail};

/// How one test program is to be run. Texts are as they are in the file: words of a shell.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    pub name: String,
    pub file: String,
    pub smp: Option<String>,
    pub test_args: Option<String>,
    pub qemu_params: Option<String>,
    /// The only architecture that it is for; any if there is none.
    pub arch: Option<String>,
    pub accel: Option<String>,
    pub timeout: Option<String>,
    /// Files and what must be in them, as `path=content`.
    pub check: Vec<String>,
}

/// All configurations, in the file's order. `groups` only chooses among them, and here all are run.
pub fn parse(text: &str) -> Result<Vec<Configuration>> {
    let mut all: Vec<Configuration> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            all.push(Configuration {
                name: name.to_string(),
                ..Configuration::default()
            });
            continue;
        }
        let (Some(current), Some((key, value))) = (all.last_mut(), line.split_once('=')) else {
            bail!("unittests.cfg has a line that belongs nowhere: {line}");
        };
        let value = value.trim().to_string();
        match key.trim() {
            "file" => current.file = value,
            "smp" => current.smp = Some(value),
            "test_args" => current.test_args = Some(value),
            "qemu_params" | "extra_params" => current.qemu_params = Some(value),
            "arch" => current.arch = Some(value),
            "accel" => current.accel = Some(value),
            "timeout" => current.timeout = Some(value),
            "check" => current.check = value.split_whitespace().map(str::to_string).collect(),
            "groups" => {}
            other => bail!("unittests.cfg has a key that is not known, {other}: {line}"),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read_with_their_words_as_they_are() {
        let text = "# a comment\n[one]\nfile = one.flat\n\n[two]\nfile = two.flat\nsmp = 2\n\
                    test_args = \"1 `date +%s`\"\nqemu_params = -cpu max,+x=1\narch = i386\n\
                    groups = slow\ncheck = /a/b=Y /c=0\ntimeout = 30\naccel = kvm\n";
        let all = parse(text).unwrap();
        let [one, two] = &all[..] else {
            panic!("{all:?}");
        };
        assert_eq!((one.name.as_str(), one.file.as_str()), ("one", "one.flat"));
        assert_eq!(one.smp, None);
        assert_eq!(two.smp.as_deref(), Some("2"));
        assert_eq!(two.test_args.as_deref(), Some("\"1 `date +%s`\""));
        assert_eq!(two.qemu_params.as_deref(), Some("-cpu max,+x=1"));
        assert_eq!(two.arch.as_deref(), Some("i386"));
        assert_eq!(two.check, ["/a/b=Y", "/c=0"]);
        assert_eq!(two.timeout.as_deref(), Some("30"));
        assert_eq!(two.accel.as_deref(), Some("kvm"));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(parse("file = a.flat").is_err());
        assert!(parse("[a]\nnonsense").is_err());
        assert!(parse("[a]\ndisabled_if = true").is_err());
    }
}
