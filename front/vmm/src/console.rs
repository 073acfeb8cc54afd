//! The terminal: standard input goes to the serial port, raw if it is a terminal, where Ctrl-A X ends the guest.

use crate::End;
use crate::devices::Devices;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use std::io::{Read, Stdin, stdin};
use std::sync::Arc;
use std::thread;

const CTRL_A: u8 = 1;

/// Keeps the terminal raw, and makes it what it was when dropped.
pub struct RawTerminal(Option<(Stdin, Termios)>);

impl RawTerminal {
    /// Makes standard input raw, if it is a terminal.
    pub fn enter() -> RawTerminal {
        let input = stdin();
        if !isatty(&input) {
            return RawTerminal(None);
        }
        let Ok(before) = tcgetattr(&input) else {
            return RawTerminal(None);
        };
        let mut raw = before.clone();
        raw.make_raw();
        // The guest's own output is cooked already, but ours is not.
        raw.output_modes = before.output_modes;
        match tcsetattr(&input, OptionalActions::Now, &raw) {
            Ok(()) => RawTerminal(Some((input, before))),
            Err(_) => RawTerminal(None),
        }
    }

    /// What the keys mean here.
    pub fn keys(&self) -> Keys {
        match self.0 {
            Some(_) => Keys::Escaped(Escape::No),
            None => Keys::Plain,
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some((input, before)) = &self.0 {
            let _ = tcsetattr(input, OptionalActions::Now, before);
        }
    }
}

/// Whether Ctrl-A was the last key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Escape {
    No,
    Yes,
}

/// How input is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keys {
    /// Every byte is the guest's.
    Plain,
    /// Ctrl-A begins a command: X quits, Ctrl-A is itself.
    Escaped(Escape),
}

impl Keys {
    /// What of the input the guest gets; `None` to quit.
    fn filter(&mut self, input: &[u8]) -> Option<Vec<u8>> {
        let mut guests = Vec::with_capacity(input.len());
        for &byte in input {
            *self = match *self {
                Keys::Plain => {
                    guests.push(byte);
                    Keys::Plain
                }
                Keys::Escaped(Escape::No) if byte == CTRL_A => Keys::Escaped(Escape::Yes),
                Keys::Escaped(Escape::Yes) if byte.eq_ignore_ascii_case(&b'x') => return None,
                Keys::Escaped(_) => {
                    guests.push(byte);
                    Keys::Escaped(Escape::No)
                }
            };
        }
        Some(guests)
    }
}

/// Reads standard input to its end on a thread of its own.
pub fn start(devices: Arc<Devices>, mut keys: Keys) -> std::io::Result<()> {
    let read = move || {
        devices.console_is_here();
        let mut buffer = [0; 256];
        loop {
            let len = match stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return tracing::warn!("standard input: {error}"),
            };
            match keys.filter(&buffer[..len]) {
                Some(input) => devices.type_in(&input),
                None => return devices.finish(Ok(End::Quit)),
            }
        }
    };
    thread::Builder::new()
        .name("console".into())
        .spawn(read)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key() {
        let mut keys = Keys::Escaped(Escape::No);
        assert_eq!(keys.filter(b"ab\x01"), Some(b"ab".to_vec()));
        assert_eq!(keys.filter(b"\x01c"), Some(b"\x01c".to_vec()));
        assert_eq!(keys.filter(b"\x01"), Some(vec![]));
        assert_eq!(keys.filter(b"X"), None);
    }

    #[test]
    fn a_pipe_has_no_escape_key() {
        assert_eq!(Keys::Plain.filter(b"\x01x"), Some(b"\x01x".to_vec()));
    }
}
