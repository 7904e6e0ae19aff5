//! Decides: from disk, from a fill that runs already, or from upstream. The only module that talks to more than one of them.
//!
//! A request for a blob: `blobs.rs` → on disk? → `stream.rs`; else `fill.rs` leads one download for all, `source.rs` keeps it going.
//! A request for a manifest: `manifests.rs` by digest, `tags.rs` by tag, `flight.rs` so that many askers cause one question.

mod blobs;
mod catalogue;
mod claims;
mod error;
mod fill;
mod findings;
mod flight;
mod held;
mod leave;
mod lists;
mod manifests;
mod pump;
mod refresh;
mod source;
mod stream;
mod tags;
mod tail;
#[cfg(test)]
mod tests;
mod unkept;
mod warm;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

pub use blobs::BlobAnswer;
pub use catalogue::{BlobEntry, ImageDetail, ImageEntry, ManifestEntry};
#[cfg(test)]
pub(crate) use claims::Claim;
pub use error::CacheError;
pub use findings::Findings;
pub use held::{Blobs, HeldImage, Holding};
pub use leave::{Asked, Leave};
pub use lists::ListAnswer;
pub use manifests::ManifestAnswer;
pub use refresh::Refreshed;
pub use stream::Content;
pub use tags::Stale;
pub use warm::{Platforms, WarmEvent};

use crate::config::{AuthMode, Config};
use crate::metrics::Metrics;
use crate::oci::{Digest, Registry, Repository};
use crate::store::{ShortDigest, Store, StoreError};
use crate::upstream::Upstream;

/// For so long a registry that was away is not asked whose a layer is: as long as a question waits for its turn, so that those find out by it
/// that came behind the first.
const AWAY_FOR: Duration = Duration::from_secs(30);

/// For so long after upstream was unavailable, tags that are known are served without asking it again.
const UNAVAILABLE_FOR: Duration = Duration::from_secs(2);

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From this node.
    Hit,
    /// From upstream, and kept.
    Miss,
    /// From this node, after upstream confirmed it.
    Revalidated,
    /// From this node, although upstream could not confirm it.
    Stale,
}

impl Origin {
    /// The word for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Revalidated => "revalidated",
            Self::Stale => "stale",
        }
    }
}

/// What the cache itself is configured by.
#[derive(Debug, Clone)]
struct CacheConfig {
    fresh_for: Duration,
    revalidate_timeout: Duration,
    max_attempts: u32,
    /// Not everybody may have everything.
    looks_at_rights: bool,
}

/// The pull-through cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    store: Store,
    upstream: Upstream,
    metrics: Arc<Metrics>,
    config: Arc<CacheConfig>,
    fills: Arc<fill::Fills>,
    manifests: Arc<flight::Flights<manifests::ManifestKey, manifests::ManifestResult>>,
    confirmations: Arc<flight::Flights<tags::ConfirmationKey, tags::Confirmation>>,
    leaves: Arc<flight::Flights<leave::LeaveKey, Result<Leave, CacheError>>>,
    unkept: Arc<unkept::Unkept>,
    /// Registries that could not be asked a moment ago, and why.
    unavailable: moka::sync::Cache<Registry, String>,
    /// Registries, and repositories of registries, that gave no answer a moment ago when they were asked whose a layer is.
    away: moka::sync::Cache<(Registry, Option<Repository>), ()>,
    findings: Arc<Findings>,
    held: Arc<held::Held>,
    /// What it fetches nobody has asked for: it leaves times of use as they are.
    quiet: bool,
}

impl Cache {
    /// A cache over a store and an upstream. What it starts, it starts in `tasks`.
    #[must_use]
    pub fn new(config: &Config, store: Store, upstream: Upstream, metrics: Arc<Metrics>, tasks: &TaskTracker) -> Self {
        let looks_at_rights = config.auth.mode != AuthMode::None;
        let limits = fill::FillLimits {
            max_concurrent: config.upstream.max_concurrent_fills,
            queue_timeout: config.upstream.fill_queue_timeout,
            looks_at_rights,
        };
        let own = CacheConfig {
            fresh_for: config.tags.fresh_for,
            revalidate_timeout: config.tags.revalidate_timeout,
            max_attempts: config.upstream.max_attempts,
            looks_at_rights,
        };
        Self {
            fills: fill::Fills::new(limits, store.clone(), Arc::clone(&metrics), tasks.clone()),
            manifests: flight::Flights::new(tasks.clone()),
            confirmations: flight::Flights::new(tasks.clone()),
            leaves: flight::Flights::new(tasks.clone()),
            unkept: unkept::Unkept::new(tasks.clone()),
            unavailable: moka::sync::Cache::builder().max_capacity(1000).time_to_live(UNAVAILABLE_FOR).build(),
            away: moka::sync::Cache::builder().max_capacity(1000).time_to_live(AWAY_FOR).build(),
            config: Arc::new(own),
            findings: Arc::default(),
            held: Arc::default(),
            quiet: false,
            store,
            upstream,
            metrics,
        }
    }

    /// The same cache for work of the agent's own: an image that it fetches or looks at has not been used.
    #[must_use]
    pub fn quietly(&self) -> Self {
        Self { quiet: true, ..self.clone() }
    }

    /// Blobs that are being fetched.
    #[must_use]
    pub fn filling(&self) -> std::collections::HashSet<ShortDigest> {
        self.fills.digests()
    }

    /// What went wrong with images, and right again.
    #[must_use]
    pub fn findings(&self) -> &Arc<Findings> {
        &self.findings
    }
}

/// Says that something was served and not stored. A budget that is used up is no failure of the disk.
fn not_stored(error: &StoreError, digest: &Digest, what: &str) {
    let chain = crate::telemetry::chain(error);
    if matches!(error, StoreError::NoRoom { .. }) {
        tracing::warn!(%digest, error = %chain, "{what}");
    } else {
        tracing::error!(%digest, error = %chain, "{what}");
    }
}
