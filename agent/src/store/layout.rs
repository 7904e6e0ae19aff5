//! Every path below the data directory and every key of the index is made here and nowhere else.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::oci::{Algorithm, Digest, Repository, Tag};

/// Where things are below one data directory.
///
/// ```text
/// VERSION                                   format of everything below
/// LOCK                                      held while an agent runs; holds its process id
/// CLEAN                                     there after an orderly shutdown; what the index held then
/// INDEX_BROKEN                              there if the index broke while it was in use
/// blobs/<algorithm>/<2 hex digits>/<hex>    committed, verified, immutable; manifests too
/// tmp/<unique>                              being filled; deleted at start-up
/// quarantine/<algorithm>-<hex>              bytes that did not match their digest
/// refs/<registry>/<name>/_tags/<tag>        which manifest a tag meant last
/// refs/<registry>/<name>/_manifests/<algorithm>-<hex>    which manifests a repository has
/// index/                                    sled
/// control/<name>.json                       what the control API said last
/// ```
/// No part of a repository's name begins with `_`, so `_tags` and `_manifests` cannot be mistaken for one.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    /// In a container every process has the same id, so the time of the start goes into the names of temporary files too.
    run: String,
    unique: AtomicU64,
}

pub(super) const TAGS_DIR: &str = "_tags";
pub(super) const MANIFESTS_DIR: &str = "_manifests";

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = format!("{}-{:x}", std::process::id(), now.as_nanos());
        Self { root: root.to_owned(), run, unique: AtomicU64::new(0) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn version(&self) -> PathBuf {
        self.root.join("VERSION")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }

    pub(super) fn clean(&self) -> PathBuf {
        self.root.join("CLEAN")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(super) fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    pub(super) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// There if the index broke while it was in use.
    pub(super) fn index_broken(&self) -> PathBuf {
        self.root.join("INDEX_BROKEN")
    }

    /// Where a broken index is moved.
    pub(super) fn index_aside(&self) -> PathBuf {
        self.root.join("index.bad")
    }

    /// A path below `tmp/` that this process has not used yet.
    pub(super) fn new_temporary(&self) -> PathBuf {
        let number = self.unique.fetch_add(1, Ordering::Relaxed);
        self.temporary().join(format!("{}-{number}", self.run))
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let mut path = self.blobs();
        path.push(digest.algorithm().as_str());
        path.push(&hex[..2]);
        path.push(&hex);
        path
    }

    pub(super) fn quarantined(&self, digest: &Digest) -> PathBuf {
        self.quarantine().join(file_name(digest))
    }

    pub(super) fn tag(&self, repository: &Repository, tag: &Tag) -> PathBuf {
        let mut path = self.repository(repository);
        path.push(TAGS_DIR);
        path.push(tag.as_str());
        path
    }

    pub(super) fn manifest(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        let mut path = self.repository(repository);
        path.push(MANIFESTS_DIR);
        path.push(file_name(digest));
        path
    }

    pub(super) fn tag_dir(&self, repository: &Repository) -> PathBuf {
        self.repository(repository).join(TAGS_DIR)
    }

    pub(super) fn manifest_dir(&self, repository: &Repository) -> PathBuf {
        self.repository(repository).join(MANIFESTS_DIR)
    }

    pub(super) fn notes(&self) -> PathBuf {
        self.root.join("control")
    }

    pub(super) fn note(&self, name: &str) -> PathBuf {
        self.notes().join(format!("{name}.json"))
    }

    fn repository(&self, repository: &Repository) -> PathBuf {
        self.refs().join(repository.to_path())
    }
}

fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// Reads the name of a file below `_manifests/`.
pub(super) fn digest_of_file_name(name: &str) -> Option<Digest> {
    name.replacen('-', ":", 1).parse().ok()
}

/// Reads the path of a blob from its two last parts.
pub(super) fn digest_of_blob(algorithm: &str, hex: &str) -> Option<Digest> {
    format!("{algorithm}:{hex}").parse().ok()
}

/// Index key of a digest: one byte for the algorithm, then the raw bytes.
pub(super) fn digest_key(digest: &Digest) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + digest.as_bytes().len());
    key.push(match digest.algorithm() {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    });
    key.extend_from_slice(digest.as_bytes());
    key
}

/// Reads what [`digest_key`] wrote.
pub(super) fn digest_of_key(key: &[u8]) -> Option<Digest> {
    match key.split_first()? {
        (1, bytes) => Digest::from_bytes(Algorithm::Sha256, bytes),
        (2, bytes) => Digest::from_bytes(Algorithm::Sha512, bytes),
        _ => None,
    }
}

/// The repository in a key that begins with one.
pub(super) fn repository_in_key(key: &[u8]) -> Option<Repository> {
    let zero = key.iter().position(|byte| *byte == 0)?;
    Repository::from_path(std::str::from_utf8(&key[..zero]).ok()?).ok()
}

/// The digest in a key that begins with a repository.
pub(super) fn digest_in_key(key: &[u8]) -> Option<Digest> {
    let zero = key.iter().position(|byte| *byte == 0)?;
    digest_of_key(&key[zero + 1..])
}

/// Index key of everything that belongs to a repository begins with this: its path and a zero byte.
pub(super) fn repository_prefix(repository: &Repository) -> Vec<u8> {
    let mut key = repository.to_path().into_bytes();
    key.push(0);
    key
}

/// Index key of something within a repository.
pub(super) fn in_repository(repository: &Repository, rest: &[u8]) -> Vec<u8> {
    let mut key = repository_prefix(repository);
    key.extend_from_slice(rest);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_of_digests_can_be_read_back() {
        for text in [format!("sha256:{}", "0a".repeat(32)), format!("sha512:{}", "0b".repeat(64))] {
            let digest: Digest = text.parse().unwrap();
            assert_eq!(digest_of_key(&digest_key(&digest)), Some(digest));
            assert_eq!(digest_of_file_name(&file_name(&digest)), Some(digest));
        }
        assert_eq!(digest_of_key(&[]), None);
        assert_eq!(digest_of_key(&[1, 2, 3]), None);
        assert_eq!(digest_of_file_name("x"), None);
    }
}
