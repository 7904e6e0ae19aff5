//! The data directory: content-addressed blobs, what repositories reference, and an index over both.
//!
//! The only module that touches the directory. A byte is served from it only out of a committed, verified blob. The index is a
//! cache: deleting it loses recency and tag freshness, nothing else.

mod account;
mod blob;
mod buffer;
mod changes;
mod closure;
mod delete;
mod disk;
mod error;
mod files;
mod find;
mod heirs;
mod index;
mod inner;
mod layout;
mod manifests;
mod notes;
mod open;
mod prune;
mod record;
mod recover;
mod refs;
mod remove;
mod steps;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod verify;
mod writer;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::watch;

pub use account::{Reservation, Room};
pub use blob::{Blob, Reader};
pub use changes::{Changed, ShortDigest};
pub use disk::Space;
pub use error::StoreError;
pub use manifests::{Catalogue, Givers, Naming};
pub use record::{BlobRecord, LinkRecord, ManifestRecord, TagRecord, UpstreamStatus};
pub use remove::{Removal, Victim};
#[cfg(test)]
pub(crate) use steps::{Step, watch::Watch};
pub use sweep::Orphans;
pub use verify::{Checked, Pause};
pub use writer::Writer;

use index::Table;
use inner::Inner;
use layout::{Layout, digest_key};

use crate::oci::Digest;

/// Content up to this size is kept in memory once it was read, up to [`SMALL_BYTES_TOTAL`] together.
const SMALL_BYTES: u64 = 64 << 10;
const SMALL_BYTES_TOTAL: u64 = 8 << 20;

/// How long who needs all of the index waits for start-up's walk of the directory.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A data directory in use. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// Figures for the metrics.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub blob_bytes: u64,
    pub blobs: u64,
    pub index_bytes: u64,
    pub quarantined: u64,
    /// The last of them.
    pub last_quarantined: Option<Digest>,
    pub index_rebuilds: u64,
}

impl Store {
    /// Opens a data directory, or makes one. Blocks; what must be walked is walked by [`Store::settle`].
    ///
    /// # Errors
    /// When another process uses it, a newer agent wrote it, or it is no directory that this process may use.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let layout = Arc::new(Layout::new(root));
        let opened = open::open(&layout)?;
        let weigh = |_: &Digest, bytes: &Bytes| u32::try_from(bytes.len() + 128).unwrap_or(u32::MAX);
        let inner = Inner {
            layout,
            index: opened.index,
            small: moka::sync::Cache::builder().max_capacity(SMALL_BYTES_TOTAL).weigher(weigh).build(),
            touched: Mutex::default(),
            account: account::Account::new(disk::block_bytes(root)),
            quarantined: AtomicU64::new(0),
            last_quarantined: Mutex::default(),
            rebuilt: AtomicU64::new(0),
            settled: watch::Sender::new(false),
            closed: Mutex::new(opened.closed),
            changes: changes::Changes::default(),
            naming: tokio::sync::RwLock::default(),
            committing: RwLock::default(),
            deleting: AtomicU64::new(0),
            is_ahead: AtomicBool::new(false),
            _lock: opened.lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Brings the index up to date with the directory unless it is as the last orderly shutdown left it, and sums up what is there.
    ///
    /// # Errors
    /// None but the runtime's own.
    pub async fn settle(&self) -> Result<(), StoreError> {
        // Nothing is deleted behind the walk's back.
        let naming = self.inner.naming.read().await;
        let inner = Arc::clone(&self.inner);
        let walked = blocking(move || {
            // What the index knows already, for those who do not wait for the walk.
            inner.sum_up();
            let closed = inner.closed.lock().unwrap_or_else(PoisonError::into_inner).take();
            let is_due = !closed.is_some_and(|closed| inner.index.is_as_closed(&closed));
            if is_due {
                let found = recover::reindex(&inner);
                inner.rebuilt.fetch_add(1, Ordering::Relaxed);
                tracing::info!(blobs = found.blobs, manifests = found.manifests, tags = found.tags, "brought the index up to date");
            }
            Ok(is_due)
        })
        .await;
        drop(naming);
        // Nobody writes a record while they are counted; before anybody is given room by the sum.
        let _naming = self.inner.naming.write().await;
        let inner = Arc::clone(&self.inner);
        let has_walked = walked.as_ref().is_ok_and(|walked| *walked);
        let summed = blocking(move || {
            if has_walked {
                prune::prune(&inner);
            }
            inner.sum_up();
            inner.settled.send_replace(true);
            inner.changes.everything();
            Ok(())
        });
        walked
            .and(summed.await)
            // Whatever happened, nobody waits for it any longer.
            .inspect_err(|_| {
                self.inner.settled.send_replace(true);
            })
    }

    /// Ends when the storage engine of the index fails. Then [`Store::mend`] is due.
    pub async fn index_broke(&self) {
        let mut broken = self.inner.index.watch_broken();
        // The sender lives as long as the store.
        let _ = broken.wait_for(|broken| *broken).await;
    }

    /// Makes the index anew, in memory, and has the next start make it anew on disk.
    ///
    /// # Errors
    /// None but the runtime's own.
    pub async fn mend(&self) -> Result<(), StoreError> {
        self.inner.settled.send_replace(false);
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            if let Err(error) = fs::write(inner.layout.index_broken(), b"") {
                tracing::error!(%error, "the next start may find the broken index again");
            }
            inner.index.replace_with_memory();
            Ok(())
        })
        .await
        .and(self.settle().await)
    }

    /// Waits until the index knows what the directory has. `true` if it did not before, and may still not. Who wants to know about one name
    /// need not wait: [`Store::find_tag`] and its like look for themselves.
    pub async fn settled(&self) -> bool {
        if *self.inner.settled.borrow() {
            return false;
        }
        let mut settled = self.inner.settled.subscribe();
        let _ = tokio::time::timeout(SETTLE_TIMEOUT, settled.wait_for(|settled| *settled)).await;
        true
    }

    /// Whether the index knows what the directory has: see [`Store::settled`].
    #[must_use]
    pub fn knows_all(&self) -> bool {
        self.inner.knows_all()
    }

    /// Opens a committed blob. A file of another size than the blob had when it was committed is quarantined, and absent.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn open_blob(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        if self.inner.knows_all() && self.inner.index.get(Table::Blobs, &digest_key(digest)).is_none() {
            // A miss costs no switch of threads.
            return Ok(None);
        }
        let inner = Arc::clone(&self.inner);
        let digest = *digest;
        blocking(move || inner.open_blob(&digest)).await
    }

    /// Small content, if it is in memory.
    #[must_use]
    pub fn small(&self, digest: &Digest) -> Option<Bytes> {
        self.inner.small.get(digest)
    }

    /// Reads a whole blob and verifies it: manifests and other small content. One with wrong bytes is quarantined, and absent.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn read_verified(&self, digest: &Digest) -> Result<Option<Bytes>, StoreError> {
        if let Some(bytes) = self.small(digest) {
            return Ok(Some(bytes));
        }
        let inner = Arc::clone(&self.inner);
        let digest = *digest;
        blocking(move || inner.read_verified(&digest)).await
    }

    /// Says that a committed blob could not be read. If the disk is the reason, it is quarantined.
    pub async fn report_unreadable(&self, digest: &Digest, error: io::Error) {
        let inner = Arc::clone(&self.inner);
        let digest = *digest;
        if let Err(error) = blocking(move || inner.unreadable(&digest, error)).await {
            tracing::error!(%digest, error = %crate::telemetry::chain(&error), "a blob cannot be read");
        }
    }

    /// Whether content of this size is kept in memory once it was read.
    #[must_use]
    pub fn is_small(size: u64) -> bool {
        size <= SMALL_BYTES
    }

    /// Begins a blob of so many bytes, if that is known.
    ///
    /// # Errors
    /// When there is no room for it, or the disk is full or fails.
    pub async fn writer(&self, digest: &Digest, size: Option<u64>) -> Result<Writer, StoreError> {
        let room = self.reserve(size).await?;
        let layout = Arc::clone(&self.inner.layout);
        let digest = *digest;
        blocking(move || Writer::create(layout, &digest, room)).await
    }

    /// Makes what was written a committed blob.
    ///
    /// # Errors
    /// When the bytes are not those of `digest`, or the disk fails.
    pub async fn commit(&self, writer: Writer, digest: &Digest) -> Result<(), StoreError> {
        let inner = Arc::clone(&self.inner);
        let digest = *digest;
        blocking(move || inner.commit(writer, &digest, now_seconds())).await
    }

    /// Says when a blob was last asked for.
    pub fn set_used(&self, digest: &Digest, used: u64) {
        self.inner.touched().insert(*digest, used);
    }

    /// Notes that a blob was asked for.
    pub fn touch(&self, digest: &Digest) {
        self.inner.touched().insert(*digest, now_seconds());
    }

    /// What is known of a committed blob.
    #[must_use]
    pub fn blob_record(&self, digest: &Digest) -> Option<BlobRecord> {
        let mut record = self.inner.blob_record(digest)?;
        if let Some(used) = self.inner.touched().get(digest) {
            record.used = *used;
        }
        Some(record)
    }

    /// Writes use-times, which are collected in memory, into the index.
    pub fn flush_use_times(&self) {
        let touched = self.inner.touched().clone();
        for (digest, used) in &touched {
            let used = *used;
            // In one step: a row that has gone meanwhile must not come back.
            self.inner.index.update(Table::Blobs, &digest_key(digest), &|old| {
                let old: BlobRecord = record::decode(old)?;
                Some(record::encode(&BlobRecord { used, ..old }))
            });
        }
        // As long as the directory is walked there may be no row yet to take them.
        if self.inner.knows_all() {
            // Only now: whoever asks meanwhile must not be told the time before.
            self.inner.touched().retain(|digest, used| touched.get(digest) != Some(used));
        }
    }

    /// The last thing before the process ends: writes everything out and says so, that the next start need not walk the directory.
    pub fn close(&self) {
        self.flush_use_times();
        // Where files are still to be deleted that the index has forgotten, or the index names what is not on disk, a walk has to see to it.
        let Inner { settled, deleting, is_ahead, .. } = &*self.inner;
        let is_as_it_says = || *settled.borrow() && deleting.load(Ordering::SeqCst) == 0 && !is_ahead.load(Ordering::SeqCst);
        let Some(closed) = self.inner.index.close().filter(|_| is_as_it_says()) else {
            return;
        };
        if let Err(error) = files::write_atomically(&self.inner.layout, &self.inner.layout.clean(), &record::encode(&closed)) {
            tracing::warn!(error = %crate::telemetry::chain(&error), "the next start will walk the directory");
        }
    }

    /// Figures for the metrics.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let sums = self.inner.account.sums();
        Usage {
            blob_bytes: sums.blob_bytes,
            blobs: sums.blob_count,
            index_bytes: self.inner.index.size_bytes(),
            quarantined: self.inner.quarantined.load(Ordering::Relaxed),
            last_quarantined: *self.inner.last_quarantined.lock().unwrap_or_else(PoisonError::into_inner),
            index_rebuilds: self.inner.rebuilt.load(Ordering::Relaxed),
        }
    }
}

/// Runs what blocks on the pool that is there for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::io("finish work on", "the data directory")(io::Error::other(error))),
    }
}

/// Runs what blocks, and what no pull waits for, on a thread of its own that gives way to those that serve pulls.
async fn giving_way<T: Send + 'static>(nice: i32, work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    let (done, result) = tokio::sync::oneshot::channel();
    let run = move || {
        // On Linux this is about the thread alone. One that does not give way does no harm.
        let _ = rustix::process::nice(nice);
        // Whoever waited may be gone; what has begun was ended.
        let _ = done.send(work());
    };
    let failed = |error: io::Error| StoreError::io("finish work on", "the data directory")(error);
    std::thread::Builder::new().name("giving-way".to_owned()).spawn(run).map_err(failed)?;
    result.await.unwrap_or_else(|error| Err(failed(io::Error::other(error))))
}

/// The time, in seconds since 1970.
#[must_use]
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
