//! Disk life: a budget that holds, eviction by image, deletion of what nothing references, and hashing anew all the time.
//!
//! ```text
//!  settings, file system ──▶ budget (pure) ──▶ how much has to go ─┐
//!  what is held ────────────▶ needs (pure) ──▶ what may go ────────┴─▶ plan (pure) ──▶ evict ──▶ store
//!  control API, pins here ──────▲                                      who waits for room is told when a round is over
//! ```
//! `run.rs` looks at the disk every few seconds, and when room is wanted. Nothing here stands in the way of a pull: a blob that gets no room
//! passes through.

mod budget;
mod evict;
mod gc;
mod hour;
mod needs;
mod pins;
mod plan;
mod run;
mod scrub;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kuik_crd::control::{Desired, Pressure};
use tokio::sync::watch;

pub use budget::Budget;
pub use gc::{GcImage, GcReport};
pub use needs::Needs;
pub use pins::PinError;
pub use plan::{Candidate, Hold, Need, Plan, plan};

use crate::cache::Cache;
use crate::config::{CacheConfig, Reload};
use crate::metrics::Metrics;
use crate::oci::{Digest, Image, Repository};
use crate::store::Store;

/// What the control API lets this node know about needs.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// What it said last.
    pub desired: watch::Receiver<Option<Desired>>,
    /// What was used here up to this time has been reported, in seconds since 1970.
    pub heard_until: watch::Receiver<u64>,
}

/// How the disk is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// What the data directory takes, in bytes.
    pub used_bytes: u64,
    /// What it may take; nothing as long as that is not known, or where there is no limit.
    pub budget_bytes: Option<u64>,
    /// Images evicted since the start.
    pub evicted_images: u64,
    /// Images evicted within the last hour.
    pub evicted_last_hour: u64,
    /// There while the budget cannot be held.
    pub pressure: Option<Pressure>,
}

/// The upkeep of one data directory's size. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Disk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    cache: Cache,
    metrics: Arc<Metrics>,
    config: watch::Sender<CacheConfig>,
    pins: pins::Pins,
    /// Nothing for an agent on its own.
    cluster: OnceLock<Cluster>,
    status: watch::Sender<Status>,
    /// Evictions of the last hour. Held for an addition, never across an await.
    hour: Mutex<hour::LastHour>,
    /// Since when the budget is held. Held for a copy, never across an await.
    calm_since: Mutex<Option<tokio::time::Instant>>,
    /// Held from the look at what is held until the last of it is deleted: two plans at one time would free twice.
    turn: tokio::sync::Mutex<()>,
}

impl Disk {
    /// Over a store and the cache on it. Sets the limit from the first moment on; [`Disk::run`] keeps it.
    pub async fn new(config: CacheConfig, store: &Store, cache: &Cache, metrics: &Arc<Metrics>) -> Self {
        let inner = Inner {
            store: store.clone(),
            cache: cache.quietly(),
            metrics: Arc::clone(metrics),
            config: watch::Sender::new(config),
            pins: pins::Pins::recall(store).await,
            cluster: OnceLock::new(),
            status: watch::Sender::default(),
            hour: Mutex::default(),
            calm_since: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        };
        let disk = Self { inner: Arc::new(inner) };
        disk.look().await;
        disk
    }

    /// From here on the control API has its say.
    pub fn join(&self, cluster: Cluster) {
        // There is one control API, and it is joined once.
        let _ = self.inner.cluster.set(cluster);
    }

    /// How the disk is, now and later.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    /// Has an image never evicted, or lets it go. `true` if that changed anything.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub async fn pin(&self, image: &Image, pinned: bool) -> Result<bool, PinError> {
        self.inner.pins.set(image, pinned).await
    }

    /// Whether somebody pinned an image here, by tag or by digest. If that cannot be known, it may well be.
    #[must_use]
    pub fn is_pinned(&self, image: &Image) -> bool {
        self.inner.pins.images().is_none_or(|images| images.contains(&pins::name(image)))
    }

    /// Manifests of a repository that somebody pinned here by digest.
    #[must_use]
    pub fn pinned_digests(&self, repository: &Repository) -> Vec<Digest> {
        let images = self.inner.pins.images().unwrap_or_default();
        let images = images.iter().filter_map(|image| image.parse::<Image>().ok()).filter(|image| image.repository() == repository);
        images.filter_map(|image| image.digest().copied()).collect()
    }

    /// Looks after the disk until it is dropped. `reload` brings other settings.
    pub async fn run(self, reload: Option<Reload>) {
        tokio::join!(run::watch_disk(&self), run::watch_config(&self, reload), scrub::run(&self));
    }

    fn config(&self) -> CacheConfig {
        self.inner.config.borrow().clone()
    }

    fn needs(&self) -> Needs {
        let (pinned, filling) = (self.inner.pins.images(), self.inner.cache.filling());
        match self.inner.cluster.get() {
            Some(Cluster { desired, heard_until }) => Needs::in_cluster(desired.borrow().as_ref(), *heard_until.borrow(), pinned, filling),
            None => Needs::alone(pinned, filling),
        }
    }

    fn hour(&self) -> std::sync::MutexGuard<'_, hour::LastHour> {
        self.inner.hour.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
