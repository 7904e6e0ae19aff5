//! Deleting files: the index forgets first, and what has begun is ended.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::error::StoreError;
use super::index::Table;
use super::layout::digest_key;
use super::record::{BlobRecord, encode};
use super::{Inner, Store};
use crate::oci::Digest;

/// How far deleting gives way to pulls, as a nice value: while the index forgets, manifests that come wait, so it gets a third of what a pull
/// gets of a processor that both want; while files are deleted nobody waits, and a ninth does.
const FORGETTING: i32 = 5;
const DELETING: i32 = 10;

/// As long as it lives, there may be files that the index has forgotten and that are still to be deleted.
struct Deleting(Arc<Inner>);

impl Deleting {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.deleting.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(inner))
    }
}

impl Drop for Deleting {
    fn drop(&mut self) {
        self.0.deleting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Store {
    /// Has the index forget something while nobody names manifests, then deletes the blobs that it names. What has begun is ended, whoever
    /// waits for it or does not any more.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) async fn delete_in_order<T: Default + Send + 'static>(
        &self,
        forget: impl FnOnce() -> Result<(T, BTreeSet<Digest>), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (store, deleting) = (self.clone(), Deleting::new(&self.inner));
        let task = tokio::spawn(async move {
            // Nobody gives a name to a manifest meanwhile.
            let naming = store.inner.naming.write().await;
            let (answer, orphans) = super::giving_way(FORGETTING, forget).await?;
            // The index knows these blobs no more: who names them from here on fetches them again, and a new file is not deleted.
            drop(naming);
            let inner = Arc::clone(&store.inner);
            let deleted = super::giving_way(DELETING, move || inner.delete_blobs(&orphans)).await;
            drop(deleting);
            deleted.map(|()| answer)
        });
        task.await.unwrap_or_else(|error| Err(StoreError::io("finish work on", "the data directory")(io::Error::other(error))))
    }
}

impl Inner {
    /// An error if the disk takes no change at all: then nothing may be forgotten, since nothing could be deleted. A full disk is none.
    pub(super) fn probe(&self) -> Result<(), StoreError> {
        use io::ErrorKind as Kind;
        let path = self.layout.new_temporary();
        match fs::write(&path, b"").and_then(|()| fs::remove_file(&path)) {
            Err(error) if !matches!(error.kind(), Kind::StorageFull | Kind::QuotaExceeded) => Err(StoreError::io("delete", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Unlinks blobs that the index has forgotten. What cannot be deleted is known again; the first error is told.
    pub(super) fn delete_blobs(&self, digests: &BTreeSet<Digest>) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for digest in digests {
            if let Err(error) = self.delete_blob(digest) {
                self.remember_blob(digest);
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }

    /// Enters a blob that is in the directory into the index and the accounts.
    fn remember_blob(&self, digest: &Digest) {
        let _no_commit = self.committing.write().unwrap_or_else(PoisonError::into_inner);
        if let Ok(meta) = fs::metadata(self.layout.blob(digest))
            && self.index.put(Table::Blobs, &digest_key(digest), encode(&BlobRecord { size: meta.len(), used: 0 }))
        {
            self.account.blob_came(meta.len());
        }
    }

    /// Unlinks a blob that the index has forgotten, unless it was committed anew meanwhile.
    pub(super) fn delete_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let _no_commit = self.committing.write().unwrap_or_else(PoisonError::into_inner);
        if self.blob_record(digest).is_some() {
            return Ok(());
        }
        unlink(&self.layout.blob(digest)).map(drop)
    }
}

/// `true` if there was such a file.
pub(super) fn unlink(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("delete", path)(error)),
    }
}
