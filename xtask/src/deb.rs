//! `cargo xtask deb`: a Debian package of what is built, which is then unpacked and tried.
//!
//! It holds `ring3`, `libring3.so` and the loader of static programs where `ring3 run` looks for them, manual pages, completions,
//! documents, and whose work all of it is. It is no source package, and nothing signs it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ring3_guest::places;

use crate::run::{Tally, cargo, output, run};
use crate::{ci, pages};

const PACKAGE: &str = "ring3";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const LIBRARY: &str = "libring3.so";
const LOADER: &str = "ring3-static";
/// Documents that are installed as they are.
const DOCUMENTS: [&str; 3] = ["README.md", "ARCHITECTURE.md", "COVERAGE.md"];

/// Builds and tries the package; skipped where there is no `dpkg-deb`.
pub fn make() -> Result<Tally> {
    let Some(dpkg_deb) = places::program("dpkg-deb") else {
        let skipped = vec!["the package: no dpkg-deb here".to_string()];
        return Ok(Tally {
            skipped,
            ..Tally::default()
        });
    };
    let directory = places::target().join("deb");
    let root = directory.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    lay_out(&root, &ci::build_ring3()?)?;
    let package = directory.join(format!("{PACKAGE}_{VERSION}_amd64.deb"));
    let mut build = Command::new(&dpkg_deb);
    build.args(["--build", "--root-owner-group", "-Zxz"]);
    run(build.arg(&root).arg(&package))?;
    try_out(&dpkg_deb, &package)?;
    println!("{}", package.display());
    Ok(Tally {
        passed: 1,
        ..Tally::default()
    })
}

/// Puts every file where it is to be installed.
fn lay_out(root: &Path, ring3: &Path) -> Result<()> {
    let (library, loader) = (ring3.with_file_name(LIBRARY), ring3.with_file_name(LOADER));
    install_program(ring3, &root.join("usr/bin/ring3"), 0o755)?;
    install_program(&library, &root.join("usr/lib/ring3").join(LIBRARY), 0o644)?;
    install_program(&loader, &root.join("usr/lib/ring3").join(LOADER), 0o755)?;
    let made = tempfile::tempdir()?;
    pages::write(made.path())?;
    let mut manual = files(&made.path().join("man1"))?;
    manual.sort();
    for page in manual {
        let name = page.file_name().context("a page has a name")?;
        let to = root.join("usr/share/man/man1").join(name);
        install(&page, &to, 0o644)?;
        run(Command::new("gzip").args(["-9nf"]).arg(&to))?;
    }
    let completions = made.path().join("completions");
    for (from, to) in [
        ("ring3.bash", "usr/share/bash-completion/completions/ring3"),
        ("_ring3", "usr/share/zsh/vendor-completions/_ring3"),
        ("ring3.fish", "usr/share/fish/vendor_completions.d/ring3.fish"),
    ] {
        install(&completions.join(from), &root.join(to), 0o644)?;
    }
    let documents = root.join("usr/share/doc").join(PACKAGE);
    for document in DOCUMENTS {
        let from = places::workspace().join(document);
        install(&from, &documents.join(document), 0o644)?;
    }
    for chapter in files(&places::workspace().join("docs/book/src"))? {
        let name = chapter.file_name().context("a chapter has a name")?;
        install(&chapter, &documents.join("book").join(name), 0o644)?;
    }
    write(&documents.join("copyright"), &copyright()?)?;
    let libc = newest_libc([&fs::read(ring3)?, &fs::read(&library)?, &fs::read(&loader)?]);
    write(&root.join("DEBIAN/control"), &control(&libc))
}

/// The files of a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("{}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn write(to: &Path, text: &str) -> Result<()> {
    let parent = to.parent().context("a file is in a directory")?;
    fs::create_dir_all(parent)?;
    fs::write(to, text).with_context(|| format!("writing {}", to.display()))
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let parent = to.parent().context("a file is in a directory")?;
    fs::create_dir_all(parent)?;
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

/// As [`install`], without what only debuggers want.
fn install_program(from: &Path, to: &Path, mode: u32) -> Result<()> {
    install(from, to, mode)?;
    match places::program("strip") {
        Some(strip) => run(Command::new(strip).arg("--strip-unneeded").arg(to)),
        None => Ok(()),
    }
}

/// The newest version of the C library's symbols that programs name.
fn newest_libc<const N: usize>(programs: [&Vec<u8>; N]) -> String {
    const MARK: &[u8] = b"GLIBC_2.";
    let minors = programs.into_iter().flat_map(|program| {
        program.windows(MARK.len() + 2).filter_map(|window| {
            let digits = window.strip_prefix(MARK)?;
            let text = std::str::from_utf8(digits).ok()?;
            text.trim_end_matches(|c: char| !c.is_ascii_digit())
                .parse::<u32>()
                .ok()
        })
    });
    format!("2.{}", minors.max().unwrap_or(31))
}

fn control(libc: &str) -> String {
    format!(
        "Package: {PACKAGE}\n\
         Version: {VERSION}\n\
         Architecture: amd64\n\
         Maintainer: the ring3 authors <ring3@localhost>\n\
         Depends: libc6 (>= {libc}), libgcc-s1\n\
         Suggests: qemu-system-x86, gdb\n\
         Section: misc\n\
         Priority: optional\n\
         Description: KVM in user space, without virtualization hardware\n \
         The Linux KVM API, its in-kernel devices included, with the guest executed in\n \
         software by translation. Programs written for KVM run on it unmodified where\n \
         there is no virtualization hardware, no usable /dev/kvm and no root.\n"
    )
}

/// Whose work it is: ring3's own, and that of the crates in it.
fn copyright() -> Result<String> {
    let mut tree = cargo();
    tree.args([
        "tree",
        "-p",
        "ring3-cli",
        "-p",
        "ring3-preload",
        "-p",
        "ring3-loader",
    ]);
    tree.args(["--edges", "normal"]);
    tree.args(["--prefix", "none", "--format", "{p}: {l}"]);
    let text = output(&mut tree)?;
    let mut crates: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(':') && !line.starts_with("ring3-"))
        .map(|line| line.trim_end_matches(" (*)"))
        .collect();
    crates.sort_unstable();
    crates.dedup();
    let mit = fs::read_to_string(places::workspace().join("LICENSE-MIT"))?;
    Ok(format!(
        "ring3 is licensed under Apache-2.0 or MIT, at your choice.\n\
         Debian has the former as /usr/share/common-licenses/Apache-2.0; the latter:\n\n{mit}\n\
         In its programs are these crates of others, each under the licence that is named:\n\n{}\n",
        crates.join("\n")
    ))
}

/// Unpacks the package, and runs what is in it.
fn try_out(dpkg_deb: &Path, package: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    run(Command::new(dpkg_deb).arg("-x").arg(package).arg(scratch.path()))?;
    let ring3 = scratch.path().join("usr/bin/ring3");
    run(Command::new(&ring3).arg("doctor"))?;
    run(Command::new(&ring3).args(["run", "--"]).arg(&ring3).arg("probe"))?;
    let said = output(Command::new(&ring3).args(["run", "--", "printenv", "LD_PRELOAD"]))?;
    let expected = scratch.path().join("usr/lib/ring3").join(LIBRARY);
    let preloaded = fs::canonicalize(said.trim()).with_context(|| format!("preloaded was {said:?}"))?;
    ensure!(
        preloaded == fs::canonicalize(expected)?,
        "preloaded was {said:?}, which is not the package's"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_counts() {
        let (a, b) = (
            b"x\0GLIBC_2.2.5\0GLIBC_2.17\0".to_vec(),
            b"GLIBC_2.34\0GLIBC_2.4\0".to_vec(),
        );
        assert_eq!(newest_libc([&a, &b]), "2.34");
    }

    #[test]
    fn the_control_file_has_its_fields() {
        let text = control("2.34");
        assert!(
            text.lines()
                .all(|line| line.starts_with(' ') || line.contains(": "))
        );
        assert!(text.contains("Depends: libc6 (>= 2.34)"));
    }
}
