//! One blob from upstream as one stream, however often the connection breaks.

use bytes::Bytes;
use futures_util::StreamExt;

use crate::oci::{Digest, Registry, Repository};
use crate::upstream::{self, BlobStream, EndpointId, Errand, UpstreamError};

/// After so many bytes without a break, earlier breaks are forgotten.
const WELL_ON_BYTES: u64 = 1 << 20;

/// An upstream that breaks off so often in a row, a few bytes further each time, is given up.
const RESUMES_MAX: u32 = 20;

/// What to fetch, and how stubbornly.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// By whom it was begun.
    pub(super) upstream: Errand,
    pub(super) repository: Repository,
    pub(super) digest: Digest,
    /// Attempts without a new byte before it is given up.
    pub(super) max_attempts: u32,
    /// Endpoints that sent wrong bytes for this digest lately: tried last.
    pub(super) avoid: Vec<EndpointId>,
}

impl Wanted {
    /// What is downloaded once for all.
    pub(super) fn key(&self) -> (Registry, Digest) {
        (self.repository.registry.clone(), self.digest)
    }
}

/// A blob's bytes from an offset to the end. A broken or stalled download is resumed where it stopped, on the same or the next
/// endpoint, with bounded, jittered retries.
#[derive(Debug)]
pub(super) struct Source {
    wanted: Wanted,
    stream: BlobStream,
    /// Where the next byte belongs.
    position: u64,
    fruitless: u32,
    /// How often it was resumed since it last got well on.
    resumes: u32,
    /// Bytes since it was last resumed.
    gained: u64,
}

impl Source {
    /// Asks upstream. Retried by `Upstream` itself where that helps.
    pub(super) async fn open(wanted: Wanted, from: u64) -> Result<Self, UpstreamError> {
        let stream = wanted.upstream.get_blob(&wanted.repository, &wanted.digest, from, &wanted.avoid).await?;
        Ok(Self { wanted, stream, position: from, fruitless: 0, resumes: 0, gained: 0 })
    }

    /// The size of the whole blob, if upstream said.
    pub(super) fn size(&self) -> Option<u64> {
        self.stream.size
    }

    /// Who sends at the moment.
    pub(super) fn endpoint(&self) -> &EndpointId {
        &self.stream.endpoint
    }

    /// The next bytes; `None` at the end. Takes the source along, so that the future can be kept while other things happen.
    pub(super) async fn next(mut self) -> (Self, Result<Option<Bytes>, UpstreamError>) {
        loop {
            let error = match self.stream.body.next().await {
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => {
                    self.position += bytes.len() as u64;
                    self.fruitless = 0;
                    self.gained += bytes.len() as u64;
                    if self.gained >= WELL_ON_BYTES {
                        self.resumes = 0;
                    }
                    return (self, Ok(Some(bytes)));
                }
                None => return (self, Ok(None)),
                Some(Err(error)) => error,
            };
            if let Err(error) = self.resume(error).await {
                return (self, Err(error));
            }
        }
    }

    async fn resume(&mut self, mut error: UpstreamError) -> Result<(), UpstreamError> {
        while error.is_retryable() && self.fruitless < self.wanted.max_attempts && self.resumes < RESUMES_MAX {
            tracing::warn!(
                digest = %self.wanted.digest, endpoint = %self.stream.endpoint, position = self.position, attempt = self.fruitless + 1,
                %error, "a download broke off: resuming it"
            );
            if self.resumes > 0 {
                tokio::time::sleep(upstream::delay(self.resumes)).await;
            }
            self.fruitless += 1;
            self.resumes += 1;
            self.gained = 0;
            if self.fruitless > 1 && !self.wanted.avoid.contains(&self.stream.endpoint) {
                // It had its second chance: the others go first from now on.
                self.wanted.avoid.push(self.stream.endpoint.clone());
            }
            let wanted = &self.wanted;
            match wanted.upstream.get_blob(&wanted.repository, &wanted.digest, self.position, &wanted.avoid).await {
                Ok(stream) => {
                    // The size that was promised to clients stays what it was.
                    let size = self.stream.size.or(stream.size);
                    self.stream = BlobStream { size, ..stream };
                    return Ok(());
                }
                Err(next) => error = next,
            }
        }
        Err(error)
    }
}
