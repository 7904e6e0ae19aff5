//! What all handles of a store share, and the work on it that blocks.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::watch;

use super::Store;
use super::account::Account;
use super::blob::{Blob, Reader};
use super::changes::Changes;
use super::error::StoreError;
use super::files;
use super::index::{Closed, Index, Table};
use super::layout::{Layout, digest_key, digest_of_key};
use super::record::{self, BlobRecord};
use super::writer::Writer;
use crate::oci::{Digest, Hasher, MANIFEST_BYTES_MAX};

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) layout: Arc<Layout>,
    pub(super) index: Index,
    /// Verified content of small blobs.
    pub(super) small: moka::sync::Cache<Digest, Bytes>,
    /// Use-times since the last flush. Held for a lookup or an insertion, never across an await.
    pub(super) touched: Mutex<HashMap<Digest, u64>>,
    /// What is used and promised of the disk.
    pub(super) account: Arc<Account>,
    pub(super) quarantined: AtomicU64,
    /// Never held across an await.
    pub(super) last_quarantined: Mutex<Option<Digest>>,
    pub(super) rebuilt: AtomicU64,
    /// What the last orderly shutdown said of the index, until it has been compared. Never held across an await.
    pub(super) closed: Mutex<Option<Closed>>,
    /// `true` once the index knows everything that the directory has.
    pub(super) settled: watch::Sender<bool>,
    /// What a catalogue has to look at again.
    pub(super) changes: Changes,
    /// Read where manifests and tags come, written where they go: from the look at what references what until the last file is gone.
    pub(super) naming: tokio::sync::RwLock<()>,
    /// Read while a blob gets its name and its row, written while one is deleted. Never held across an await.
    pub(super) committing: RwLock<()>,
    /// Deletions under way: the index may have forgotten what is still there.
    pub(super) deleting: AtomicU64,
    /// The index names what the disk refused.
    pub(super) is_ahead: AtomicBool,
    pub(super) _lock: Option<File>,
}

impl Inner {
    /// Whether what the index does not know is not in the directory.
    pub(super) fn knows_all(&self) -> bool {
        *self.settled.borrow() && self.index.is_sound()
    }

    pub(super) fn touched(&self) -> MutexGuard<'_, HashMap<Digest, u64>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the index says of a committed blob.
    pub(super) fn blob_record(&self, digest: &Digest) -> Option<BlobRecord> {
        self.index.get(Table::Blobs, &digest_key(digest)).and_then(|bytes| record::decode(&bytes))
    }

    /// The file of a committed blob. One that is gone is forgotten.
    pub(super) fn open_file(&self, digest: &Digest) -> Result<Option<File>, StoreError> {
        let path = self.layout.blob(digest);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let _no_commit = self.committing.write().unwrap_or_else(PoisonError::into_inner);
                // It may have come this moment.
                if !path.exists() {
                    self.forget_blob(digest);
                }
                Ok(None)
            }
            Err(error) => Err(StoreError::io("open", path)(error)),
        }
    }

    pub(super) fn open_blob(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        let path = self.layout.blob(digest);
        let Some(file) = self.open_file(digest)? else {
            return Ok(None);
        };
        let size = file.metadata().map_err(StoreError::io("stat", &path))?.len();
        if let Some(record) = self.blob_record(digest)
            && record.size != size
        {
            self.quarantine(digest, &format!("the file has {size} bytes, the blob has {}", record.size));
            return Ok(None);
        }
        Ok(Some(Blob { reader: Reader::new(Arc::new(file)), size }))
    }

    pub(super) fn read_verified(&self, digest: &Digest) -> Result<Option<Bytes>, StoreError> {
        let path = self.layout.blob(digest);
        let Some(file) = self.open_file(digest)? else {
            return Ok(None);
        };
        if file.metadata().map_err(StoreError::io("stat", &path))?.len() > MANIFEST_BYTES_MAX as u64 {
            // Too large for a manifest or anything else that is read as a whole; that says nothing about its bytes.
            return Ok(None);
        }
        let mut bytes = Vec::new();
        if let Err(error) = file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes) {
            return self.unreadable(digest, error).map(|()| None);
        }
        if Hasher::digest(digest.algorithm(), &bytes) != *digest {
            self.quarantine(digest, "its content has another digest");
            return Ok(None);
        }
        let bytes = Bytes::from(bytes);
        if Store::is_small(bytes.len() as u64) {
            self.small.insert(*digest, bytes.clone());
        }
        Ok(Some(bytes))
    }

    /// A committed file whose bytes the disk does not give back is as rotten as one with other bytes: it must not be met again.
    pub(super) fn unreadable(&self, digest: &Digest, error: io::Error) -> Result<(), StoreError> {
        let rotten = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) || error.kind() == io::ErrorKind::UnexpectedEof;
        if !rotten {
            return Err(StoreError::io("read", self.layout.blob(digest))(error));
        }
        self.quarantine(digest, &format!("it cannot be read: {error}"));
        Ok(())
    }

    /// Makes what was written a committed blob, last used at `used`.
    pub(super) fn commit(&self, mut writer: Writer, digest: &Digest, used: u64) -> Result<(), StoreError> {
        writer.seal(digest)?;
        let committing = self.committing.read().unwrap_or_else(PoisonError::into_inner);
        let size = writer.commit(digest)?;
        let key = digest_key(digest);
        // In one step: of two who commit the same blob, one adds to the sums.
        if self.index.put(Table::Blobs, &key, record::encode(&BlobRecord { size, used })) {
            self.account.blob_came(size);
        }
        drop(committing);
        // What was promised is given back now that it is counted as used: never less is known of than there is.
        drop(writer);
        self.changes.blob(digest);
        Ok(())
    }

    /// Sums up what the index knows. Nothing is committed meanwhile, or it would be counted twice or never.
    pub(super) fn sum_up(&self) {
        let _no_commit = self.committing.write().unwrap_or_else(PoisonError::into_inner);
        let mut lengths = Vec::new();
        self.index.each(Table::Blobs, &mut |_, value| lengths.extend(record::decode::<BlobRecord>(value).map(|record| record.size)));
        // The index may know names that the disk has not taken.
        self.account.settle(lengths.into_iter(), files::count(&self.layout.refs()));
    }

    /// Takes a blob out of the index because the directory does not have it.
    pub(super) fn forget_blob(&self, digest: &Digest) {
        let key = digest_key(digest);
        self.small.invalidate(digest);
        if let Some(record) = self.blob_record(digest)
            && self.index.remove(Table::Blobs, &key)
        {
            self.account.blob_went(record.size);
            self.changes.loss(digest);
        }
    }

    pub(super) fn committed(&self) -> Vec<Digest> {
        let mut digests = Vec::new();
        self.index.each(Table::Blobs, &mut |key, _| digests.extend(digest_of_key(key)));
        digests
    }
}
