//! `ring3 run`: becomes the command, with `libring3.so` preloaded, or in a program that loads it, if it is linked statically.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ring3_launch::{LIBRARY, LOADER, PROGRAM, with_library};

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
    let found = ring3_launch::look(&path);
    let mut started = Command::new(match &found {
        Some(_) => library.with_file_name(LOADER),
        None => path.clone(),
    });
    match &found {
        Some(found) if !found.instead.is_empty() => {
            // A script: the path is found for the interpreter, too.
            started.arg0(&found.instead[0]).args(&found.instead[1..]);
        }
        Some(_) => drop(started.arg0(program)),
        None => {}
    }
    let preload = with_library(&library, env::var_os("LD_PRELOAD").as_deref());
    started
        .args(arguments)
        .env("LD_PRELOAD", preload)
        .envs(environment);
    started.envs(found.map(|found| (PROGRAM, found.program)));
    let error = started.exec();
    refusal(126, format!("{}: {error}", path.display()))
}

/// `libring3.so`, which the loader of static programs is beside: beside this executable, or in `../lib/ring3`.
pub fn library() -> Result<PathBuf, Refusal> {
    let own = env::current_exe().map_err(|error| refusal(1, format!("cannot find myself: {error}")))?;
    let directory = own.parent().unwrap_or(Path::new("/"));
    ring3_launch::places(directory)
        .into_iter()
        .map(|place| place.join(LIBRARY))
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
