//! A relay between a client and a server that notes which ranges the client asks for.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context as _, Result};

/// A relay. It lives as long as the process, which is as long as a test binary runs.
#[derive(Debug)]
pub struct Relay {
    /// The port of loopback on which it listens.
    pub port: u16,
    ranges: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    /// Starts a relay to `target` (`address:port`).
    pub fn start(target: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("start a relay")?;
        let port = listener.local_addr().context("start a relay")?.port();
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let (target, noted) = (target.to_owned(), Arc::clone(&ranges));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A refused server looks to the client like a closed connection.
                drop(relay(client, &target, &noted));
            }
        });
        Ok(Self { port, ranges })
    }

    /// The values of all `Range` headers since the last call.
    ///
    /// # Panics
    ///
    /// When a relaying thread has panicked.
    pub fn take_ranges(&self) -> Vec<String> {
        std::mem::take(&mut self.ranges.lock().expect("a relaying thread must not panic"))
    }
}

fn relay(client: TcpStream, target: &str, noted: &Arc<Mutex<Vec<String>>>) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    let (client_out, server_out) = (client.try_clone()?, server.try_clone()?);
    let noted = Arc::clone(noted);
    thread::spawn(move || copy_requests(client, server_out, &noted));
    thread::spawn(move || copy_answers(server, client_out));
    Ok(())
}

/// Pull clients send no bodies, so that each line from a client is a line of a request's head.
fn copy_requests(mut client: TcpStream, mut server: TcpStream, noted: &Mutex<Vec<String>>) {
    let mut line = Vec::new();
    let mut buffer = [0; 16 << 10];
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        for &byte in &buffer[..read] {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            note(&String::from_utf8_lossy(&line), noted);
            line.clear();
        }
        if server.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    close(&client, &server);
}

fn note(line: &str, noted: &Mutex<Vec<String>>) {
    if let Some((name, value)) = line.split_once(':')
        && name.eq_ignore_ascii_case("range")
    {
        noted.lock().expect("a relaying thread must not panic").push(value.trim().to_owned());
    }
}

fn copy_answers(mut server: TcpStream, mut client: TcpStream) {
    // How it ended does not matter: either side closing ends both.
    drop(io::copy(&mut server, &mut client));
    close(&client, &server);
}

fn close(one: &TcpStream, other: &TcpStream) {
    // Fails only on what is closed already.
    drop(one.shutdown(Shutdown::Both));
    drop(other.shutdown(Shutdown::Both));
}
