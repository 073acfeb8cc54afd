//! Layer directions: which of our crates each crate may use. Nothing imports upwards.
//!
//! The table is ARCHITECTURE.md's, crate by crate. A new crate needs a row.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Finding;
use crate::run::{cargo, output};

/// (crate, its directory, the crates of ours it may use)
const LAYERS: [(&str, &str, &[&str]); 20] = [
    ("ring3-uapi", "uapi", &[]),
    ("ring3-host", "host", &[]),
    ("ring3-kvm", "kvm", &["ring3-uapi", "ring3-host"]),
    ("ring3-x86-cpu", "arch/x86/cpu", &["ring3-host"]),
    ("ring3-x86-jit", "arch/x86/jit", &["ring3-x86-cpu", "ring3-host"]),
    (
        "ring3-x86-kvm",
        "arch/x86/kvm",
        &[
            "ring3-uapi",
            "ring3-host",
            "ring3-kvm",
            "ring3-x86-cpu",
            "ring3-x86-jit",
        ],
    ),
    (
        "ring3-client",
        "front/client",
        &["ring3-uapi", "ring3-host", "ring3-kvm", "ring3-x86-kvm"],
    ),
    (
        "ring3-trace",
        "front/trace",
        &["ring3-uapi", "ring3-host", "ring3-kvm"],
    ),
    (
        "ring3-interpose",
        "front/interpose",
        &[
            "ring3-uapi",
            "ring3-host",
            "ring3-kvm",
            "ring3-x86-kvm",
            "ring3-trace",
        ],
    ),
    ("ring3-launch", "front/launch", &[]),
    (
        "ring3-loader",
        "front/loader",
        &["ring3-host", "ring3-interpose", "ring3-launch"],
    ),
    (
        "ring3-preload",
        "front/preload",
        &["ring3-host", "ring3-interpose", "ring3-launch", "ring3-loader"],
    ),
    ("ring3-vmm", "front/vmm", &["ring3-uapi", "ring3-client"]),
    (
        "ring3-cli",
        "front/cli",
        &[
            "ring3-uapi",
            "ring3-host",
            "ring3-vmm",
            "ring3-client",
            "ring3-trace",
            "ring3-launch",
        ],
    ),
    ("ring3-guest", "tests/guest", &[]),
    ("ring3-tests", "tests", ANY),
    ("ring3-benches", "benches", &["ring3-guest"]),
    ("ring3-exits", "benches/exits", &["ring3-client", "ring3-uapi"]),
    ("ring3-fuzz", "fuzz", ANY),
    ("xtask", "xtask", &["ring3-guest", "ring3-benches"]),
];

/// For the crates that test everything else.
const ANY: &[&str] = &["*"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: String,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

pub fn check() -> Result<Vec<Finding>> {
    let text = output(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("reading cargo metadata")?;
    Ok(judge(&metadata))
}

fn judge(metadata: &Metadata) -> Vec<Finding> {
    let rows: BTreeMap<&str, (&str, &[&str])> = LAYERS
        .iter()
        .map(|(name, dir, uses)| (*name, (*dir, *uses)))
        .collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some((dir, uses)) = rows.get(name) else {
            findings.push(format!("{name} has no row in xtask/src/lint/layers.rs"));
            continue;
        };
        if package.manifest_path != format!("{}/{dir}/Cargo.toml", metadata.workspace_root) {
            findings.push(format!(
                "{name} lives at {}, not in {dir}/",
                package.manifest_path
            ));
        }
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.path.is_some())
        {
            let used = dependency.name.as_str();
            // A crate's own tests may use the test harness and the ABI's numbers, never a higher layer.
            let for_tests =
                dependency.kind.as_deref() == Some("dev") && matches!(used, "ring3-guest" | "ring3-uapi");
            if !(uses.contains(&used) || *uses == ANY || for_tests) {
                findings.push(format!("{name} uses {used}, which its layer may not"));
            }
        }
    }
    for (name, (dir, _)) in rows {
        if !metadata.packages.iter().any(|package| package.name == name) {
            findings.push(format!(
                "{name} ({dir}/) has a row but is no crate of the workspace"
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{Dependency, LAYERS, Metadata, Package, judge};

    fn workspace(extra: (&str, &str)) -> Metadata {
        let packages = LAYERS
            .iter()
            .map(|(name, dir, _)| Package {
                name: (*name).to_string(),
                manifest_path: format!("/w/{dir}/Cargo.toml"),
                dependencies: (extra.0 == *name)
                    .then(|| Dependency {
                        name: extra.1.to_string(),
                        kind: None,
                        path: Some("/w/x".to_string()),
                    })
                    .into_iter()
                    .collect(),
            })
            .collect();
        Metadata {
            packages,
            workspace_root: "/w".to_string(),
        }
    }

    #[test]
    fn downwards_is_fine_and_upwards_is_not() {
        assert!(judge(&workspace(("ring3-kvm", "ring3-host"))).is_empty());
        assert!(judge(&workspace(("ring3-tests", "ring3-preload"))).is_empty());
        let findings = judge(&workspace(("ring3-kvm", "ring3-x86-cpu")));
        assert_eq!(
            findings,
            ["ring3-kvm uses ring3-x86-cpu, which its layer may not"]
        );
    }

    #[test]
    fn every_crate_has_a_row_and_every_row_a_crate() {
        let mut metadata = workspace(("", ""));
        metadata.packages[0].name = "ring3-new".to_string();
        let findings = judge(&metadata);
        assert!(findings[0].contains("ring3-new has no row"), "{findings:?}");
        assert!(
            findings[1].contains("ring3-uapi (uapi/) has a row"),
            "{findings:?}"
        );
    }
}
