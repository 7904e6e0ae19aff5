//! Re-hashing what is stored, and quarantine for what does not match.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use super::error::StoreError;
use super::index::Table;
use super::layout::{digest_key, digest_of_key};
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

/// What happens between the steps of hashing a blob anew.
pub trait Pause: Send {
    /// So many bytes were read.
    fn after(&mut self, bytes: u64) -> impl Future<Output = ()> + Send;
}

/// No pause at all.
impl Pause for () {
    async fn after(&mut self, _bytes: u64) {}
}

impl Store {
    /// The digests of all committed blobs.
    #[must_use]
    pub fn committed(&self) -> Vec<Digest> {
        self.inner.committed()
    }

    /// Deletes what was put aside for a person to look at.
    pub async fn clear_quarantine(&self) {
        let inner = Arc::clone(&self.inner);
        let cleared = super::blocking(move || Ok(super::files::clear_dir(&inner.layout.quarantine()))).await;
        if let Ok(files @ 1..) = cleared {
            tracing::info!(files, "deleted quarantined files to make room");
        }
    }

    /// The digests of committed blobs after one, in order, and so many of them at the most.
    #[must_use]
    pub fn committed_after(&self, after: Option<&Digest>, most: usize) -> Vec<Digest> {
        let key = after.map(digest_key).unwrap_or_default();
        self.inner.index.after(Table::Blobs, &key, most).iter().filter_map(|(key, _)| digest_of_key(key)).collect()
    }

    /// Re-hashes a committed blob; quarantines it if its bytes are not its digest's.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn verify(&self, digest: &Digest) -> Result<Checked, StoreError> {
        self.verify_with(digest, &mut ()).await
    }

    /// The same; `pause` is told of every MiB, or less at the end, before the next are read.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn verify_with(&self, digest: &Digest, pause: &mut impl Pause) -> Result<Checked, StoreError> {
        let (inner, digest) = (Arc::clone(&self.inner), *digest);
        let Some(mut check) = super::blocking(move || inner.begin_check(&digest)).await? else {
            return Ok(Checked::Missing);
        };
        loop {
            let inner = Arc::clone(&self.inner);
            let (back, read) = super::blocking(move || {
                let read = check.step();
                match read {
                    Ok(read) => Ok((check, read)),
                    Err(error) => inner.unreadable(&digest, error).map(|()| (check, Step::Unreadable)),
                }
            })
            .await?;
            check = back;
            match read {
                Step::Read(bytes) => pause.after(bytes).await,
                Step::Unreadable => return Ok(Checked::Bad { bytes: check.bytes }),
                Step::End => break,
            }
        }
        let inner = Arc::clone(&self.inner);
        super::blocking(move || Ok(inner.end_check(check))).await
    }
}

/// What is hashed at one time, in bytes.
const STEP_BYTES: u64 = 1 << 20;

/// A blob that is being hashed.
struct Check {
    digest: Digest,
    file: File,
    hasher: Hasher,
    bytes: u64,
}

enum Step {
    Read(u64),
    Unreadable,
    End,
}

impl Check {
    fn step(&mut self) -> std::io::Result<Step> {
        let mut buffer = vec![0; 256 << 10];
        let begin = self.bytes;
        while self.bytes - begin < STEP_BYTES {
            let count = self.file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            self.hasher.update(&buffer[..count]);
            self.bytes += count as u64;
        }
        Ok(if self.bytes == begin { Step::End } else { Step::Read(self.bytes - begin) })
    }
}

impl Inner {
    fn begin_check(&self, digest: &Digest) -> Result<Option<Check>, StoreError> {
        let file = self.open_file(digest)?;
        Ok(file.map(|file| Check { digest: *digest, file, hasher: Hasher::new(digest.algorithm()), bytes: 0 }))
    }

    fn end_check(&self, check: Check) -> Checked {
        let Check { digest, file, hasher, bytes } = check;
        if hasher.finish() == digest {
            return Checked::Good { bytes };
        }
        let inode = |meta: std::io::Result<fs::Metadata>| meta.ok().map(|meta| meta.ino());
        if inode(file.metadata()) != inode(fs::metadata(self.layout.blob(&digest))) {
            // It was quarantined and fetched again meanwhile; what is there now is another file.
            return Checked::Missing;
        }
        self.quarantine(&digest, "its content has another digest");
        Checked::Bad { bytes }
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
        *self.last_quarantined.lock().unwrap_or_else(PoisonError::into_inner) = Some(*digest);
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
