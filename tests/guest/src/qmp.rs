//! QEMU's monitor protocol, as much of it as tests need.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection past its greeting.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    /// Events that came while an answer was awaited, by name.
    events: Vec<String>,
}

impl Qmp {
    /// Connects as soon as QEMU has made the socket.
    pub fn connect(socket: &Path, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| format!("connecting to {}", socket.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        stream.set_read_timeout(Some(patience))?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
            events: Vec::new(),
        };
        let greeting = qmp.message()?;
        if greeting.get("QMP").is_none() {
            bail!("no QMP greeting, but {greeting}");
        }
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Runs a command without arguments and returns its answer.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        self.send(&json!({ "execute": command }))
    }

    /// Runs a command with arguments.
    pub fn command(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.send(&json!({ "execute": command, "arguments": arguments }))
    }

    /// Runs a command of the human monitor and returns what it prints.
    pub fn human(&mut self, line: &str) -> Result<String> {
        let arguments = json!({ "command-line": line });
        let answer = self.send(&json!({ "execute": "human-monitor-command", "arguments": arguments }))?;
        Ok(answer.as_str().unwrap_or_default().to_string())
    }

    /// Waits for an event, also one that came earlier and was not yet asked for.
    pub fn event(&mut self, name: &str) -> Result<()> {
        loop {
            if let Some(index) = self.events.iter().position(|event| event == name) {
                self.events.remove(index);
                return Ok(());
            }
            let message = self.message().with_context(|| format!("waiting for {name}"))?;
            self.note_event(&message);
        }
    }

    fn send(&mut self, request: &Value) -> Result<Value> {
        let line = format!("{request}\n");
        self.reader
            .get_mut()
            .write_all(line.as_bytes())
            .context("writing to the monitor")?;
        loop {
            let mut message = self
                .message()
                .with_context(|| format!("waiting for the answer to {request}"))?;
            if let Some(error) = message.get("error") {
                bail!("{request} failed: {error}");
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            self.note_event(&message);
        }
    }

    fn note_event(&mut self, message: &Value) {
        if let Some(name) = message.get("event").and_then(Value::as_str) {
            self.events.push(name.to_string());
        }
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        let count = self
            .reader
            .read_line(&mut line)
            .context("reading from the monitor")?;
        if count == 0 {
            bail!("the monitor closed its socket");
        }
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}
