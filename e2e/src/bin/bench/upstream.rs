//! The registry that is pulled from: serves a library, holds its rate if asked, and counts what it sent.
//!
//! One thread for each connection and `sendfile`, so that it is as quick as nginx; it is not
//! nginx because nginx's `limit_rate` counts in whole seconds, which moves a 10 s pull by up to 1 s.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::library::{Library, Object};
use crate::stats::MIB;

/// A held rate is kept in pieces of this size.
const PIECE_BYTES: u64 = 128 << 10;

/// A running upstream. Its threads live as long as the program.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    objects: HashMap<String, Object>,
    /// Of each response; 0 for as fast as it goes.
    bytes_a_second: AtomicU64,
    blob_bytes_sent: AtomicU64,
}

impl Upstream {
    pub(crate) fn start(library: &Library) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let objects = library.objects.iter().map(|object| (format!("/v2/{}", object.path), object.clone())).collect();
        let shared = Arc::new(Shared { objects, bytes_a_second: AtomicU64::new(0), blob_bytes_sent: AtomicU64::new(0) });
        let accepted = Arc::clone(&shared);
        thread::Builder::new().name("upstream".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&accepted);
                // A connection that breaks is the contender's affair, and shows in its figures.
                thread::spawn(move || shared.serve(&stream).ok());
            }
        })?;
        Ok(Self { addr, shared })
    }

    /// Holds each response to this rate from now on; 0 lets go.
    pub(crate) fn hold(&self, bytes_a_second: u64) {
        self.shared.bytes_a_second.store(bytes_a_second, Ordering::Relaxed);
    }

    /// Bytes of blobs sent since the last call.
    pub(crate) fn take_blob_bytes(&self) -> u64 {
        self.shared.blob_bytes_sent.swap(0, Ordering::Relaxed)
    }
}

/// The part of a request that matters here.
struct Request {
    head_only: bool,
    path: String,
    from: Option<u64>,
    close: bool,
}

impl Shared {
    fn serve(&self, stream: &TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader)? {
            self.answer(stream, &request)?;
            if request.close {
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, mut stream: &TcpStream, request: &Request) -> Result<()> {
        if request.path == "/v2/" {
            let body = if request.head_only { "" } else { "{}" };
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n";
            return Ok(stream.write_all(format!("{head}{body}").as_bytes())?);
        }
        let Some(object) = self.objects.get(&request.path) else {
            return Ok(stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?);
        };
        let size = object.size_bytes;
        let from = request.from.unwrap_or(0).min(size);
        let mut head = match request.from {
            Some(_) => {
                let last = size.saturating_sub(1);
                format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{last}/{size}\r\n")
            }
            None => "HTTP/1.1 200 OK\r\n".to_owned(),
        };
        head += &format!(
            "Content-Type: {}\r\nDocker-Content-Digest: sha256:{}\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\n\r\n",
            object.media_type,
            object.hex,
            size - from
        );
        stream.write_all(head.as_bytes())?;
        if request.head_only {
            return Ok(());
        }
        let file = File::open(&object.file).with_context(|| format!("cannot open {}", object.file.display()))?;
        self.send(&file, from..size, stream, request.path.contains("/blobs/"))
    }

    /// Sends in pieces, each not before its time. Counts as it goes: a response may be cut off.
    fn send(&self, file: &File, range: Range<u64>, stream: &TcpStream, counted: bool) -> Result<()> {
        let rate = self.bytes_a_second.load(Ordering::Relaxed);
        let piece_bytes = if rate == 0 { MIB } else { PIECE_BYTES };
        let started = Instant::now();
        let (first, mut offset) = (range.start, range.start);
        while offset < range.end {
            let want = usize::try_from(piece_bytes.min(range.end - offset))?;
            let count = rustix::fs::sendfile(stream, file, Some(&mut offset), want)? as u64;
            ensure!(count > 0, "a file of the library became shorter");
            if counted {
                self.blob_bytes_sent.fetch_add(count, Ordering::Relaxed);
            }
            if let Some(nanoseconds) = ((offset - first) * 1_000_000_000).checked_div(rate) {
                thread::sleep(Duration::from_nanos(nanoseconds).saturating_sub(started.elapsed()));
            }
        }
        Ok(())
    }
}

fn read_request(reader: &mut impl BufRead) -> Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let head_only = words.next() == Some("HEAD");
    let target = words.next().context("a request line must hold a target")?;
    let path = target.split('?').next().unwrap_or(target).replace("%3A", ":");
    let mut request = Request { head_only, path, from: None, close: false };
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { return Ok(Some(request)) };
        if name.eq_ignore_ascii_case("range") {
            let range = value.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-'));
            request.from = range.and_then(|(from, _)| from.parse().ok());
        }
        request.close |= name.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close");
    }
}
