//! The file system that the data directory is on.

use super::Store;
use super::error::StoreError;

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub capacity: u64,
    /// What an ordinary user may still write.
    pub free: u64,
}

impl Store {
    /// How much room there is.
    ///
    /// # Errors
    /// When the file system does not say.
    pub async fn space(&self) -> Result<Space, StoreError> {
        let inner = std::sync::Arc::clone(&self.inner);
        super::blocking(move || {
            let root = inner.layout.root();
            let stat = rustix::fs::statvfs(root).map_err(|error| StoreError::io("ask for the room of", root)(error.into()))?;
            Ok(Space { capacity: stat.f_blocks.saturating_mul(stat.f_frsize), free: stat.f_bavail.saturating_mul(stat.f_frsize) })
        })
        .await
    }
}
