//! Tests that are clients: each runs its body in a process of its own, with `libring3.so` preloaded.

use std::env;
use std::ffi::{CString, c_int};
use std::io;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Tells the child which test it is.
const CLIENT: &str = "RING3_TEST_CLIENT";

/// The library. Cargo builds none for tests of its own package, so it is asked to.
pub fn library() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn build() -> PathBuf {
    // TARGET/PROFILE/deps/TEST
    let exe = env::current_exe().expect("a test has a path");
    let profile = exe.ancestors().nth(2).expect("a test is in deps");
    let target = profile.parent().expect("a profile has a target directory");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "build",
            "--quiet",
            "--package",
            env!("CARGO_PKG_NAME"),
            "--target-dir",
        ])
        .arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("there is a cargo").success());
    profile.join("libring3.so")
}

/// A command with the library preloaded.
pub fn preloaded(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", library());
    command
}

/// Runs `body` in a client process; called by the test `name`.
pub fn client(name: &str, body: impl FnOnce()) {
    client_with(name, &[], body);
}

/// As [`client`], with more in the environment; says what the client printed.
pub fn client_with(name: &str, environment: &[(&str, &str)], body: impl FnOnce()) -> Option<Output> {
    if env::var_os(CLIENT).is_some_and(|client| client == name) {
        body();
        return None;
    }
    let exe = env::current_exe().expect("a test has a path");
    let mut command = preloaded(exe.to_str().expect("a plain path"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(CLIENT, name).envs(environment.iter().copied());
    let output = command.output().expect("the test can run itself");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(said.contains("1 passed"), "the client is not a test: {said}");
    Some(output)
}

fn result(value: c_int) -> Result<c_int, i32> {
    if value == -1 {
        Err(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Ok(value)
    }
}

pub fn open(path: &str, flags: c_int) -> Result<c_int, i32> {
    let path = CString::new(path).expect("a path without zeroes");
    // SAFETY: the path is a string.
    result(unsafe { libc::open(path.as_ptr(), flags) })
}

pub fn open_kvm() -> c_int {
    open("/dev/kvm", libc::O_RDWR | libc::O_CLOEXEC).expect("the device opens")
}

pub fn ioctl(fd: c_int, request: u32, arg: u64) -> Result<c_int, i32> {
    // SAFETY: the tests pass what the requests want, or what must be refused.
    result(unsafe { libc::ioctl(fd, request.into(), arg) })
}

#[allow(dead_code)]
pub fn close(fd: c_int) {
    // SAFETY: the tests own their descriptors.
    assert_eq!(result(unsafe { libc::close(fd) }), Ok(0));
}

/// Runs `body` in a forked child, and says what it returned.
#[allow(dead_code)]
pub fn in_child(body: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: the child runs the body and ends; the tests' bodies need no other thread.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(body());
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        assert!(libc::WIFEXITED(status), "the child ended with status {status:#x}");
        libc::WEXITSTATUS(status)
    }
}
