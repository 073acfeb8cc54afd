//! A started program whose console is watched: QEMU, or any other command a test talks to.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::console::{Console, Echo, Seen};
use crate::{Assets, Machine};

/// A child process in its own process group, killed with all of the group when dropped.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    pub console: Console,
    pub started: Instant,
}

impl Process {
    /// Starts `command` with pipes for stdin, stdout and stderr; the latter two share one console.
    pub fn start(command: Command) -> Result<Self> {
        Self::start_shown(command, Echo::Silent)
    }

    /// As [`Process::start`], showing the console or not.
    pub fn start_shown(mut command: Command, echo: Echo) -> Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
        let console = Console::new();
        if let Some(stdout) = child.stdout.take() {
            console.read_from(stdout, echo);
        }
        if let Some(stderr) = child.stderr.take() {
            console.read_from(stderr, echo);
        }
        let stdin = child.stdin.take();
        Ok(Self {
            child,
            stdin,
            console,
            started,
        })
    }

    /// Types `text` on the program's stdin.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is closed")?;
        stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush())
            .context("typing on the console")
    }

    pub fn expect(&self, marker: &str, patience: Duration) -> Result<Seen> {
        self.console.expect(marker, patience)
    }

    /// Waits for the program to end by itself.
    pub fn wait_exit(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                let tail = self.console.tail();
                bail!(
                    "still running after {} s; its console ends:\n{tail}",
                    patience.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the program to end with status 0.
    pub fn wait_success(&mut self, patience: Duration) -> Result<()> {
        let status = self.wait_exit(patience)?;
        if !status.success() {
            bail!("ended with {status}; its console ends:\n{}", self.console.tail());
        }
        Ok(())
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let id = self.child.id();
        if let Ok(None) = self.child.try_wait()
            && let Some(group) = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// A guest in QEMU, as `init.sh` drives it.
pub struct Guest {
    pub process: Process,
}

impl Guest {
    pub fn start(machine: &Machine, assets: &Assets) -> Result<Self> {
        Ok(Self {
            process: Process::start(machine.command(assets)?)?,
        })
    }

    /// Waits for the first line of init.
    pub fn booted(&self) -> Result<Seen> {
        self.process.expect("guest: init", patience(120))
    }

    /// Waits for the verdict on `test`, one of `init.sh`'s tests.
    pub fn passed(&self, test: &str, patience: Duration) -> Result<Seen> {
        let (pass, fail) = (format!("guest: PASS {test}"), format!("guest: FAIL {test}"));
        let seen = self.process.console.expect_any(&[&pass, &fail], patience)?;
        if seen.index == 1 {
            bail!(
                "the guest says {fail}; its console ends:\n{}",
                self.process.console.tail()
            );
        }
        Ok(seen)
    }

    /// Waits for the interactive shell.
    pub fn shell(&self) -> Result<()> {
        self.process.expect("guest: shell (", patience(120))?;
        self.process.expect("# ", patience(30))?;
        Ok(())
    }

    /// Runs a command in the interactive shell and returns what it printed.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<String> {
        self.process.console.skip();
        let from = self.process.console.text().len();
        // The typed line is echoed; only the executed one joins the two halves.
        self.process
            .send(&format!("{command}; echo guest:' 'done=$?\n"))?;
        self.process.expect("guest: done=", limit)?;
        self.process.expect("# ", patience(10))?;
        let text = self.process.console.text();
        let output = text.get(from..).unwrap_or_default();
        let lines: Vec<&str> = output
            .lines()
            .skip(1)
            .take_while(|line| !line.contains("guest: done="))
            .collect();
        Ok(lines.join("\n"))
    }

    /// Waits for a clean power-off: the guest's last word and QEMU's exit status 0.
    pub fn powered_off(&mut self) -> Result<()> {
        self.process.expect("guest: poweroff", patience(60))?;
        self.process.wait_success(patience(30))
    }
}

/// `seconds`, times `RING3_E2E_SLOWNESS` for machines slower than the limits were made for.
pub fn patience(seconds: u64) -> Duration {
    let slowness = std::env::var("RING3_E2E_SLOWNESS")
        .ok()
        .and_then(|text| text.parse::<f64>().ok());
    Duration::from_secs(seconds).mul_f64(slowness.unwrap_or(1.0).clamp(0.1, 100.0))
}

#[cfg(test)]
mod tests {
    use super::{Process, patience};
    use std::process::Command;

    #[test]
    fn talks_to_a_program() {
        let mut process = Process::start(Command::new("cat")).expect("cat starts");
        process.send("hello\n").expect("cat reads");
        process.expect("hello", patience(10)).expect("cat answers");
        process.stdin = None;
        process.wait_success(patience(10)).expect("cat ends");
    }

    #[test]
    fn a_failing_program_shows_its_console() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo last words >&2; exit 3"]);
        let mut process = Process::start(command).expect("sh starts");
        process
            .expect("last words", patience(10))
            .expect("stderr is read too");
        let error = process
            .wait_success(patience(10))
            .expect_err("exit 3")
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("last words"),
            "{error}"
        );
    }

    #[test]
    fn dropping_kills_the_group() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo up; sleep 1000 & wait"]);
        let process = Process::start(command).expect("sh starts");
        process.expect("up", patience(10)).expect("sh runs");
        let console = process.console.clone();
        drop(process);
        // The background sleep held the pipe open too: the console ends only when both are gone.
        let error = console
            .expect("never", patience(10))
            .expect_err("nothing more")
            .to_string();
        assert!(error.contains("the program ended"), "{error}");
    }
}
