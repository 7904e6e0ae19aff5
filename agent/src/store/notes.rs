//! Small files of others, by name: what the control API said last.

use std::fs;
use std::io;
use std::sync::Arc;

use super::error::StoreError;
use super::{Store, files};

impl Store {
    /// Keeps a note, in the place of the one before. A power cut leaves one of the two, whole.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub async fn write_note(&self, name: &'static str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let inner = Arc::clone(&self.inner);
        super::blocking(move || files::write_atomically(&inner.layout, &inner.layout.note(name), &bytes).map(drop)).await
    }

    /// The note of this name, if there is one.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn read_note(&self, name: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        let inner = Arc::clone(&self.inner);
        super::blocking(move || {
            let path = inner.layout.note(name);
            match fs::read(&path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(StoreError::io("read", path)(error)),
            }
        })
        .await
    }
}
