//! The file system that the data directory is on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Store;
use super::error::StoreError;

/// What `st_blocks` counts.
const STAT_BLOCK_BYTES: u64 = 512;

/// The unit in which file systems mostly give out room.
const USUAL_BLOCK_BYTES: u64 = 4096;

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub capacity: u64,
    /// What an ordinary user may still write.
    pub free: u64,
}

/// The unit in which the file system of a directory gives out room, in bytes.
pub(super) fn block_bytes(root: &Path) -> u64 {
    // Larger ones are a hint for transfers, as on network file systems, and not what a file of one byte takes.
    rustix::fs::statvfs(root).map_or(USUAL_BLOCK_BYTES, |stat| stat.f_frsize).clamp(512, 64 << 10)
}

/// What the files directly in a directory take, and those one directory below. What goes meanwhile takes nothing.
fn measure(dir: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() && depth > 0 => measure(&entry.path(), depth - 1),
        Ok(meta) if meta.is_file() => meta.blocks() * STAT_BLOCK_BYTES,
        _ => 0,
    };
    entries.flatten().map(of).sum()
}

impl Store {
    /// Measures what is not counted as it comes: the index, quarantine and notes, which are few files.
    ///
    /// # Errors
    /// None but the runtime's own.
    pub async fn measure(&self) -> Result<(), StoreError> {
        let inner = std::sync::Arc::clone(&self.inner);
        super::blocking(move || {
            let layout = &inner.layout;
            let dirs = [(layout.index(), 1), (layout.index_aside(), 1), (layout.quarantine(), 0), (layout.notes(), 0)];
            inner.account.measured(dirs.iter().map(|(dir, depth)| measure(dir, *depth)).sum());
            Ok(())
        })
        .await
    }

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
