//! Unsafe code stays on its islands, and the guest's architecture never becomes a `cfg`.
//!
//! Every crate root outside the islands says `#![forbid(unsafe_code)]`; on the islands each block says why it is
//! sound, which clippy's `undocumented_unsafe_blocks` checks.

use anyhow::Result;
use ring3_guest::places;

use super::Finding;
use super::source::{code_only, lines_with_word};

/// Directories that may hold unsafe code, with what for.
const ISLANDS: [(&str, &str); 7] = [
    ("host/", "system calls, signals, client memory, native steps"),
    ("front/preload/", "exported C symbols"),
    (
        "front/loader/",
        "static clients: their memory, registers and system calls",
    ),
    ("arch/x86/jit/src/lib.rs", "the way into translated code and back"),
    ("arch/x86/jit/src/callout.rs", "calls from translated code"),
    ("arch/x86/jit/src/memory.rs", "code memory"),
    ("arch/x86/jit/src/fault.rs", "faults of translated code"),
];

/// Directories that may ask what the host is.
const HOST_AWARE: [&str; 3] = ["host/", "front/preload/", "front/loader/"];

const FORBID: &str = "#![forbid(unsafe_code)]";

pub fn check(files: &[String]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        let source = std::fs::read_to_string(places::workspace().join(file))?;
        findings.extend(judge(file, &source));
    }
    Ok(findings)
}

fn judge(file: &str, source: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let code = code_only(source);
    if !ISLANDS.iter().any(|(dir, _)| file.starts_with(dir)) {
        if is_crate_root(file) && !source.contains(FORBID) {
            findings.push(format!("{file} is a crate root without {FORBID}"));
        }
        for line in lines_with_word(&code, "unsafe") {
            findings.push(format!("{file}:{line} is unsafe code outside the islands"));
        }
    }
    if !HOST_AWARE.iter().any(|dir| file.starts_with(dir)) {
        for line in lines_with_word(&code, "target_arch") {
            findings.push(format!(
                "{file}:{line} asks for target_arch, which describes the host only"
            ));
        }
    }
    findings
}

/// Libraries and programs. Integration tests are roots too, but the search for unsafe code is enough for them.
fn is_crate_root(file: &str) -> bool {
    let parts: Vec<&str> = file.split('/').collect();
    matches!(
        parts[..],
        [.., "src", "lib.rs" | "main.rs"] | [.., "src", "bin", _]
    )
}

#[cfg(test)]
mod tests {
    use super::{is_crate_root, judge};

    #[test]
    fn crate_roots() {
        for root in [
            "kvm/src/lib.rs",
            "front/cli/src/main.rs",
            "xtask/src/bin/other.rs",
        ] {
            assert!(is_crate_root(root), "{root}");
        }
        for other in [
            "kvm/src/vm.rs",
            "arch/x86/kvm/src/lapic/tests/mod.rs",
            "tests/tests/e2e_boot.rs",
        ] {
            assert!(!is_crate_root(other), "{other}");
        }
    }

    #[test]
    fn unsafe_is_found_outside_the_islands_only() {
        let source = "#![forbid(unsafe_code)]\n// unsafe\nunsafe fn f() {}\n";
        assert_eq!(
            judge("kvm/src/lib.rs", source),
            ["kvm/src/lib.rs:3 is unsafe code outside the islands"]
        );
        assert!(judge("host/src/lib.rs", source).is_empty());
        assert_eq!(judge("kvm/src/lib.rs", "").len(), 1);
        assert!(judge("kvm/src/vm.rs", "").is_empty());
    }
}
