//! A blob on its way in: temporary file → hash as written → fsync → rename → fsync of the directory.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::account::Reservation;
use super::blob::Reader;
use super::error::StoreError;
use super::layout::Layout;
use super::{files, steps};
use crate::oci::{Digest, Hasher};

/// A temporary file below `tmp/`. Dropped before `Store::commit` has taken it, it is gone.
#[derive(Debug)]
pub struct Writer {
    layout: Arc<Layout>,
    path: PathBuf,
    file: Arc<File>,
    hasher: Hasher,
    written: u64,
    committed: bool,
    /// The room that the file may take.
    room: Reservation,
}

impl Writer {
    pub(super) fn create(layout: Arc<Layout>, digest: &Digest, room: Reservation) -> Result<Self, StoreError> {
        let path = layout.new_temporary();
        let file = steps::create(&path).map_err(StoreError::io("create", &path))?;
        Ok(Self { layout, path, file: Arc::new(file), hasher: Hasher::new(digest.algorithm()), written: 0, committed: false, room })
    }

    /// Reads what has been written, while more is.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.file))
    }

    /// How much has been written, in bytes.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The running digest of what has been written.
    #[must_use]
    pub fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// Writes on. Blocks. After an error the file ends at [`Writer::written`] for every reader, and so does the digest.
    ///
    /// # Errors
    /// When there is no more room, or the disk is full or fails.
    pub fn append(&mut self, chunks: &[Bytes]) -> Result<(), StoreError> {
        for chunk in chunks {
            self.room.grow(self.written + chunk.len() as u64)?;
            steps::write(&self.file, &self.path, chunk, self.written).map_err(StoreError::io("write", &self.path))?;
            self.hasher.update(chunk);
            self.written += chunk.len() as u64;
        }
        Ok(())
    }

    /// Whether the bytes are those of `digest`.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if they are not.
    pub fn verify(&self, digest: &Digest) -> Result<(), StoreError> {
        let actual = self.hasher.clone().finish();
        if actual == *digest { Ok(()) } else { Err(StoreError::Mismatch { expected: Box::new(*digest), actual: Box::new(actual) }) }
    }

    /// Has the disk take the bytes, which must be those of `digest`. Blocks, for as long as that takes.
    ///
    /// # Errors
    /// When they are not, or the disk fails.
    pub(super) fn seal(&self, digest: &Digest) -> Result<(), StoreError> {
        self.verify(digest)?;
        steps::sync(&self.file, &self.path).map_err(StoreError::io("sync", &self.path))
    }

    /// Makes what was sealed a committed blob. Blocks.
    ///
    /// Crash states, each harmless:
    /// * before the rename: a file in `tmp/`, which start-up deletes. The blob is absent.
    /// * after the rename, before the directory is synced: the blob is absent or whole, since its bytes were synced first.
    /// * after that: it is whole. The index may not know it yet; start-up after an unclean stop tells it.
    ///
    /// # Errors
    /// When the disk fails. Then nothing is left behind.
    pub(super) fn commit(&mut self, digest: &Digest) -> Result<u64, StoreError> {
        files::place(&self.path, &self.layout.blob(digest))?;
        self.committed = true;
        Ok(self.written)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a temporary file cannot be deleted; start-up tries again");
        }
    }
}
