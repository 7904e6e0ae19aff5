//! What has changed since somebody last looked, so that a catalogue of thousands of images need not be made anew each time.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Store;
use crate::oci::Digest;

/// More blobs than this are noted as all.
const BLOBS_MAX: usize = 10_000;

/// Stands for a digest where a mistake costs a look too many and nothing else: 8 bytes instead of 65.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShortDigest(u64);

impl From<&Digest> for ShortDigest {
    fn from(digest: &Digest) -> Self {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest.as_bytes()[..8]);
        Self(u64::from_le_bytes(bytes))
    }
}

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// A tag or a manifest came, went or was confirmed.
    pub names: bool,
    /// Blobs that came or went.
    pub blobs: HashSet<ShortDigest>,
    /// So much that nothing is as it was.
    pub all: bool,
}

/// Collects changes until they are taken.
#[derive(Debug)]
pub(super) struct Changes {
    /// Held for an insertion or a swap, never across an await.
    pending: Mutex<Changed>,
    /// Counts changes.
    count: watch::Sender<u64>,
    /// Counts blobs that went, as far as they went one by one.
    losses: AtomicU64,
}

impl Default for Changes {
    fn default() -> Self {
        Self { pending: Mutex::new(Changed { all: true, ..Changed::default() }), count: watch::Sender::new(0), losses: AtomicU64::new(0) }
    }
}

impl Changes {
    pub(super) fn blob(&self, digest: &Digest) {
        let mut pending = self.lock();
        if pending.blobs.len() >= BLOBS_MAX {
            pending.all = true;
        }
        if !pending.all {
            pending.blobs.insert(digest.into());
        }
        drop(pending);
        self.tell();
    }

    pub(super) fn loss(&self, digest: &Digest) {
        self.losses.fetch_add(1, Ordering::Relaxed);
        self.blob(digest);
    }

    pub(super) fn name(&self) {
        self.lock().names = true;
        self.tell();
    }

    pub(super) fn everything(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
        *self.lock() = Changed { all: true, ..Changed::default() };
        self.tell();
    }

    fn tell(&self) {
        self.count.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Changed> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// What has changed since this was called last. There is one who asks.
    #[must_use]
    pub fn take_changes(&self) -> Changed {
        std::mem::take(&mut *self.inner.changes.lock())
    }

    /// Counts blobs that went: as long as it stays, what was whole is whole.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.inner.changes.losses.load(Ordering::Relaxed)
    }

    /// Ticks whenever something changes.
    #[must_use]
    pub fn watch_changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.count.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_changes_are_all() {
        let changes = Changes::default();
        assert!(std::mem::take(&mut *changes.lock()).all);
        let digest = |number: u64| Digest::from_bytes(crate::oci::Algorithm::Sha256, &[number.to_le_bytes(); 4].concat()).unwrap();
        changes.blob(&digest(1));
        changes.blob(&digest(1));
        changes.blob(&digest(2));
        let taken = std::mem::take(&mut *changes.lock());
        assert_eq!((taken.names, taken.blobs.len(), taken.all), (false, 2, false));
        changes.name();
        assert!(std::mem::take(&mut *changes.lock()).names);
        (0..=BLOBS_MAX as u64).for_each(|number| changes.blob(&digest(number)));
        assert!(changes.lock().all);
    }
}
