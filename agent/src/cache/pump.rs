//! The leader's loop: from upstream into the tail and onto disk.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use super::error::CacheError;
use super::fill::{Ended, Fill};
use super::source::Source;
use crate::oci::Hasher;
use crate::store::{StoreError, Writer};
use crate::upstream::UpstreamError;

/// Bytes that were received and not yet handed to the disk; reading from upstream pauses above it.
const PENDING_BYTES_MAX: usize = 192 << 10;

type Reading = BoxFuture<'static, (Source, Result<Option<Bytes>, UpstreamError>)>;
pub(super) type Creating = JoinHandle<Result<Writer, StoreError>>;
type Writing = JoinHandle<(Writer, Result<(), StoreError>)>;

/// Reads from upstream while the blocking pool hashes and writes what came before.
pub(super) struct Pump<'a> {
    fill: &'a Fill,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    /// Here unless it reads.
    source: Option<Source>,
    reading: Option<Reading>,
    ended: bool,
    /// The file, as long as it is not there.
    creating: Option<Creating>,
    /// Here unless it writes.
    writer: Option<Writer>,
    writing: Option<Writing>,
}

impl<'a> Pump<'a> {
    pub(super) fn new(fill: &'a Fill, creating: Creating, source: Source) -> Self {
        Self {
            fill,
            pending: Vec::new(),
            pending_bytes: 0,
            source: Some(source),
            reading: None,
            ended: false,
            creating: Some(creating),
            writer: None,
            writing: None,
        }
    }

    pub(super) async fn run(&mut self) -> Result<(), Ended> {
        loop {
            if !self.ended && self.pending_bytes < PENDING_BYTES_MAX {
                self.reading = self.reading.take().or_else(|| self.source.take().map(|source| Box::pin(source.next()) as Reading));
            }
            if !self.pending.is_empty()
                && let Some(mut writer) = self.writer.take()
            {
                let batch = std::mem::take(&mut self.pending);
                self.pending_bytes = 0;
                self.writing = Some(tokio::task::spawn_blocking(move || {
                    let result = writer.append(&batch);
                    (writer, result)
                }));
            }
            tokio::select! {
                (source, chunk) = poll(&mut self.reading), if self.reading.is_some() && self.pending_bytes < PENDING_BYTES_MAX => {
                    self.reading = None;
                    self.source = Some(source);
                    match chunk? {
                        Some(bytes) => {
                            self.pending_bytes += bytes.len();
                            self.fill.update(|progress| progress.tail.push(bytes.clone()));
                            self.pending.push(bytes);
                        }
                        None => self.ended = true,
                    }
                }
                created = poll(&mut self.creating), if self.creating.is_some() => {
                    self.creating = None;
                    self.created(created)?;
                }
                written = poll(&mut self.writing), if self.writing.is_some() => {
                    self.writing = None;
                    self.wrote(written)?;
                }
                else => return Ok(()),
            }
        }
    }

    fn created(&mut self, created: Result<Result<Writer, StoreError>, tokio::task::JoinError>) -> Result<(), Ended> {
        let Ok(created) = created else {
            return Err(CacheError::Lost.into());
        };
        let writer = created.map_err(|error| {
            let hasher = Box::new(Hasher::new(self.fill.wanted.digest.algorithm()));
            Ended::Disk { error, hasher }
        })?;
        self.fill.update(|progress| progress.reader = Some(writer.reader()));
        self.writer = Some(writer);
        Ok(())
    }

    fn wrote(&mut self, written: Result<(Writer, Result<(), StoreError>), tokio::task::JoinError>) -> Result<(), Ended> {
        let Ok((writer, result)) = written else {
            return Err(CacheError::Lost.into());
        };
        self.fill.update(|progress| {
            progress.frontier = writer.written();
            progress.tail.trim(progress.frontier);
        });
        result.map_err(|error| Ended::Disk { error, hasher: Box::new(writer.hasher().clone()) })?;
        self.writer = Some(writer);
        Ok(())
    }

    pub(super) fn finish(self) -> (Writer, Source) {
        let writer = self.writer.expect("the writer must be back when nothing is being written");
        (writer, self.source.expect("the source must be back when nothing is being read"))
    }
}

/// Polls what is in the slot; pends for ever on an empty one, which `select!` excludes.
async fn poll<F: Future + Unpin>(slot: &mut Option<F>) -> F::Output {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
