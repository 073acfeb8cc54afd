//! What `perf` is told of translations, if `RING3_PERF` says so: `jitdump` for a file `jit-PID.dump` in the directory of
//! temporary files, `map` for `/tmp/perf-PID.map`, or both, with a comma.
//!
//! Each trace has the name of what it begins with in the guest: its address (`guest@ffffffff81000000`, `guest-user@401000`), or, where
//! `RING3_SYMBOLS` names a file that has it, its symbol and the distance from there ([`symbols`]). Its rare paths, which lie
//! apart, have the same name with `.cold` behind it. The map is the poorer one: what was at an address before is not told apart.

mod symbols;

use ring3_host::fd::KeptFd;
use ring3_host::jitdump::JitDump;
use ring3_host::process;
use std::env;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use symbols::Symbols;

/// A piece of code: where it is, and what is there.
pub type Piece<'a> = (u64, &'a [u8]);

/// Where translations are told.
struct Listener {
    pid: u32,
    symbols: Symbols,
    dump: Option<Mutex<JitDump>>,
    map: Option<KeptFd>,
}

/// The process's; asking for it costs a load where there is none.
fn listener() -> Option<&'static Listener> {
    static LISTENER: OnceLock<Option<Listener>> = OnceLock::new();
    LISTENER.get_or_init(Listener::wanted).as_ref()
}

/// Opens the files, if they are wanted: while the process may still do that.
pub fn start() {
    listener();
}

/// A trace was translated.
pub fn translated(linear: u64, user: bool, hot: Piece<'_>, cold: Piece<'_>) {
    if let Some(listener) = listener() {
        let name = listener.symbols.name(linear, user);
        listener.tell(&name, hot);
        if !cold.1.is_empty() {
            listener.tell(&format!("{name}.cold"), cold);
        }
    }
}

/// Code that belongs to no trace.
pub fn stubs(code: Piece<'_>) {
    if let Some(listener) = listener() {
        listener.tell("ring3-stubs", code);
    }
}

impl Listener {
    fn wanted() -> Option<Listener> {
        let wanted = env::var("RING3_PERF").ok()?;
        let wants = |what: &str| wanted.split(',').any(|word| word == what);
        let pid = process::id();
        let dump = wants("jitdump").then(|| JitDump::create(&env::temp_dir()));
        let map = wants("map").then(|| create_map(pid));
        if dump.is_none() && map.is_none() {
            eprintln!("ring3: RING3_PERF is {wanted:?}; it may be jitdump, map, or both with a comma");
        }
        Some(Listener {
            pid,
            symbols: Symbols::wanted(),
            dump: dump.and_then(|dump| told("jitdump", dump)).map(Mutex::new),
            map: map.and_then(|map| told("map", map)),
        })
    }

    fn tell(&self, name: &str, (at, code): Piece<'_>) {
        if let Some(dump) = &self.dump {
            let mut dump = dump.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk costs the profile, not the guest.
            let _ = dump.code(name, at, code);
        }
        if let Some(file) = self.map.as_ref().filter(|_| process::id() == self.pid)
            && let Some(file) = file.get()
        {
            let line = format!("{at:x} {:x} {name}\n", code.len());
            let _ = rustix::io::write(file, line.as_bytes());
        }
    }
}

fn told<T>(what: &str, result: io::Result<T>) -> Option<T> {
    result
        .inspect_err(|error| eprintln!("ring3: RING3_PERF={what}: {error}"))
        .ok()
}

fn create_map(pid: u32) -> io::Result<KeptFd> {
    // Where `perf` looks. Anybody may make files there: a link is not followed.
    let path = Path::new("/tmp").join(format!("perf-{pid}.map"));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().append(true).create_new(true).open(path)?;
    KeptFd::new(OwnedFd::from(file))
}
