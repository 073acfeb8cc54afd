//! `ring3 run`: becomes the command, with `libring3.so` preloaded.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why the command was not run, and what to exit with: 127 if it is not there, 126 if it cannot be run, as a shell.
pub struct Refusal {
    pub message: String,
    pub code: u8,
}

pub fn refusal(code: u8, message: String) -> Refusal {
    Refusal { message, code }
}

/// Runs the command in place of this process, with more in its environment; returns only if that fails.
pub fn run<const N: usize>(command: &[OsString], environment: [(&str, OsString); N]) -> Refusal {
    let Some((program, arguments)) = command.split_first() else {
        return refusal(2, "no command given".to_string());
    };
    let library = match library() {
        Ok(library) => library,
        Err(refusal) => return refusal,
    };
    let path = match find(program) {
        Ok(path) => path,
        Err(refusal) => return refusal,
    };
    if is_static(&path) {
        return refusal(
            126,
            format!(
                "{}: statically linked programs are not supported yet",
                path.display()
            ),
        );
    }
    let mut preload = library.into_os_string();
    if let Some(before) = env::var_os("LD_PRELOAD").filter(|before| !before.is_empty()) {
        preload.push(":");
        preload.push(before);
    }
    let error = Command::new(&path)
        .args(arguments)
        .env("LD_PRELOAD", preload)
        .envs(environment)
        .exec();
    refusal(126, format!("{}: {error}", path.display()))
}

/// `libring3.so`: beside this executable, or in `../lib/ring3`.
pub fn library() -> Result<PathBuf, Refusal> {
    let own = env::current_exe().map_err(|error| refusal(1, format!("cannot find myself: {error}")))?;
    let directory = own.parent().unwrap_or(Path::new("/"));
    let places = [
        directory.join("libring3.so"),
        directory.join("../lib/ring3/libring3.so"),
    ];
    places
        .into_iter()
        .find(|place| place.is_file())
        .ok_or_else(|| refusal(1, format!("libring3.so is not beside {}", own.display())))
}

/// The program's path, searched as a shell does.
fn find(program: &OsStr) -> Result<PathBuf, Refusal> {
    let name = Path::new(program);
    if program.as_encoded_bytes().contains(&b'/') {
        return check(name.to_path_buf());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    for directory in env::split_paths(&path) {
        let candidate = directory.join(name);
        if candidate.is_file() {
            return check(candidate);
        }
    }
    Err(refusal(127, format!("{}: command not found", name.display())))
}

fn check(path: PathBuf) -> Result<PathBuf, Refusal> {
    let metadata =
        fs::metadata(&path).map_err(|error| refusal(127, format!("{}: {error}", path.display())))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(refusal(
            126,
            format!("{}: not an executable file", path.display()),
        ));
    }
    Ok(path)
}

/// Whether the file is an ELF program without an interpreter.
fn is_static(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut head));
    if read.is_err() || !head.starts_with(b"\x7fELF\x02") {
        return false;
    }
    let word = |at: usize, len: usize| {
        head.get(at..at + len).map(|bytes| {
            bytes
                .iter()
                .rev()
                .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        })
    };
    let (Some(table), Some(size), Some(count)) = (word(32, 8), word(54, 2), word(56, 2)) else {
        return false;
    };
    const PT_INTERP: u64 = 3;
    !(0..count).any(|n| word(table.saturating_add(n * size) as usize, 4) == Some(PT_INTERP))
}
