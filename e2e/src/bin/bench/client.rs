//! The client: HTTP/1.1 over one blocking socket, read into one buffer and dropped.
//!
//! Least overhead of what was tried (curl needs twice the CPU for each byte), and the same for all. The bytes
//! are copied out of the kernel, as any client must; `MSG_TRUNC` would not, and would flatter whoever sends
//! pages that nobody ever touches.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const BUFFER_BYTES: usize = 512 << 10;
const SILENCE_MAX: Duration = Duration::from_secs(120);
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, */*";

/// One connection, kept alive between requests.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes of the body that came with the head, in `buffer`.
    early: std::ops::Range<usize>,
}

/// Status and headers of a response.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) length_bytes: u64,
    text: String,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Connection {
    pub(crate) fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        Ok(Self { stream, buffer: vec![0; BUFFER_BYTES], early: 0..0 })
    }

    /// Sends a request and reads the head of its response.
    pub(crate) fn request(&mut self, method: &str, path: &str) -> Result<Head> {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: {ACCEPT}\r\n\r\n");
        self.stream.write_all(request.as_bytes())?;
        let mut filled = 0;
        let end = loop {
            let rest = self.buffer.get_mut(filled..).unwrap_or_default();
            let count = self.stream.read(rest).with_context(|| format!("no answer to {method} {path}"))?;
            ensure!(count > 0, "connection closed before an answer to {method} {path}");
            let from = filled.saturating_sub(3);
            filled += count;
            let window = self.buffer.get(from..filled).unwrap_or_default();
            if let Some(at) = window.windows(4).position(|four| four == b"\r\n\r\n") {
                break from + at + 4;
            }
        };
        self.early = end..filled;
        head(self.buffer.get(..end).unwrap_or_default()).with_context(|| format!("bad answer to {method} {path}"))
    }

    /// Reads a body of `length` bytes, piece by piece.
    pub(crate) fn body(&mut self, length_bytes: u64, mut piece: impl FnMut(&[u8])) -> Result<()> {
        let mut left = length_bytes;
        let early = std::mem::replace(&mut self.early, 0..0);
        let bytes = self.buffer.get(early).unwrap_or_default();
        if !bytes.is_empty() {
            left = left.checked_sub(bytes.len() as u64).context("more bytes than Content-Length")?;
            piece(bytes);
        }
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            let count = self.stream.read(self.buffer.get_mut(..room).unwrap_or_default())?;
            ensure!(count > 0, "body broke off with {left} bytes missing");
            piece(self.buffer.get(..count).unwrap_or_default());
            left -= count as u64;
        }
        Ok(())
    }

    /// GET, all of it.
    pub(crate) fn get(&mut self, path: &str) -> Result<(Head, Vec<u8>)> {
        let head = self.request("GET", path)?;
        let mut all = Vec::new();
        self.body(head.length_bytes, |piece| all.extend_from_slice(piece))?;
        Ok((head, all))
    }

    /// GET that must be a 200 of `expected` bytes, which are dropped. Returns the time to the first of them.
    pub(crate) fn drop_body(&mut self, path: &str, expected_bytes: u64) -> Result<Duration> {
        let started = Instant::now();
        let head = self.request("GET", path)?;
        ensure!(head.status == 200, "GET {path}: status {}", head.status);
        ensure!(head.length_bytes == expected_bytes, "GET {path}: {} bytes, not {expected_bytes}", head.length_bytes);
        let mut first_byte = None;
        self.body(head.length_bytes, |_| {
            first_byte.get_or_insert_with(|| started.elapsed());
        })?;
        Ok(first_byte.unwrap_or_else(|| started.elapsed()))
    }
}

fn head(bytes: &[u8]) -> Result<Head> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let status = text.split(' ').nth(1).context("no status line")?.parse().context("no status")?;
    let mut head = Head { status, length_bytes: 0, text };
    if let Some(encoding) = head.header("Transfer-Encoding") {
        bail!("Transfer-Encoding: {encoding}, where a Content-Length is known");
    }
    head.length_bytes = head.header("Content-Length").unwrap_or("0").parse().context("bad Content-Length")?;
    Ok(head)
}
