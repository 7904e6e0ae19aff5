//! Telling the index what the directory has: after an unclean stop, and when the index was lost.
//!
//! It runs behind serving. A look-up that misses while it runs asks the directory itself (`find.rs`), which may well have what the index
//! does not know yet.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::index::Table;
use super::layout::{self, digest_in_key, digest_key, in_repository};
use super::record::{BlobRecord, LinkRecord, ManifestRecord, TagRecord, decode, encode};
use super::refs::{self, Visitor};
use super::{Inner, manifests};
use crate::oci::{Digest, Manifest, Repository, Tag};

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) blobs: usize,
    pub(super) manifests: usize,
    pub(super) tags: usize,
}

/// Adds to the index what the directory has and it lacks. Blocks.
///
/// Blobs come last: until then it is known which of them the index lacked, also after another unclean stop.
pub(super) fn reindex(inner: &Inner) -> Found {
    let (blobs, new) = look_for_blobs(inner);
    let mut found = Found { blobs, ..Found::default() };
    recover_claims(inner, &new);
    refs::walk(&inner.layout, &mut Walk { inner, found: &mut found });
    for (digest, record) in &new {
        let key = digest_key(digest);
        if inner.index.get(Table::Blobs, &key).is_none() {
            inner.index.put(Table::Blobs, &key, encode(record));
        }
    }
    inner.index.flush();
    found
}

/// How many blobs there are, and those that the index lacks.
fn look_for_blobs(inner: &Inner) -> (usize, BTreeMap<Digest, BlobRecord>) {
    let (mut count, mut new) = (0, BTreeMap::new());
    for (algorithm, algorithm_dir) in list(&inner.layout.blobs()) {
        for (_, shard) in list(&algorithm_dir) {
            for (hex, path) in list(&shard) {
                let Some(digest) = layout::digest_of_blob(&algorithm, &hex) else {
                    continue;
                };
                let Ok(meta) = fs::metadata(&path) else {
                    continue;
                };
                count += 1;
                if inner.index.get(Table::Blobs, &digest_key(&digest)).is_none() {
                    let used = u64::try_from(meta.mtime()).unwrap_or(0);
                    new.insert(digest, BlobRecord { size: meta.len(), used });
                }
            }
        }
    }
    // What was committed a moment ago had its file before its row.
    new.retain(|digest, _| inner.index.get(Table::Blobs, &digest_key(digest)).is_none());
    (count, new)
}

/// The index may have lost that something came: what is only claimed may have. Not where it still has the blob, which it learns after where
/// that came from.
fn recover_claims(inner: &Inner, new: &BTreeMap<Digest, BlobRecord>) {
    let mut claims = Vec::new();
    inner.index.each(Table::Links, &mut |key, value| {
        if digest_in_key(key).is_some_and(|digest| new.contains_key(&digest))
            && decode::<LinkRecord>(value).is_some_and(|link| link.claimed && !link.recovered)
        {
            claims.push(key.to_vec());
        }
    });
    for key in claims {
        inner.update_claim(&key, true, true);
    }
}

fn list(dir: &Path) -> Vec<(String, std::path::PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries.flatten().filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

/// Enters what it visits into the index.
pub(super) struct Walk<'a> {
    pub(super) inner: &'a Inner,
    pub(super) found: &'a mut Found,
}

impl Visitor for Walk<'_> {
    fn wants(&mut self, repository: &Repository, digest: &Digest) -> bool {
        self.found.manifests += 1;
        self.inner.index.get(Table::Manifests, &in_repository(repository, &digest_key(digest))).is_none()
    }

    fn manifest(&mut self, repository: &Repository, digest: &Digest, record: ManifestRecord) {
        match self.inner.read_verified(digest) {
            Ok(Some(bytes)) => match Manifest::parse(&bytes) {
                Ok(manifest) => manifests::index(self.inner, repository, digest, &record, &manifest, true),
                Err(error) => tracing::warn!(%repository, %digest, %error, "a stored manifest cannot be read"),
            },
            Ok(None) => tracing::warn!(%repository, %digest, "a manifest that the repository had is missing"),
            Err(error) => tracing::warn!(%repository, %digest, %error, "a stored manifest cannot be read"),
        }
    }

    fn tag(&mut self, repository: &Repository, tag: &Tag, record: TagRecord) {
        self.found.tags += 1;
        let key = in_repository(repository, tag.as_str().as_bytes());
        let known: Option<TagRecord> = self.inner.index.get(Table::Tags, &key).and_then(|bytes| decode(&bytes));
        if known.is_some_and(|known| known.validated_at >= record.validated_at) {
            return;
        }
        self.inner.index.put(Table::Tags, &key, encode(&record));
    }
}
