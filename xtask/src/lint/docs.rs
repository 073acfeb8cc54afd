//! Documents name what exists: linked files, paths in code style, `cargo xtask` commands, scripts; and the README
//! explains every root directory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use ring3_guest::places;

use super::Finding;

pub fn check(files: &[String]) -> Result<Vec<Finding>> {
    let root = places::workspace();
    let is_executable = |file: &&String| {
        std::fs::metadata(root.join(file)).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0)
    };
    let executables: Vec<String> = files.iter().filter(is_executable).cloned().collect();
    let tree = Tree {
        files,
        executables: &executables,
        commands: &crate::subcommands(),
    };
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.ends_with(".md")) {
        let text = std::fs::read_to_string(root.join(file))?;
        findings.extend(tree.judge(file, &text));
        if file == "README.md" {
            findings.extend(tree.unexplained_directories(&text));
        }
    }
    Ok(findings)
}

/// What documents may name.
struct Tree<'a> {
    files: &'a [String],
    executables: &'a [String],
    commands: &'a [String],
}

impl Tree<'_> {
    fn judge(&self, document: &str, text: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut fenced = false;
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            let mut complain = |what: String| findings.push(format!("{document}:{line_number} {what}"));
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
                continue;
            }
            if let Some(command) = self.unknown_command(line) {
                complain(format!("names `cargo xtask {command}`, which does not exist"));
            }
            if fenced || line.starts_with("    ") {
                if let Some(script) = script(line)
                    && !self.executables.iter().any(|file| file == script)
                {
                    complain(format!("runs ./{script}, which is no program"));
                }
                continue;
            }
            for target in links(line) {
                if !self.link_exists(document, target) {
                    complain(format!("links to {target}, which does not exist"));
                }
            }
            for code in line.split('`').skip(1).step_by(2) {
                if self.looks_like_path(code) && !self.exists(code) {
                    complain(format!("names {code}, which does not exist"));
                }
            }
        }
        findings
    }

    fn unexplained_directories(&self, readme: &str) -> Vec<Finding> {
        let mut directories: Vec<&str> = self
            .files
            .iter()
            .filter_map(|file| file.split_once('/'))
            .map(|(directory, _)| directory)
            .filter(|directory| !directory.starts_with('.'))
            .collect();
        directories.sort_unstable();
        directories.dedup();
        directories
            .into_iter()
            .filter(|directory| !readme.contains(&format!("`{directory}/`")))
            .map(|directory| format!("README.md does not explain `{directory}/`"))
            .collect()
    }

    fn unknown_command<'t>(&self, line: &'t str) -> Option<&'t str> {
        line.split("cargo xtask ").skip(1).find_map(|rest| {
            let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit()));
            let word = &rest[..end.unwrap_or(rest.len())];
            (!word.is_empty() && !self.commands.iter().any(|command| command == word)).then_some(word)
        })
    }

    /// A path below a root directory of ours, without spaces or placeholders.
    fn looks_like_path(&self, code: &str) -> bool {
        let plain = code
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "./_-".contains(c));
        let first = code.split('/').next().unwrap_or_default();
        let below_root = self
            .files
            .iter()
            .any(|file| file.split_once('/').is_some_and(|(dir, _)| dir == first));
        plain && code.contains('/') && below_root
    }

    fn exists(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let below = format!("{path}/");
        self.files
            .iter()
            .any(|file| file == path || file.starts_with(&below))
    }

    fn link_exists(&self, document: &str, target: &str) -> bool {
        let target = target.split('#').next().unwrap_or_default();
        if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
            return true;
        }
        let base = Path::new(document).parent().unwrap_or(Path::new(""));
        let mut parts: Vec<&str> = base.iter().filter_map(|part| part.to_str()).collect();
        for part in target.split('/') {
            match part {
                "." | "" => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        self.exists(&parts.join("/"))
    }
}

/// `x` of a line of shell that begins with `./x`.
fn script(line: &str) -> Option<&str> {
    let word = line.trim().trim_start_matches("$ ").split_whitespace().next()?;
    word.strip_prefix("./")
}

/// The targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
}

#[cfg(test)]
mod tests {
    use super::Tree;

    fn findings(text: &str) -> Vec<String> {
        let files = ["README.md", "docs/a.md", "kvm/src/lib.rs", "try"].map(String::from);
        Tree {
            files: &files,
            executables: &["try".to_string()],
            commands: &["ci".to_string(), "kvm-ioctls".to_string()],
        }
        .judge("docs/a.md", text)
    }

    #[test]
    fn what_exists_may_be_named() {
        let text = "[r](../README.md#top) `kvm/src/lib.rs` `kvm/` `and/or` `cargo xtask ci`, https://x.y/z\n\
                    run cargo xtask kvm-ioctls\n```\n./try it\n```\n";
        assert_eq!(findings(text), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_exist_is_found() {
        assert_eq!(findings("[x](b.md)").len(), 1);
        assert_eq!(findings("see `kvm/src/gone.rs`").len(), 1);
        assert_eq!(findings("`cargo xtask gone`").len(), 1);
        assert_eq!(findings("```\n$ ./gone\n```").len(), 1);
        assert_eq!(findings("    ./gone it").len(), 1);
        assert_eq!(findings("    ./README.md").len(), 1);
    }

    #[test]
    fn root_directories_need_a_word() {
        let files = ["docs/a.md", "kvm/src/lib.rs", ".ci/run"].map(String::from);
        let tree = Tree {
            files: &files,
            executables: &[],
            commands: &[],
        };
        assert_eq!(
            tree.unexplained_directories("`docs/` is"),
            ["README.md does not explain `kvm/`"]
        );
    }
}
