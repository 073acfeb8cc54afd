//! The host's side of what a guest does over the network.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ring3_guest::guest::patience;

/// A server for two connections: the first receives `data`, the second must bring it back.
pub struct Echo {
    pub port: u16,
    thread: JoinHandle<Result<()>>,
}

impl Echo {
    pub fn serve(data: Vec<u8>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let thread = std::thread::spawn(move || {
            let mut out = accept(&listener)?;
            out.write_all(&data)?;
            drop(out);
            let mut back = Vec::new();
            accept(&listener)?.read_to_end(&mut back)?;
            ensure!(
                back == data,
                "{} bytes came back, not the {} sent",
                back.len(),
                data.len()
            );
            Ok(())
        });
        Ok(Self { port, thread })
    }

    pub fn join(self) -> Result<()> {
        self.thread.join().ok().context("the server panicked")?
    }
}

/// The next connection; a guest that never connects must not hang the test.
fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let deadline = Instant::now() + patience(240);
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(patience(60)))?;
                return Ok(stream);
            }
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error).context("waiting for the guest to connect"),
        }
    }
}
