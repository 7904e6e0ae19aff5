//! Re-hashing what is stored, and quarantine for what does not match.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::error::StoreError;
use super::{Inner, Store};
use crate::oci::{Digest, Hasher};

/// Quarantined files that are kept for a person to look at; the oldest go.
const QUARANTINED_FILES_MAX: usize = 16;

/// What re-hashing one blob found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// It is as it was.
    Good { bytes: u64 },
    /// It is not, and has been quarantined.
    Bad { bytes: u64 },
    /// It is gone.
    Missing,
}

impl Store {
    /// The digests of all committed blobs.
    #[must_use]
    pub fn committed(&self) -> Vec<Digest> {
        self.inner.committed()
    }

    /// Re-hashes a committed blob; quarantines it if its bytes are not its digest's.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn verify(&self, digest: &Digest) -> Result<Checked, StoreError> {
        let inner = Arc::clone(&self.inner);
        let digest = *digest;
        super::blocking(move || inner.verify(&digest)).await
    }
}

impl Inner {
    fn verify(&self, digest: &Digest) -> Result<Checked, StoreError> {
        let path = self.layout.blob(digest);
        let Some(mut file) = self.open_file(digest)? else {
            return Ok(Checked::Missing);
        };
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer) {
                Err(error) => return self.unreadable(digest, error).map(|()| Checked::Bad { bytes }),
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    bytes += count as u64;
                }
            }
        }
        if hasher.finish() == *digest {
            return Ok(Checked::Good { bytes });
        }
        let inode = |meta: std::io::Result<fs::Metadata>| meta.ok().map(|meta| meta.ino());
        if inode(file.metadata()) != inode(fs::metadata(&path)) {
            // It was quarantined and fetched again meanwhile; what is there now is another file.
            return Ok(Checked::Missing);
        }
        self.quarantine(digest, "its content has another digest");
        Ok(Checked::Bad { bytes })
    }

    /// Takes a blob with wrong bytes out of service; the next request for it asks upstream.
    pub(super) fn quarantine(&self, digest: &Digest, reason: &str) {
        let to = self.layout.quarantined(digest);
        self.keep_few_quarantined();
        let path = self.layout.blob(digest);
        // If the disk does not let it be moved, it is deleted; if not even that, the index no longer knows its size, but open and
        // verify find it again.
        if let Err(error) = fs::rename(&path, &to).or_else(|_| fs::remove_file(&path)) {
            tracing::error!(%digest, %error, "a corrupt blob can be neither moved nor deleted");
        }
        self.forget_blob(digest);
        self.quarantined.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%digest, reason, moved_to = %to.display(), "quarantined a corrupt blob; it is fetched again when it is asked for");
    }

    fn keep_few_quarantined(&self) {
        let Ok(entries) = fs::read_dir(self.layout.quarantine()) else {
            return;
        };
        let modified = |entry: &fs::DirEntry| entry.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut files: Vec<_> = entries.flatten().map(|entry| (modified(&entry), entry.path())).collect();
        files.sort_unstable();
        let surplus = (files.len() + 1).saturating_sub(QUARANTINED_FILES_MAX);
        for (_, path) in files.into_iter().take(surplus) {
            // The next one tries again.
            let _ = fs::remove_file(path);
        }
    }
}
