//! A mirror of Debian with a few packages: a directory, and a server of HTTP that shows it to guests.
//!
//! Its lists are not signed: who fetched the packages has checked them.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::debian::{Fetcher, SUITE};

/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(300);

/// Makes a mirror in `dir` of `packages` and all that they depend on.
pub fn make(fetcher: &mut Fetcher, packages: &[&str], dir: &Path) -> Result<()> {
    let lists = dir.join(format!("dists/{SUITE}"));
    let list = lists.join("main/binary-amd64/Packages");
    std::fs::create_dir_all(list.parent().context("lists are in a directory")?)?;
    let mut text = String::new();
    for (file, stanza) in fetcher.closure(packages)? {
        let name = stanza
            .field("Filename")
            .with_context(|| format!("no Filename in {}", stanza.text))?;
        let to = dir.join(name);
        std::fs::create_dir_all(to.parent().context("packages are in directories")?)?;
        std::fs::rename(&file, &to).with_context(|| format!("moving {}", file.display()))?;
        text.push_str(&stanza.text);
        text.push_str("\n\n");
    }
    std::fs::write(&list, &text)?;
    let output = Command::new("sha256sum")
        .arg(&list)
        .output()
        .context("starting sha256sum")?;
    let sum = String::from_utf8_lossy(&output.stdout);
    let sum = sum.split_whitespace().next().context("sha256sum said nothing")?;
    let release = format!(
        "Origin: Debian\nLabel: Debian\nSuite: {SUITE}\nCodename: {SUITE}\nArchitectures: amd64\nComponents: main\n\
         SHA256:\n {sum} {} main/binary-amd64/Packages\n",
        text.len()
    );
    Ok(std::fs::write(lists.join("Release"), release)?)
}

/// Serves a directory on a port of the loopback interface, as long as this process lives.
pub fn serve(dir: PathBuf) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let dir = dir.clone();
            // A client that goes away is no failure.
            std::thread::spawn(move || drop(answer(&dir, &stream)));
        }
    });
    Ok(port)
}

/// Answers the requests of one connection, one after the other.
fn answer(dir: &Path, mut stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(path) = request(&mut reader)? {
        let file = if path.contains("..") {
            None
        } else {
            std::fs::read(dir.join(path.trim_start_matches('/'))).ok()
        };
        let status = if file.is_some() { "200 OK" } else { "404 Not Found" };
        let body = file.unwrap_or_default();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body)?;
    }
    Ok(())
}

/// The path that the next request asks for; none at the end of the connection.
fn request(reader: &mut impl BufRead) -> Result<Option<String>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
    }
    let mut words = first.split_whitespace();
    match (words.next(), words.next()) {
        (Some("GET"), Some(path)) => Ok(Some(decode(path))),
        _ => bail!("no request of a file: {first:?}"),
    }
}

/// Bytes that stand as two digits behind a percent sign.
fn decode(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => bytes.extend([b"%", part.as_bytes()].concat()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{decode, serve};
    use std::io::{Read, Write};
    use std::net::TcpStream;

    #[test]
    fn percent_signs() {
        assert_eq!(decode("/pool/g%2b%2B_1%3a2.deb"), "/pool/g++_1:2.deb");
        assert_eq!(decode("/100%"), "/100%");
    }

    #[test]
    fn files_and_what_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("f"), "text").expect("written");
        let port = serve(dir.path().to_path_buf()).expect("a port");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        for path in ["/f", "/none", "/../f"] {
            write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
        }
        stream.shutdown(std::net::Shutdown::Write).expect("shut");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answers");
        let none = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        let expected = format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext{none}{none}");
        assert_eq!(text, expected);
    }
}
