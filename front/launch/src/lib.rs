//! How a program is started so that ring3 serves it: what its file is, and what has to be in its environment.
//!
//! A program that is linked dynamically takes `libring3.so` in by itself, if the environment says so. One that is linked statically is
//! mapped by a loader, `ring3-static`, which is started in its place with the program's arguments, and finds the program's path
//! in the environment. A script is what its interpreter is.
#![forbid(unsafe_code)]

mod elf;

pub use elf::is_static;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The library's name, and the loader's, which stand in the same directory.
pub const LIBRARY: &str = "libring3.so";
pub const LOADER: &str = "ring3-static";

/// Where the loader finds which program it is to load.
pub const PROGRAM: &str = "RING3_STATIC";
/// Where it finds the descriptor with the seccomp filters of the program before.
pub const FILTERS: &str = "RING3_STATIC_FILTERS";
const PRELOAD: &str = "LD_PRELOAD";

/// As much of a file as is looked at. Linux looks at less of a script.
const HEAD: usize = 4096;
/// How often the interpreter of a script may be a script, as in Linux.
const SCRIPTS: usize = 4;

/// A program that the loader must load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Static {
    /// The program, which may be a script's interpreter.
    pub program: PathBuf,
    /// What to put before the client's arguments instead of the first of them, if the program is an interpreter.
    pub instead: Vec<OsString>,
}

/// A program to be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    pub environment: Vec<OsString>,
}

impl Static {
    /// The loader, for this program with these arguments and this environment.
    pub fn started(self, library: &Path, arguments: Vec<OsString>, environment: &[OsString]) -> Started {
        let arguments = if self.instead.is_empty() {
            arguments
        } else {
            self.instead
                .into_iter()
                .chain(arguments.into_iter().skip(1))
                .collect()
        };
        Started {
            path: library.with_file_name(LOADER),
            arguments,
            environment: self::environment(environment, library, Some(&self.program)),
        }
    }
}

/// As [`look`], of a program that may be executed, by the loader beside `library`.
pub fn loadable(path: &Path, library: &Path) -> Option<Static> {
    let found = look(path)?;
    let may = |path: &Path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    (may(path) && library.with_file_name(LOADER).is_file()).then_some(found)
}

/// The path of what execveat names by a directory's descriptor and a path, or by a program's descriptor and none. A file that has no
/// name gets a descriptor that stays open, if it is a program that must be loaded.
pub fn at_descriptor(directory: i32, path: &Path) -> PathBuf {
    /// Out of the client's way.
    const HIGH: i32 = 900;
    if path.is_absolute() || directory == WORKING_DIRECTORY && !path.as_os_str().is_empty() {
        return path.to_path_buf();
    }
    let link = PathBuf::from(format!("/proc/self/fd/{directory}"));
    let named = if path.as_os_str().is_empty() {
        link
    } else {
        link.join(path)
    };
    if let Ok(name) = std::fs::canonicalize(&named) {
        return name;
    }
    let kept = look(&named).and_then(|_| {
        let kept = rustix::io::fcntl_dupfd_cloexec(File::open(&named).ok()?, HIGH).ok()?;
        rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::empty()).ok()?;
        Some(format!("/proc/self/fd/{}", kept.into_raw_fd()).into())
    });
    kept.unwrap_or(named)
}

/// `AT_FDCWD`.
const WORKING_DIRECTORY: i32 = -100;

/// What is to be loaded in place of `path`, if it is linked statically. Allocates nothing unless it is, or is a script.
pub fn look(path: &Path) -> Option<Static> {
    let mut found = Static {
        program: PathBuf::new(),
        instead: Vec::new(),
    };
    let mut head = [0; HEAD];
    let mut len = read(path, &mut head)?;
    for _ in 0..=SCRIPTS {
        let head = &mut head[..];
        let at = if found.instead.is_empty() {
            path
        } else {
            &found.program
        };
        if is_static(&head[..len]) {
            found.program = at.to_path_buf();
            return Some(found);
        }
        let (interpreter, argument) = script(&head[..len])?;
        let mut words = vec![interpreter.as_os_str().to_os_string()];
        words.extend(argument);
        words.push(at.as_os_str().to_os_string());
        // An inner script's path stands where its interpreter found it.
        words.extend(found.instead.into_iter().skip(1));
        len = read(&interpreter, head)?;
        found = Static {
            program: interpreter,
            instead: words,
        };
    }
    None
}

fn read(path: &Path, head: &mut [u8]) -> Option<usize> {
    let mut file = File::open(path).ok()?;
    let mut len = 0;
    loop {
        match file.read(&mut head[len..]) {
            Ok(0) => return Some(len),
            Ok(more) => len += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// The interpreter of a script, and the one argument that it may be given.
fn script(head: &[u8]) -> Option<(PathBuf, Option<OsString>)> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = line.trim_ascii();
    let end = line
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(line.len());
    let (interpreter, rest) = line.split_at(end);
    if interpreter.is_empty() {
        return None;
    }
    let rest = rest.trim_ascii();
    let argument = (!rest.is_empty()).then(|| OsString::from_vec(rest.to_vec()));
    Some((PathBuf::from(OsStr::from_bytes(interpreter)), argument))
}

/// The directories that hold the library and the loader, as seen from that of the `ring3` command.
pub fn places(directory: &Path) -> [PathBuf; 2] {
    [directory.to_path_buf(), directory.join("../lib/ring3")]
}

/// The value of `LD_PRELOAD` that has `library` in front of what was there.
pub fn with_library(library: &Path, before: Option<&OsStr>) -> OsString {
    let mut value = library.as_os_str().to_os_string();
    if let Some(before) = before.filter(|before| !before.is_empty()) {
        if before
            .as_bytes()
            .split(|byte| *byte == b':')
            .any(|one| one == value.as_bytes())
        {
            return before.to_os_string();
        }
        value.push(":");
        value.push(before);
    }
    value
}

/// What is left of `LD_PRELOAD` without `library`; nothing, if that was all.
pub fn without_library(library: &Path, value: &OsStr) -> Option<OsString> {
    let name = library.as_os_str().as_bytes();
    let rest: Vec<&[u8]> = value
        .as_bytes()
        .split(|byte| *byte == b':')
        .filter(|one| *one != name)
        .collect();
    let rest = rest.join(&b':');
    (!rest.is_empty()).then(|| OsString::from_vec(rest))
}

/// One entry of an environment.
pub fn entry(name: &str, value: &OsStr) -> OsString {
    let mut entry = OsString::from(name);
    entry.push("=");
    entry.push(value);
    entry
}

/// An environment, as strings of `name=value`, with the library preloaded and, for the loader, the program named.
pub fn environment(given: &[OsString], library: &Path, program: Option<&Path>) -> Vec<OsString> {
    let is = |entry: &&OsString, name: &str| value_of(entry, name).is_some();
    let before = given.iter().find_map(|entry| value_of(entry, PRELOAD));
    let preload = with_library(library, before);
    let mut all: Vec<OsString> = given
        .iter()
        .filter(|entry| ![PRELOAD, PROGRAM, FILTERS].iter().any(|name| is(entry, name)))
        .cloned()
        .collect();
    all.push(entry(PRELOAD, &preload));
    all.extend(program.map(|program| entry(PROGRAM, program.as_os_str())));
    all
}

/// The environment that a program sees which was started with one of [`environment`].
pub fn clients_environment(given: &[OsString], library: &Path) -> Vec<OsString> {
    let kept = |one: &OsString| match value_of(one, PRELOAD) {
        Some(value) => without_library(library, value).map(|rest| entry(PRELOAD, &rest)),
        None if [PROGRAM, FILTERS]
            .iter()
            .any(|name| value_of(one, name).is_some()) =>
        {
            None
        }
        None => Some(one.clone()),
    };
    given.iter().filter_map(kept).collect()
}

fn value_of<'a>(entry: &'a OsStr, name: &str) -> Option<&'a OsStr> {
    let rest = entry
        .as_bytes()
        .strip_prefix(name.as_bytes())?
        .strip_prefix(b"=")?;
    Some(OsStr::from_bytes(rest))
}

#[cfg(test)]
mod tests;
