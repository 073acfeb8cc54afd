//! File sizes: 600 lines are the limit, 400 the aim. Tables are exempt, by name and with a reason.

use anyhow::Result;
use ring3_guest::places;

use super::Finding;

const LIMIT: usize = 600;

/// Files that may be longer: one row per line of a table, nothing to split.
const EXEMPT: [(&str, &str); 0] = [];

pub fn check(files: &[String]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| is_counted(file)) {
        let lines = std::fs::read_to_string(places::workspace().join(file))?
            .lines()
            .count();
        findings.extend(judge(file, lines, &EXEMPT));
    }
    for (file, _) in EXEMPT {
        if !files.iter().any(|other| other == file) {
            findings.push(format!("{file} is exempt from the size limit but does not exist"));
        }
    }
    Ok(findings)
}

fn is_counted(file: &str) -> bool {
    [".rs", ".sh", ".md"].iter().any(|ending| file.ends_with(ending))
}

fn judge(file: &str, lines: usize, exempt: &[(&str, &str)]) -> Option<Finding> {
    let is_exempt = exempt.iter().any(|(name, _)| *name == file);
    match (lines > LIMIT, is_exempt) {
        (true, false) => Some(format!("{file} has {lines} lines; the limit is {LIMIT}")),
        (false, true) => Some(format!(
            "{file} has {lines} lines and needs no exemption any more"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn long_files_need_an_exemption_and_short_ones_must_not_have_one() {
        assert!(judge("a.rs", 600, &[]).is_none());
        assert!(judge("a.rs", 601, &[]).is_some());
        assert!(judge("a.rs", 601, &[("a.rs", "a table")]).is_none());
        assert!(judge("a.rs", 10, &[("a.rs", "a table")]).is_some());
    }
}
