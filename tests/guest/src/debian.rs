//! Debian packages without installing them: `apt-get download`, then `dpkg-deb -x`.
//!
//! Works unprivileged. If the system's package lists are missing or too old to download from, a private
//! set of lists is fetched below the target directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::places;

/// Debian's keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What guests are made of that need not be like the host. It is the last suite with 32-bit kernels.
pub const SUITE: &str = "bookworm";

/// What a list of packages says of one.
#[derive(Clone, Debug)]
pub struct Stanza {
    pub text: String,
}

impl Stanza {
    fn new(text: &str) -> Self {
        let text = text.trim().to_string();
        Self { text }
    }

    /// The first line of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// A place to fetch packages into.
pub struct Fetcher {
    dir: PathBuf,
    private_lists: bool,
    /// The file that names where packages come from, if not the system's.
    sources: Option<PathBuf>,
    /// The architecture, if not the system's.
    architecture: Option<&'static str>,
}

impl Fetcher {
    pub fn new(dir: &Path) -> Result<Self> {
        places::need("apt-get", "apt (ring3's tests take their guests from Debian)")?;
        places::need("dpkg-deb", "dpkg")?;
        std::fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            private_lists: false,
            sources: None,
            architecture: None,
        })
    }

    /// For packages of a suite that the system's need not be, from the same mirror of Debian.
    pub fn of_suite(dir: &Path, suite: &str) -> Result<Self> {
        Self::of_suite_in(&dir.join(suite), suite)
    }

    /// As [`Fetcher::of_suite`], for another architecture than the system's.
    pub fn of_architecture(dir: &Path, suite: &str, architecture: &'static str) -> Result<Self> {
        let mut fetcher = Self::of_suite_in(&dir.join(format!("{suite}-{architecture}")), suite)?;
        fetcher.architecture = Some(architecture);
        Ok(fetcher)
    }

    fn of_suite_in(dir: &Path, suite: &str) -> Result<Self> {
        let mut fetcher = Self::new(dir)?;
        let sources = fetcher.dir.join("sources.list");
        if !sources.is_file() {
            let mirror = fetcher.with_fresh_lists(Self::mirror)?;
            // Packages are checked with the keys that the system has for Debian.
            let line = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
            std::fs::write(&sources, line)?;
        }
        fetcher.sources = Some(sources);
        fetcher.private_lists = false;
        Ok(fetcher)
    }

    /// Where the system's packages of Debian proper come from.
    fn mirror(&self) -> Result<String> {
        let format = "$(ORIGIN)|$(LABEL)|$(SITE)";
        let output = self
            .apt("apt-get")
            .args(["indextargets", "--format", format])
            .output()?;
        let text = succeed(&output, "apt-get indextargets")?;
        text.lines()
            .find_map(|line| line.strip_prefix("Debian|Debian|"))
            .map(str::to_string)
            .context("the system's packages are not Debian's")
    }

    /// The first package that `package` depends on and whose name starts with `prefix`.
    pub fn dependency(&mut self, package: &str, prefix: &str) -> Result<String> {
        self.with_fresh_lists(|fetcher| {
            let output = fetcher.apt("apt-cache").args(["depends", package]).output()?;
            let text = succeed(&output, &format!("apt-cache depends {package}"))?;
            text.lines()
                .filter_map(|line| line.trim().strip_prefix("Depends: "))
                .find(|name| name.starts_with(prefix))
                .map(str::to_string)
                .with_context(|| format!("{package} depends on no {prefix}*"))
        })
    }

    /// Downloads `package` and unpacks it into a directory, which is returned.
    pub fn unpack(&mut self, package: &str) -> Result<PathBuf> {
        self.unpack_only(package, &[])
    }

    /// As [`Fetcher::unpack`], of all files only those that match one of `patterns`, if there are any.
    pub fn unpack_only(&mut self, package: &str, patterns: &[&str]) -> Result<PathBuf> {
        let into = self.dir.join(package);
        if into.is_dir() {
            return Ok(into);
        }
        let deb = self.with_fresh_lists(|fetcher| fetcher.download(package))?;
        let partial = self.dir.join(format!("{package}.partial"));
        let _ = std::fs::remove_dir_all(&partial);
        std::fs::create_dir(&partial)?;
        let mut unpacker = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&deb)
            .stdout(Stdio::piped())
            .spawn()
            .context("starting dpkg-deb")?;
        let archive = unpacker.stdout.take().context("stdout is piped")?;
        let output = Command::new("tar")
            .args(["-x", "--no-same-owner", "-C"])
            .arg(&partial)
            .arg("--wildcards")
            .args(patterns)
            .stdin(archive)
            .output()
            .context("starting tar")?;
        ensure!(unpacker.wait()?.success(), "{} is no package", deb.display());
        succeed(&output, "tar -x")?;
        std::fs::rename(&partial, &into)?;
        std::fs::remove_file(&deb)?;
        Ok(into)
    }

    /// Downloads what apt would install of `wanted` into an empty system: package's file, and what apt says of it, for each.
    pub fn closure(&mut self, wanted: &[&str]) -> Result<Vec<(PathBuf, Stanza)>> {
        let (status, archives) = (self.dir.join("nothing"), self.dir.join("archives"));
        std::fs::write(&status, "")?;
        std::fs::create_dir_all(archives.join("partial"))?;
        self.private_lists = true;
        std::fs::create_dir_all(self.dir.join("lists/partial"))?;
        succeed(
            &self.apt("apt-get").args(["update", "-qq"]).output()?,
            "apt-get update",
        )?;
        let with = |program: &str| {
            let mut command = self.apt(program);
            command
                .arg("-o")
                .arg(format!("Dir::State::status={}", status.display()));
            command.args([
                "-o",
                "APT::Install-Recommends=false",
                "-o",
                "Debug::NoLocking=true",
            ]);
            command
        };
        let mut install = with("apt-get");
        install
            .args(["install", "-y", "-qq", "--download-only"])
            .args(wanted);
        succeed(&install.output()?, "apt-get install --download-only")?;
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&archives)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some((package, _)) = name.split_once('_') {
                files.push((package.to_string(), archives.join(&name)));
            }
        }
        files.sort();
        let mut show = with("apt-cache");
        show.args(["show", "--no-all-versions"])
            .args(files.iter().map(|(package, _)| package));
        let text = succeed(&show.output()?, "apt-cache show")?;
        let stanzas: Vec<Stanza> = text.split("\n\n").map(Stanza::new).collect();
        let find = |(package, file): (String, PathBuf)| {
            let stanza = stanzas
                .iter()
                .find(|stanza| stanza.field("Package") == Some(&package))
                .with_context(|| format!("apt-cache show says nothing of {package}"))?;
            Ok((file, stanza.clone()))
        };
        files.into_iter().map(find).collect()
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        let output = self
            .apt("apt-get")
            .args(["download", package])
            .current_dir(&self.dir)
            .output()?;
        succeed(&output, &format!("apt-get download {package}"))?;
        let prefix = format!("{package}_");
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&prefix) && name.ends_with(".deb") {
                return Ok(path);
            }
        }
        bail!("apt-get download {package} left no file");
    }

    /// Tries with the system's lists, then once more with lists of our own.
    fn with_fresh_lists<T>(&mut self, attempt: impl Fn(&Self) -> Result<T>) -> Result<T> {
        match attempt(self) {
            Err(_) if !self.private_lists => {
                self.private_lists = true;
                std::fs::create_dir_all(self.dir.join("lists/partial"))?;
                let output = self.apt("apt-get").args(["update", "-qq"]).output()?;
                succeed(&output, "apt-get update")?;
                attempt(self)
            }
            result => result,
        }
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // As root, apt would switch to a user that cannot read our directory, and warn.
        command.env("LC_ALL", "C").args(["-o", "APT::Sandbox::User=root"]);
        if let Some(architecture) = self.architecture {
            for option in ["APT::Architecture", "APT::Architectures"] {
                command.args(["-o", &format!("{option}={architecture}")]);
            }
        }
        if let Some(sources) = &self.sources {
            command
                .arg("-o")
                .arg(format!("Dir::Etc::sourcelist={}", sources.display()));
            command.args(["-o", "Dir::Etc::sourceparts=-"]);
        }
        if self.private_lists || self.sources.is_some() {
            command
                .arg("-o")
                .arg(format!("Dir::State::lists={}", self.dir.join("lists").display()));
            command
                .arg("-o")
                .arg(format!("Dir::Cache={}", self.dir.display()));
        }
        command
    }
}

fn succeed(output: &Output, what: &str) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    let line = error
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    bail!("{what} failed: {line}");
}
