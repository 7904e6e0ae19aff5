//! Filling: one download, written to disk and hashed as it comes, read by every client that waits for it.
//!
//! The leader is a task that no client owns. What it has written is a frontier that clients read up to (`stream.rs`), so memory
//! grows neither with clients nor with the blob, and a slow client holds nobody up.
//!
//! ```text
//! Opening ──▶ Flowing ──▶ Verified ──▶ (committed, gone from the map)
//!    │           ├──────▶ Failed      upstream gave up, or sent other bytes: clients break off, nothing is kept
//!    │           └──────▶ Detached    the disk gave up: clients go on from upstream by themselves, nothing is kept
//!    ├──────────────────▶ Failed      upstream refused, or there was no turn
//!    └──────────────────▶ Verified    it had been committed meanwhile
//! ```
//! *Unsupported*: from Failed, Verified or Detached to anything else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::error::CacheError;
use super::pump::Pump;
use super::source::{Source, Wanted};
use super::tail::Tail;
use crate::metrics::Metrics;
use crate::oci::{Digest, Hasher, Registry, Repository};
use crate::requester::Requester;
use crate::store::{Reader, ShortDigest, Store, StoreError, Writer};

/// Fills that run or wait for their turn; clients are turned away above it.
const RUNNING_MAX: usize = 1024;

/// How far a fill is.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Opening,
    Flowing,
    Verified,
    Failed(CacheError),
    /// Bytes up to the frontier can be read; `hasher` has taken just those.
    Detached {
        hasher: Box<Hasher>,
    },
}

#[derive(Debug)]
pub(super) struct Progress {
    pub(super) phase: Phase,
    /// Bytes on disk.
    pub(super) frontier: u64,
    /// The newest bytes.
    pub(super) tail: Tail,
    /// The size of the whole, once it is known.
    pub(super) size: Option<u64>,
    /// `None` as long as there is no file.
    pub(super) reader: Option<Reader>,
    /// The leader has gone: what is not committed now never will be.
    pub(super) over: bool,
}

/// One blob being filled.
#[derive(Debug)]
pub(super) struct Fill {
    pub(super) wanted: Wanted,
    progress: watch::Sender<Progress>,
}

impl Fill {
    /// Whether it was begun for this repository, and by whoever asks now: then its refusal is theirs too.
    pub(super) fn is_for(&self, requester: &Requester, repository: &Repository) -> bool {
        self.wanted.repository == *repository && self.wanted.upstream.requester() == requester
    }

    /// Whether it asks for this repository, be it by somebody else.
    pub(super) fn is_of(&self, repository: &Repository) -> bool {
        self.wanted.repository == *repository
    }

    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }
}

/// All fills in progress, one a registry and digest: a registry that is slow, or lies, holds up nobody who asks another.
#[derive(Debug)]
pub(super) struct Fills {
    /// Held to look a digest up or to enter one, never across an await.
    running: Mutex<HashMap<(Registry, Digest), Arc<Fill>>>,
    permits: Arc<Semaphore>,
    /// Half of the permits a registry, so that a slow one does not take them all.
    by_registry: moka::sync::Cache<Registry, Arc<Semaphore>>,
    limits: FillLimits,
    store: Store,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    /// Endpoints that sent wrong bytes for a digest.
    wrong: moka::sync::Cache<Digest, crate::upstream::EndpointId>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct FillLimits {
    pub(super) max_concurrent: usize,
    pub(super) queue_timeout: std::time::Duration,
    /// Not everybody may have everything.
    pub(super) looks_at_rights: bool,
}

impl Fills {
    pub(super) fn new(limits: FillLimits, store: Store, metrics: Arc<Metrics>, tasks: TaskTracker) -> Arc<Self> {
        let wrong = moka::sync::Cache::builder().max_capacity(1000).time_to_live(std::time::Duration::from_secs(300)).build();
        let permits = Arc::new(Semaphore::new(limits.max_concurrent));
        let by_registry = moka::sync::Cache::builder().max_capacity(1000).time_to_idle(std::time::Duration::from_secs(3600)).build();
        Arc::new(Self { running: Mutex::default(), permits, by_registry, limits, store, metrics, tasks, wrong })
    }

    /// The fill of this digest for this repository, if one runs.
    pub(super) fn running(&self, repository: &Repository, digest: &Digest) -> Option<Arc<Fill>> {
        self.lock().get(&(repository.registry.clone(), *digest)).filter(|fill| fill.is_of(repository)).cloned()
    }

    /// What is being fetched.
    pub(super) fn digests(&self) -> std::collections::HashSet<ShortDigest> {
        self.lock().keys().map(|(_, digest)| ShortDigest::from(digest)).collect()
    }

    /// Endpoints that sent wrong bytes for this digest lately.
    pub(super) fn wrong(&self, digest: &Digest) -> Vec<crate::upstream::EndpointId> {
        self.wrong.get(digest).into_iter().collect()
    }

    /// The fill of this digest from this registry, be it for another repository; begun if none runs.
    pub(super) fn join_or_lead(self: &Arc<Self>, wanted: Wanted) -> Result<Arc<Fill>, CacheError> {
        let mut running = self.lock();
        let key = wanted.key();
        if let Some(fill) = running.get(&key) {
            return Ok(Arc::clone(fill));
        }
        if running.len() >= RUNNING_MAX {
            return Err(CacheError::Busy { max: RUNNING_MAX, waited: std::time::Duration::ZERO });
        }
        let progress = watch::Sender::new(Progress {
            phase: Phase::Opening,
            frontier: 0,
            tail: Tail::default(),
            size: None,
            reader: None,
            over: false,
        });
        let fill = Arc::new(Fill { wanted, progress });
        running.insert(key, Arc::clone(&fill));
        let lead = Leader { fills: Arc::clone(self), fill: Arc::clone(&fill) };
        self.tasks.spawn(lead.run());
        Ok(fill)
    }

    /// Waits for the right to download: first among those of the registry, then among all.
    async fn turn(&self, registry: &Registry) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), CacheError> {
        let max = self.limits.max_concurrent;
        let own = self.by_registry.get_with(registry.clone(), || Arc::new(Semaphore::new(max.div_ceil(2))));
        let turn = async { Ok((own.acquire_owned().await?, Arc::clone(&self.permits).acquire_owned().await?)) };
        match tokio::time::timeout(self.limits.queue_timeout, turn).await {
            Ok(permits) => permits.map_err(|_: tokio::sync::AcquireError| CacheError::Lost),
            Err(_) => Err(CacheError::Busy { max, waited: self.limits.queue_timeout }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Registry, Digest), Arc<Fill>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that fills. Dropped for whatever reason, it takes the fill off the map and leaves nobody waiting.
struct Leader {
    fills: Arc<Fills>,
    fill: Arc<Fill>,
}

/// How a fill ended that did not succeed.
pub(super) enum Ended {
    Failed(CacheError),
    Disk { error: StoreError, hasher: Box<Hasher> },
}

impl<E: Into<CacheError>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Leader {
    async fn run(self) {
        let _gauge = self.fills.metrics.fill_started();
        let ended = match self.fill().await {
            Ok(()) => return,
            Err(ended) => ended,
        };
        // Off the map first: whoever tries again must not meet this fill.
        self.leave();
        let digest = self.fill.wanted.digest;
        match ended {
            Ended::Failed(error) => {
                tracing::warn!(%digest, repository = %self.fill.wanted.repository, %error, "a blob could not be fetched");
                self.fill.update(|progress| progress.phase = Phase::Failed(error));
            }
            Ended::Disk { error, hasher } => {
                self.fills.metrics.passed_through(&error);
                super::not_stored(&error, &digest, "a blob cannot be stored: clients get it straight from upstream");
                self.fill.update(|progress| {
                    progress.phase = Phase::Detached { hasher };
                    progress.tail.clear();
                });
            }
        }
    }

    async fn fill(&self) -> Result<(), Ended> {
        let (fill, store) = (&self.fill, &self.fills.store);
        let wanted = &fill.wanted;
        // It may have been committed between the caller's look and this fill. By whom is not known here, so that where rights are looked at
        // a repository that only claims it gets it from its own registry.
        let link = store.link(&wanted.repository, &wanted.digest);
        if super::claims::is_certain(self.fills.limits.looks_at_rights, link.as_ref())
            && let Some(blob) = super::blobs::open_or_miss(store, &wanted.digest).await
        {
            if link.is_none() {
                let size = wanted.upstream.head_blob(&wanted.repository, &wanted.digest).await?;
                store.put_link(&wanted.repository, &wanted.digest, size);
            }
            fill.update(|progress| {
                progress.phase = Phase::Verified;
                progress.frontier = blob.size;
                progress.size = Some(blob.size);
                progress.reader = Some(blob.reader.clone());
            });
            return Ok(());
        }
        let _permits = self.fills.turn(&wanted.repository.registry).await?;
        let create = |size: Option<u64>| {
            let (store, digest) = (store.clone(), wanted.digest);
            tokio::spawn(async move { store.writer(&digest, size).await })
        };
        // Beside the question to upstream: a file system that is busy syncing, or an eviction, must not hold the first byte up. The size is
        // what the manifest claims; what turns out larger asks for more.
        let claimed = store.link(&wanted.repository, &wanted.digest).and_then(|link| link.size);
        let creating = claimed.map(|size| create(Some(size)));
        let source = Source::open(wanted.clone(), 0).await?;
        let creating = creating.unwrap_or_else(|| create(source.size()));
        if store.link(&wanted.repository, &wanted.digest).is_none() {
            store.put_link(&wanted.repository, &wanted.digest, source.size());
        }
        fill.update(|progress| {
            progress.size = source.size();
            progress.phase = Phase::Flowing;
        });
        let mut pump = Pump::new(fill, creating, source);
        pump.run().await?;
        let (writer, source) = pump.finish();
        self.land(writer, &source).await
    }

    /// Verifies and commits. Clients get the last bytes before the disk has synced them: the digest is what they wait for.
    async fn land(&self, writer: Writer, source: &Source) -> Result<(), Ended> {
        let wanted = &self.fill.wanted;
        if let Err(error) = writer.verify(&wanted.digest) {
            let StoreError::Mismatch { expected, actual } = error else {
                return Err(error.into());
            };
            self.fills.metrics.upstream_error(&wanted.repository.registry, "digest_mismatch");
            self.fills.wrong.insert(wanted.digest, source.endpoint().clone());
            return Err(CacheError::Mismatch { repository: Box::new(wanted.repository.clone()), expected, actual }.into());
        }
        self.fills.store.came(&wanted.repository, &wanted.digest);
        self.fill.update(|progress| {
            progress.size = Some(progress.frontier);
            progress.phase = Phase::Verified;
            progress.tail.clear();
        });
        if let Err(error) = self.fills.store.commit(writer, &wanted.digest).await {
            self.fills.metrics.passed_through(&error);
            super::not_stored(&error, &wanted.digest, "a blob was served and cannot be kept");
        }
        Ok(())
    }

    fn leave(&self) {
        let mut running = self.fills.lock();
        let key = self.fill.wanted.key();
        if running.get(&key).is_some_and(|fill| Arc::ptr_eq(fill, &self.fill)) {
            running.remove(&key);
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.leave();
        self.fill.update(|progress| {
            if matches!(progress.phase, Phase::Opening | Phase::Flowing) {
                progress.phase = Phase::Failed(CacheError::Lost);
            }
            progress.over = true;
        });
    }
}
