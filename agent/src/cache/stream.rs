//! What a client reads: a committed blob, one that is growing, or upstream itself when the disk cannot take it.
//!
//! One rule for all three: **no response ends before its bytes are known to be right.** A committed blob is; of one that grows, the
//! last [`WITHHELD_BYTES`] of what the client asked for wait for the digest. If it turns out wrong, the response breaks off.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::watch;

use super::error::CacheError;
use super::fill::{Fill, Phase, Progress};
use super::source::Source;
use crate::metrics::Metrics;
use crate::oci::{Digest, Hasher, Repository};
use crate::store::{Blob, Reader, Store};

/// What a client has to wait for until the digest is verified, in bytes from the end of its range.
pub(super) const WITHHELD_BYTES: u64 = 64 << 10;

/// What is read from disk at once: measured, 256 KiB costs the least CPU; 128 KiB and 512 KiB cost a quarter more.
const STORED_CHUNK_BYTES: u64 = 256 << 10;
const GROWING_CHUNK_BYTES: u64 = 256 << 10;

/// A blob that can be read.
#[derive(Debug)]
pub struct Content {
    /// Its size, in bytes; unknown while it comes from an upstream that does not say.
    pub size: Option<u64>,
    from: From,
}

#[derive(Debug)]
enum From {
    Memory(Bytes),
    Stored(Stored),
    Growing { fill: Arc<Fill>, progress: watch::Receiver<Progress> },
    Through(Box<Through>),
}

impl Content {
    pub(super) fn memory(bytes: Bytes) -> Self {
        Self { size: Some(bytes.len() as u64), from: From::Memory(bytes) }
    }

    pub(super) fn stored(blob: Blob, store: Store, digest: Digest) -> Self {
        Self { size: Some(blob.size), from: From::Stored(Stored { reader: blob.reader, store, digest }) }
    }

    pub(super) fn growing(fill: Arc<Fill>, progress: watch::Receiver<Progress>, size: Option<u64>) -> Self {
        Self { size, from: From::Growing { fill, progress } }
    }

    /// Straight from upstream, from its first byte on.
    pub(super) fn through(source: Source, digest: Digest) -> Self {
        let hasher = Hasher::new(digest.algorithm());
        Self { size: source.size(), from: From::Through(Box::new(Through::new(source, digest, 0, hasher, 0..u64::MAX))) }
    }

    /// As [`Content::through`]; when all of it has come as it should, the repository is known to have it.
    pub(super) fn proving(source: Source, digest: Digest, whose: (Store, Repository)) -> Self {
        let Self { size, from } = Self::through(source, digest);
        match from {
            From::Through(through) => Self { size, from: From::Through(Box::new(Through { whose: Some(whose), ..*through })) },
            from => Self { size, from },
        }
    }

    /// All of it, if it is in memory.
    #[must_use]
    pub fn as_memory(&self) -> Option<&Bytes> {
        match &self.from {
            From::Memory(bytes) => Some(bytes),
            From::Stored(_) | From::Growing { .. } | From::Through(_) => None,
        }
    }

    /// The bytes of `range`, which must lie within the size; `None` is all of it.
    pub fn stream(self, range: Option<Range<u64>>, metrics: Arc<Metrics>) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
        let start = range.as_ref().map_or(0, |range| range.start);
        let end = range.map(|range| range.end).or(self.size);
        let state = match self.from {
            From::Memory(bytes) => {
                let bounds = |at: u64| usize::try_from(at).unwrap_or(bytes.len()).min(bytes.len());
                State::Memory(bytes.slice(bounds(start)..bounds(end.unwrap_or(u64::MAX))))
            }
            From::Stored(blob) => State::Stored { blob, position: start, end: end.unwrap_or(0) },
            From::Growing { fill, progress } => State::Growing(Cursor { fill, progress, position: start, end, metrics }),
            From::Through(mut through) => {
                through.wanted = start..end.unwrap_or(u64::MAX);
                State::Through(through)
            }
        };
        futures_util::stream::unfold(state, |state| async move {
            match step(state).await {
                Ok(Some((bytes, next))) => Some((Ok(bytes), next)),
                Ok(None) => None,
                Err(error) => Some((Err(error), State::Over)),
            }
        })
    }
}

enum State {
    Memory(Bytes),
    Stored { blob: Stored, position: u64, end: u64 },
    Growing(Cursor),
    Through(Box<Through>),
    Over,
}

/// The next bytes of a state, and the state after them; `None` at the end.
async fn step(mut state: State) -> io::Result<Option<(Bytes, State)>> {
    loop {
        match state {
            State::Over => return Ok(None),
            State::Memory(bytes) if bytes.is_empty() => return Ok(None),
            State::Memory(bytes) => return Ok(Some((bytes, State::Over))),
            State::Stored { position, end, .. } if position >= end => return Ok(None),
            State::Stored { blob, position, end } => {
                let next = end.min(position + STORED_CHUNK_BYTES);
                let bytes = blob.read(position..next).await?;
                return Ok(Some((bytes, State::Stored { blob, position: next, end })));
            }
            State::Growing(mut cursor) => match cursor.next().await? {
                Next::Bytes(bytes) => return Ok(Some((bytes, State::Growing(cursor)))),
                Next::End => return Ok(None),
                Next::Detached(through) => state = State::Through(through),
            },
            State::Through(mut through) => {
                let bytes = through.next().await?;
                return Ok(bytes.map(|bytes| (bytes, State::Through(through))));
            }
        }
    }
}

/// A committed blob that is being read.
#[derive(Debug)]
struct Stored {
    reader: Reader,
    store: Store,
    digest: Digest,
}

impl Stored {
    /// A blob that the disk does not give back breaks this response off; the next request finds it gone, and asks upstream.
    async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let result = self.reader.read(range).await;
        if let Err(error) = &result {
            let same = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
            self.store.report_unreadable(&self.digest, same).await;
        }
        result
    }
}

/// A place in a growing blob.
struct Cursor {
    fill: Arc<Fill>,
    progress: watch::Receiver<Progress>,
    position: u64,
    /// Where the client's range ends; `None` is the end of a blob whose size is not known yet.
    end: Option<u64>,
    metrics: Arc<Metrics>,
}

enum Next {
    Bytes(Bytes),
    End,
    Detached(Box<Through>),
}

/// What a look at the progress tells a cursor to do.
enum Look {
    Ready(Bytes),
    Read(Reader, Range<u64>),
    End,
    Failed(io::Error),
    Detach { frontier: u64, reader: Option<Reader>, hasher: Box<Hasher> },
    Wait,
}

impl Cursor {
    async fn next(&mut self) -> io::Result<Next> {
        loop {
            // A statement of its own: the borrow is a lock, which must not be held over what follows.
            let look = self.look();
            match look {
                Look::Ready(bytes) => {
                    self.position += bytes.len() as u64;
                    return Ok(Next::Bytes(bytes));
                }
                Look::Read(reader, range) => {
                    self.position = range.end;
                    return reader.read(range).await.map(Next::Bytes);
                }
                Look::End => return Ok(Next::End),
                Look::Failed(error) => return Err(error),
                Look::Detach { frontier, reader, hasher } => return self.detach(frontier, reader, *hasher).await,
                // The leader says how it ended before it goes, so a closed channel is a defect.
                Look::Wait => self.progress.changed().await.map_err(|_| io::Error::other(CacheError::Lost))?,
            }
        }
    }

    fn look(&mut self) -> Look {
        let progress = self.progress.borrow_and_update();
        let verified = matches!(progress.phase, Phase::Verified);
        let end = if verified { self.end.or(progress.size) } else { self.end };
        let received = progress.frontier.max(progress.tail.end());
        let limit = match end {
            _ if !verified => received.min(end.unwrap_or(received).saturating_sub(WITHHELD_BYTES)),
            Some(end) => received.min(end),
            None => received,
        };
        if self.position < limit {
            if let Some(bytes) = progress.tail.get(self.position) {
                let length = usize::try_from(limit - self.position).unwrap_or(usize::MAX).min(bytes.len());
                return Look::Ready(bytes.slice(..length));
            }
            if let Some(reader) = &progress.reader
                && self.position < limit.min(progress.frontier)
            {
                let next = limit.min(progress.frontier).min(self.position + GROWING_CHUNK_BYTES);
                return Look::Read(reader.clone(), self.position..next);
            }
        }
        match &progress.phase {
            Phase::Verified if end.is_some_and(|end| self.position < end) => {
                Look::Failed(io::Error::other("the blob is shorter than upstream said"))
            }
            Phase::Verified => Look::End,
            Phase::Failed(error) => Look::Failed(io::Error::other(error.clone())),
            Phase::Detached { hasher } => {
                Look::Detach { frontier: progress.frontier, reader: progress.reader.clone(), hasher: hasher.clone() }
            }
            Phase::Opening | Phase::Flowing => Look::Wait,
        }
    }

    /// Goes on from upstream where the disk stopped. What the client has had is not sent again.
    async fn detach(&mut self, frontier: u64, reader: Option<Reader>, hasher: Hasher) -> io::Result<Next> {
        // What is on disk and was withheld: upstream does not send it again, and it still waits for the digest.
        let until = frontier.min(self.end.unwrap_or(u64::MAX));
        let held = match reader {
            Some(reader) if self.position < until => Some(reader.read(self.position..until).await?),
            _ => None,
        };
        let wanted = &self.fill.wanted;
        let source = Source::open(wanted.clone(), frontier).await.map_err(|error| io::Error::other(CacheError::from(error)))?;
        tracing::debug!(digest = %wanted.digest, position = self.position, frontier, "streaming straight from upstream");
        self.metrics.streams_detached.inc();
        let range = self.position..self.end.unwrap_or(u64::MAX);
        let through = Through { held, ..Through::new(source, wanted.digest, frontier, hasher, range) };
        Ok(Next::Detached(Box::new(through)))
    }
}

/// Upstream's bytes, verified on the way and not kept.
#[derive(Debug)]
struct Through {
    source: Option<Source>,
    digest: Digest,
    hasher: Hasher,
    /// Where the next byte from upstream belongs.
    offset: u64,
    /// What the client still wants.
    wanted: Range<u64>,
    /// Bytes for the client that wait until more come, or the digest is verified.
    held: Option<Bytes>,
    /// The repository that the registry has it for, if that is worth noting.
    whose: Option<(Store, Repository)>,
}

impl Through {
    /// `source` begins at `offset`, and `hasher` has taken everything before it.
    fn new(source: Source, digest: Digest, offset: u64, hasher: Hasher, wanted: Range<u64>) -> Self {
        Self { source: Some(source), digest, hasher, offset, wanted, held: None, whose: None }
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(source) = self.source.take() else {
                return Ok(None);
            };
            let (source, chunk) = source.next().await;
            let Some(bytes) = chunk.map_err(|error| io::Error::other(CacheError::from(error)))? else {
                let actual = self.hasher.clone().finish();
                if actual != self.digest {
                    return Err(io::Error::other(format!("upstream sent content with digest {actual} instead of {}", self.digest)));
                }
                if let Some((store, repository)) = self.whose.take() {
                    store.put_link(&repository, &self.digest, Some(self.offset));
                    store.came(&repository, &self.digest);
                }
                return Ok(self.held.take());
            };
            self.source = Some(source);
            self.hasher.update(&bytes);
            let clipped = self.clip(&bytes);
            if !clipped.is_empty()
                && let Some(ready) = self.held.replace(clipped)
            {
                return Ok(Some(ready));
            }
        }
    }

    /// The part of the next bytes that the client wants.
    fn clip(&mut self, bytes: &Bytes) -> Bytes {
        let begin = self.offset;
        self.offset += bytes.len() as u64;
        let within = |at: u64| usize::try_from(at.clamp(begin, self.offset) - begin).unwrap_or(bytes.len());
        bytes.slice(within(self.wanted.start)..within(self.wanted.end))
    }
}
