//! Why the cache cannot answer. HTTP-free: `http/error.rs` alone turns these into statuses.

use std::time::Duration;

use crate::oci::{Digest, ManifestError, Repository};
use crate::store::StoreError;
use crate::upstream::UpstreamError;

/// Why the cache cannot answer. Cheap to clone, since all who wait for the same work get the same error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CacheError {
    /// Upstream could not give it, and neither can the cache.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Upstream sent other bytes than the digest says. They are never served nor kept.
    #[error("{repository}: upstream sent content with digest {actual} instead of {expected}")]
    Mismatch { repository: Box<Repository>, expected: Box<Digest>, actual: Box<Digest> },
    /// Upstream sent something else than a manifest: a login page, for example.
    #[error("{repository}: upstream sent no manifest: {reason}")]
    NoManifest { repository: Box<Repository>, reason: String },
    /// Too many downloads wait already.
    #[error("{max} downloads run already and none ended within {} s (upstream.maxConcurrentFills)", waited.as_secs())]
    Busy { max: usize, waited: Duration },
    /// Too many questions to upstream wait already.
    #[error("{max} questions to registries wait for their answers already: try again later")]
    Full { max: usize },
    /// Upstream was not quick enough for what only confirms something that is known.
    #[error("upstream did not answer within {} ms", waited.as_millis())]
    Late { waited: Duration },
    /// The disk failed where there was no way around it.
    #[error("{0}")]
    Store(String),
    /// A task ended without saying why: a defect.
    #[error("the work ended without a result: this is a defect of the agent, see its log")]
    Lost,
}

impl From<StoreError> for CacheError {
    fn from(error: StoreError) -> Self {
        Self::Store(crate::telemetry::chain(&error))
    }
}

impl CacheError {
    pub(super) fn mismatch(repository: &Repository, expected: Digest, actual: Digest) -> Self {
        Self::Mismatch { repository: Box::new(repository.clone()), expected: Box::new(expected), actual: Box::new(actual) }
    }

    pub(super) fn no_manifest(repository: &Repository, error: &ManifestError) -> Self {
        Self::NoManifest { repository: Box::new(repository.clone()), reason: crate::telemetry::chain(error) }
    }

    /// Whether upstream said that it does not have it.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Upstream(error) if error.is_not_found())
    }

    /// A short word for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Upstream(error) => error.reason(),
            Self::Mismatch { .. } => "digest_mismatch",
            Self::NoManifest { .. } => "no_manifest",
            Self::Busy { .. } => "busy",
            Self::Full { .. } => "full",
            Self::Late { .. } => "late",
            Self::Store(_) => "store",
            Self::Lost => "lost",
        }
    }
}
