//! A Firecracker process, driven by its API socket: HTTP over a Unix socket, as much of it as tests need.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::guest::{Guest, Process, patience};

/// How long an answer may take: a snapshot is written before it comes.
const ANSWER: u64 = 60;
/// No answer of Firecracker's is that long.
const LONGEST_BODY: usize = 1 << 20;

/// A started Firecracker, whose standard input and output are the guest's console.
pub struct Firecracker {
    pub guest: Guest,
    api: BufReader<UnixStream>,
}

/// What a guest is made of.
#[derive(Clone, Debug)]
pub struct Microvm {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// Words of the kernel's command line, behind those that every guest has.
    pub words: String,
    pub cpus: u32,
    pub memory_mib: u32,
    pub disk: Option<PathBuf>,
    /// The name of a TAP device.
    pub tap: Option<String>,
    /// Whether snapshots may have only what was written since the last one.
    pub dirty_log: DirtyLog,
}

/// Whether KVM logs what the guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtyLog {
    Off,
    On,
}

/// The files that a snapshot is in.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub state: PathBuf,
    pub memory: PathBuf,
}

impl Firecracker {
    /// Starts `command`, which is to be Firecracker without arguments, or ends with that.
    pub fn start(mut command: Command, socket: &Path) -> Result<Firecracker> {
        // What it logs would get into the lines of the console.
        command.args(["--level", "Error", "--api-sock"]).arg(socket);
        let process = Process::start(command)?;
        let deadline = Instant::now() + patience(30);
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => {
                    let why = format!("no API at {}:\n{}", socket.display(), process.console.tail());
                    return Err(error).context(why);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        stream.set_read_timeout(Some(patience(ANSWER)))?;
        stream.set_write_timeout(Some(patience(ANSWER)))?;
        Ok(Firecracker {
            guest: Guest { process },
            api: BufReader::new(stream),
        })
    }

    /// Puts a machine together and has it run.
    pub fn boot(&mut self, machine: &Microvm) -> Result<()> {
        self.put(
            "/machine-config",
            &json!({
                "vcpu_count": machine.cpus,
                "mem_size_mib": machine.memory_mib,
                "track_dirty_pages": machine.dirty_log == DirtyLog::On,
            }),
        )?;
        let line = format!("console=ttyS0 reboot=k panic=-1 {}", machine.words);
        self.put(
            "/boot-source",
            &json!({
                "kernel_image_path": machine.kernel,
                "initrd_path": machine.initramfs,
                "boot_args": line.trim_end(),
            }),
        )?;
        if let Some(path) = &machine.disk {
            let drive = json!({
                "drive_id": "disk", "path_on_host": path, "is_root_device": false, "is_read_only": false,
            });
            self.put("/drives/disk", &drive)?;
        }
        if let Some(name) = &machine.tap {
            let card = json!({ "iface_id": "eth0", "host_dev_name": name });
            self.put("/network-interfaces/eth0", &card)?;
        }
        self.put("/actions", &json!({ "action_type": "InstanceStart" }))
    }

    pub fn pause(&mut self) -> Result<()> {
        self.request("PATCH", "/vm", &json!({ "state": "Paused" }))
    }

    pub fn resume(&mut self) -> Result<()> {
        self.request("PATCH", "/vm", &json!({ "state": "Resumed" }))
    }

    /// Writes a paused guest's state, all of it or what has changed since the last time.
    pub fn save(&mut self, to: &Snapshot, kind: &str) -> Result<()> {
        let files = json!({
            "snapshot_type": kind, "snapshot_path": to.state, "mem_file_path": to.memory,
        });
        self.put("/snapshot/create", &files)
    }

    /// Has a machine be as it was when the snapshot was made, and run. A snapshot has nothing of the serial port: what the guest was just
    /// saying goes on with the next character that it gets.
    pub fn load(&mut self, from: &Snapshot, log: DirtyLog) -> Result<()> {
        let files = json!({
            "snapshot_path": from.state,
            "mem_backend": { "backend_type": "File", "backend_path": from.memory },
            "enable_diff_snapshots": log == DirtyLog::On,
            "resume_vm": true,
        });
        self.put("/snapshot/load", &files)?;
        self.guest.process.send("\n")
    }

    pub fn put(&mut self, path: &str, body: &Value) -> Result<()> {
        self.request("PUT", path, body)
    }

    /// One request, which must succeed.
    fn request(&mut self, method: &str, path: &str, body: &Value) -> Result<()> {
        let body = body.to_string();
        let (status, answer) = self
            .exchange(method, path, &body)
            .with_context(|| format!("{method} {path} {body}\n{}", self.guest.process.console.tail()))?;
        if !(200..300).contains(&status) {
            let tail = self.guest.process.console.tail();
            bail!("{method} {path} {body}: {status} {answer}\n{tail}");
        }
        Ok(())
    }

    fn exchange(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.api.get_mut().write_all((head + body).as_bytes())?;
        read_answer(&mut self.api)
    }
}

/// The status and the body of an answer.
fn read_answer(from: &mut impl BufRead) -> Result<(u16, String)> {
    let mut line = String::new();
    ensure!(from.read_line(&mut line)? > 0, "the API's socket was closed");
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("no answer of HTTP's: {line:?}"))?;
    let mut length = 0;
    loop {
        line.clear();
        from.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
    ensure!(length <= LONGEST_BODY, "an answer of {length} bytes");
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::read_answer;

    #[test]
    fn answers_of_http() {
        let mut two = &b"HTTP/1.1 204 \r\nServer: x\r\n\r\nHTTP/1.1 400 \r\ncontent-length: 3\r\n\r\nbad"[..];
        assert_eq!(read_answer(&mut two).expect("the first"), (204, String::new()));
        assert_eq!(
            read_answer(&mut two).expect("the second"),
            (400, "bad".to_string())
        );
        assert!(read_answer(&mut two).is_err());
        assert!(read_answer(&mut &b"nonsense\r\n\r\n"[..]).is_err());
        assert!(read_answer(&mut &b"HTTP/1.1 200\r\nContent-Length: 99999999999\r\n\r\n"[..]).is_err());
    }
}
