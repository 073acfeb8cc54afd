//! What a guest prints, kept with the time it arrived, and waited for.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const TAIL_LINES: usize = 40;

/// A growing text fed by reader threads.
#[derive(Clone, Default)]
pub struct Console {
    shared: Arc<(Mutex<Text>, Condvar)>,
}

#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    /// Where each chunk ended and when it arrived.
    arrivals: Vec<(usize, Instant)>,
    /// Everything before this was already matched by `expect`.
    cursor: usize,
    readers: usize,
}

/// A marker that was seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Which of the markers.
    pub index: usize,
    /// When its last byte arrived.
    pub at: Instant,
}

impl Console {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a thread that appends all of `source`, until it ends.
    pub fn read_from(&self, mut source: impl Read + Send + 'static, echo: Echo) -> JoinHandle<()> {
        let console = self.clone();
        console.lock().readers += 1;
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count) = source.read(&mut chunk) {
                if count == 0 {
                    break;
                }
                console.append(&chunk[..count]);
                if echo == Echo::ToTerminal {
                    use std::io::Write;
                    let mut out = std::io::stdout();
                    let _ = out.write_all(&chunk[..count]).and_then(|()| out.flush());
                }
            }
            console.lock().readers -= 1;
            console.shared.1.notify_all();
        })
    }

    pub fn append(&self, bytes: &[u8]) {
        let mut text = self.lock();
        text.bytes.extend_from_slice(bytes);
        let end = text.bytes.len();
        text.arrivals.push((end, Instant::now()));
        drop(text);
        self.shared.1.notify_all();
    }

    /// Waits for `marker` after the last match.
    pub fn expect(&self, marker: &str, patience: Duration) -> Result<Seen> {
        self.expect_any(&[marker], patience)
    }

    /// Waits for whichever of `markers` comes first after the last match.
    pub fn expect_any(&self, markers: &[&str], patience: Duration) -> Result<Seen> {
        let deadline = Instant::now() + patience;
        let mut text = self.lock();
        loop {
            if let Some((index, end)) = text.find(markers) {
                text.cursor = end;
                return Ok(Seen {
                    index,
                    at: text.arrival_of(end),
                });
            }
            let now = Instant::now();
            let why = match () {
                () if text.readers == 0 => "the program ended".to_string(),
                () if now >= deadline => format!("{} s passed", patience.as_secs()),
                () => {
                    text = match self.shared.1.wait_timeout(text, deadline - now) {
                        Ok((text, _)) => text,
                        Err(poisoned) => poisoned.into_inner().0,
                    };
                    continue;
                }
            };
            let tail = text.tail();
            drop(text);
            bail!("{why} without {markers:?} on the console, which ends:\n{tail}");
        }
    }

    /// Waits for the rest of the line that the last match is in, and takes it.
    pub fn rest_of_line(&self, patience: Duration) -> Result<String> {
        let from = self.lock().cursor;
        self.expect("\n", patience)?;
        let text = self.lock();
        let rest = String::from_utf8_lossy(&text.bytes[from..text.cursor]);
        Ok(rest.trim_end().to_string())
    }

    /// Forgets what was not matched yet.
    pub fn skip(&self) {
        let mut text = self.lock();
        text.cursor = text.bytes.len();
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let mut text = self.lock();
        text.bytes.clear();
        text.arrivals.clear();
        text.cursor = 0;
    }

    /// How many bytes came so far.
    pub fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of the text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// The last lines, for error messages.
    pub fn tail(&self) -> String {
        self.lock().tail()
    }

    fn lock(&self) -> MutexGuard<'_, Text> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what is read is also shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    Silent,
    ToTerminal,
}

impl Text {
    /// The first marker after the cursor, as (its index, where it ends).
    fn find(&self, markers: &[&str]) -> Option<(usize, usize)> {
        let rest = &self.bytes[self.cursor..];
        let start = |marker: &str| {
            rest.windows(marker.len().max(1))
                .position(|w| w == marker.as_bytes())
        };
        let (at, index) = markers
            .iter()
            .enumerate()
            .filter_map(|(index, marker)| Some((start(marker)?, index)))
            .min()?;
        Some((index, self.cursor + at + markers[index].len()))
    }

    fn arrival_of(&self, end: usize) -> Instant {
        let chunk = self.arrivals.partition_point(|(chunk_end, _)| *chunk_end < end);
        self.arrivals.get(chunk).map_or_else(Instant::now, |(_, at)| *at)
    }

    fn tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<&str> = text.lines().map(|line| line.trim_end_matches('\r')).collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        lines[from..]
            .iter()
            .map(|line| format!("    | {line}\n"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Console, Echo};
    use std::time::Duration;

    const SOON: Duration = Duration::from_millis(50);

    #[test]
    fn markers_match_once_and_in_order() {
        let console = Console::new();
        let reader = console.read_from(&b"one two one"[..], Echo::Silent);
        reader.join().expect("reader ends");
        assert!(console.expect("one", SOON).is_ok());
        assert_eq!(
            console
                .expect_any(&["one", "two"], SOON)
                .expect("two comes first")
                .index,
            1
        );
        assert!(console.expect("one", SOON).is_ok());
        let error = console.expect("one", SOON).expect_err("no third one").to_string();
        assert!(error.contains("the program ended"), "{error}");
        assert!(error.contains("| one two one"), "{error}");
    }

    #[test]
    fn a_marker_may_come_in_pieces_and_late() {
        let console = Console::new();
        let (reader, writer) = std::io::pipe().expect("pipe");
        let thread = console.read_from(reader, Echo::Silent);
        let feeder = std::thread::spawn(move || {
            use std::io::Write;
            let mut writer = writer;
            for piece in ["gue", "st: in", "it\n"] {
                writer.write_all(piece.as_bytes()).expect("pipe takes it");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert!(console.expect("guest: init", Duration::from_secs(5)).is_ok());
        feeder.join().expect("feeder ends");
        thread.join().expect("reader ends");
    }

    #[test]
    fn the_rest_of_a_line() {
        let console = Console::new();
        console.append(b"result a 1 2\r\nnext");
        let reader = console.read_from(std::io::empty(), Echo::Silent);
        reader.join().expect("reader ends");
        assert!(console.expect("result a", SOON).is_ok());
        assert_eq!(console.rest_of_line(SOON).expect("it ends"), " 1 2");
        assert!(console.expect("next", SOON).is_ok());
        assert!(console.rest_of_line(SOON).is_err());
    }

    #[test]
    fn silence_times_out() {
        let console = Console::new();
        let (reader, writer) = std::io::pipe().expect("pipe");
        let thread = console.read_from(reader, Echo::Silent);
        let error = console
            .expect("never", SOON)
            .expect_err("nothing comes")
            .to_string();
        assert!(error.contains("0 s passed"), "{error}");
        drop(writer);
        thread.join().expect("reader ends");
    }
}
