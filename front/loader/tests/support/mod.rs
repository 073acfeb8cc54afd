//! Programs for tests: compiled when they are needed, run with and without ring3.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Static,
    /// At any address.
    StaticPie,
    /// With another C library.
    Musl,
    /// Not static at all.
    Dynamic,
}

const MULTIARCH: &str = "/usr/include/x86_64-linux-gnu";

impl Kind {
    pub fn all() -> [Kind; 3] {
        [Kind::Static, Kind::StaticPie, Kind::Musl]
    }

    /// The compiler, and its arguments. The kernel's headers are not among the other C library's own.
    fn compiler(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Kind::Static => ("cc", &["-static"]),
            Kind::StaticPie => ("cc", &["-static-pie"]),
            Kind::Dynamic => ("cc", &[]),
            Kind::Musl => (
                "musl-gcc",
                &["-static", "-idirafter", "/usr/include", "-idirafter", MULTIARCH],
            ),
        }
    }
}

/// The ways in which system calls are caught: what to put into the environment for them.
pub const CAUGHT: [(&str, &str); 2] = [("", ""), ("RING3_STATIC_BY_FILTER", "1")];

/// A temporary directory of the tests' own, which cargo makes.
fn place() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// The program made of a file of `tests/programs`; `None` if there is no such compiler.
pub fn compile(name: &str, kind: Kind) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/programs/{name}.c"));
    let to = place().join(format!("{name}-{kind:?}"));
    let (compiler, flags) = kind.compiler();
    let output = Command::new(compiler)
        .args(["-O1", "-Wall", "-Wextra", "-pthread"])
        .args(flags)
        .arg("-o")
        .arg(&to)
        .arg(&source)
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", source.display());
    Some(to)
}

/// Nothing of the tests' own environment that a program would print.
fn plain(mut command: Command) -> Command {
    let path = env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("GIVEN", "this");
    command
}

pub fn natively(program: &Path, arguments: &[&str]) -> Output {
    let mut command = plain(Command::new(program));
    command
        .args(arguments)
        .output()
        .expect("the program was just made")
}

/// A dynamically linked program.
pub fn preloaded(program: &Path, arguments: &[&str]) -> Output {
    let mut command = plain(Command::new(program));
    command.args(arguments).env("LD_PRELOAD", library());
    command.output().expect("the program was just made")
}

pub fn under_ring3(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    use std::os::unix::process::CommandExt;
    let mut command = plain(Command::new(env!("CARGO_BIN_EXE_ring3-static")));
    command.arg0(program).args(arguments);
    command.env("LD_PRELOAD", library()).env("RING3_STATIC", program);
    command.envs(environment.iter().copied().filter(|(name, _)| !name.is_empty()));
    command.output().expect("the loader was built for the tests")
}

/// `libring3.so`, beside the loader. Cargo builds it only when it is asked to.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let profile = Path::new(env!("CARGO_BIN_EXE_ring3-static"))
            .parent()
            .expect("it is in a directory");
        let target = profile.parent().expect("a profile has a target directory");
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "--package", "ring3-preload", "--target-dir"])
            .arg(target);
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("there is a cargo").success());
        profile.join("libring3.so")
    })
}
