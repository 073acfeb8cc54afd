//! A stub for gdb: `ring3 boot --gdb ADDR|PATH`, by the `gdbstub` crate, on nothing but KVM's API.
//!
//! [`turns`] stops and resumes processors, [`points`] knows breakpoints and what a KVM_EXIT_DEBUG means, [`registers`] translates
//! registers, [`target`] is what the crate asks. Here: the socket, and the conversation. A processor is a thread of gdb's,
//! numbered from one. The guest does not run before a debugger has come and let it; one that goes, or is lost, takes its
//! breakpoints along, and the guest runs on until the next one comes.
//!
//! Not supported: registers beyond the core set and SSE, changes of segment registers, more than four breakpoints and
//! watchpoints in hardware, memory that is not RAM.

mod amd64;
mod points;
mod registers;
mod target;
mod turns;

pub use turns::{Place, Turns, prepare};

use crate::End;
use crate::devices::Devices;
use anyhow::{Context, Result, anyhow};
use gdbstub::common::Signal;
use gdbstub::conn::ConnectionExt;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use target::{Debugged, tid};

/// What the conversation waits for.
pub enum Event {
    /// The debugger says something.
    Byte { connection: u64, byte: u8 },
    /// It is gone.
    Gone { connection: u64 },
    /// A processor stopped, in a round of running that may be over by now.
    Stopped {
        round: u64,
        reason: MultiThreadStopReason<u64>,
    },
}

/// Where debuggers come to.
pub enum Door {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

type Connection = Box<dyn ConnectionExt<Error = io::Error>>;

impl Door {
    /// Opens one at `HOST:PORT`, a port of this host's own (`1234`, `:1234`), or, with a slash in it, the path of a socket.
    pub fn open(at: &str) -> Result<Door> {
        if at.contains('/') {
            let listener = UnixListener::bind(at).with_context(|| format!("gdb: socket {at}"))?;
            return Ok(Door::Unix(listener, PathBuf::from(at)));
        }
        let address = match at.rsplit_once(':') {
            Some(("", port)) => format!("127.0.0.1:{port}"),
            Some(_) => at.to_string(),
            None => format!("127.0.0.1:{at}"),
        };
        let listener = TcpListener::bind(&address).with_context(|| format!("gdb: address {address}"))?;
        Ok(Door::Tcp(listener))
    }

    /// What to type in gdb.
    pub fn invitation(&self) -> String {
        match self {
            Door::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("target remote {address}"),
                Err(error) => error.to_string(),
            },
            Door::Unix(_, path) => format!("target remote {}", path.display()),
        }
    }

    /// Waits for a debugger: a side to write to, and one to read from.
    fn wait(&self) -> io::Result<(Connection, Box<dyn Read + Send>)> {
        match self {
            Door::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                let reader: TcpStream = stream.try_clone()?;
                Ok((Box::new(stream), Box::new(reader)))
            }
            Door::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                let reader: UnixStream = stream.try_clone()?;
                Ok((Box::new(stream), Box::new(reader)))
            }
        }
    }

    /// The socket's path, which goes when the guest has ended.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Door::Tcp(_) => None,
            Door::Unix(_, path) => Some(path),
        }
    }
}

/// Serves debuggers, one after the other, on a thread of its own.
pub fn start(
    door: Door,
    turns: Arc<Turns>,
    memory: crate::memory::GuestMemory,
    devices: Arc<Devices>,
    (send, events): (Sender<Event>, Receiver<Event>),
) -> Result<()> {
    let serve = move || {
        let mut debugged = Debugged::new(turns, memory);
        for connection in 1.. {
            let result = door
                .wait()
                .map_err(anyhow::Error::from)
                .and_then(|(conn, reader)| {
                    listen(reader, connection, send.clone())?;
                    converse(conn, connection, &mut debugged, &events)
                });
            match result {
                Ok(Some(DisconnectReason::Kill)) => return devices.finish(Ok(End::Quit)),
                Ok(_) => {}
                Err(error) => tracing::warn!("gdb: {error:#}"),
            }
            if let Err(error) = debugged.release() {
                return devices.finish(Err(error));
            }
        }
    };
    let thread = thread::Builder::new().name("gdb".into()).spawn(serve);
    thread.map(drop).context("starting the debugger's thread")
}

/// Hands on what the debugger says.
fn listen(mut reader: Box<dyn Read + Send>, connection: u64, events: Sender<Event>) -> io::Result<()> {
    let read = move || {
        let mut buffer = [0; 4096];
        loop {
            let len = reader.read(&mut buffer).unwrap_or(0);
            for &byte in &buffer[..len] {
                let _ = events.send(Event::Byte { connection, byte });
            }
            if len == 0 {
                let _ = events.send(Event::Gone { connection });
                return;
            }
        }
    };
    let name = "gdb reader".to_string();
    thread::Builder::new().name(name).spawn(read).map(drop)
}

/// Speaks with one debugger to the end; `None` if it just went away.
fn converse(
    conn: Connection,
    connection: u64,
    debugged: &mut Debugged,
    events: &Receiver<Event>,
) -> Result<Option<DisconnectReason>> {
    let failed = |error| anyhow!("{error}");
    debugged.stop();
    let mut gdb = GdbStub::new(conn).run_state_machine(debugged).map_err(failed)?;
    loop {
        gdb = match gdb {
            GdbStubStateMachine::Disconnected(gdb) => return Ok(Some(gdb.get_reason())),
            GdbStubStateMachine::CtrlCInterrupt(gdb) => {
                debugged.stop();
                let reason = MultiThreadStopReason::SignalWithThread {
                    tid: tid(0),
                    signal: Signal::SIGINT,
                };
                gdb.interrupt_handled(debugged, Some(reason)).map_err(failed)?
            }
            GdbStubStateMachine::Idle(gdb) => match events.recv()? {
                Event::Byte {
                    connection: from,
                    byte,
                } if from == connection => gdb.incoming_data(debugged, byte).map_err(failed)?,
                Event::Gone { connection: from } if from == connection => return Ok(None),
                // Of a debugger before, or of a processor that is stopped by now.
                _ => gdb.into(),
            },
            GdbStubStateMachine::Running(gdb) => match events.recv()? {
                Event::Byte {
                    connection: from,
                    byte,
                } if from == connection => gdb.incoming_data(debugged, byte).map_err(failed)?,
                Event::Gone { connection: from } if from == connection => return Ok(None),
                Event::Stopped { round, reason } if round == debugged.round() => {
                    debugged.stop();
                    gdb.report_stop(debugged, reason).map_err(failed)?
                }
                _ => gdb.into(),
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_paths() {
        for at in ["0", ":0", "127.0.0.1:0"] {
            let door = Door::open(at).expect("a port can be had");
            assert!(door.invitation().starts_with("target remote 127.0.0.1:"), "{at}");
        }
        assert!(Door::open("no such host.invalid:1").is_err());
        assert!(Door::open("/no/such/directory/socket").is_err());
    }
}
