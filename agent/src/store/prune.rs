//! The other half of bringing the index up to date: what it knows and the directory has not.
//!
//! An index may know more than the disk for two reasons. The disk refused what was served all the same (`cache/unkept.rs`): what can be
//! written now is written. Or the index was left behind while another was kept in memory, and knows what has gone since: that goes.
//!
//! Nobody names a manifest meanwhile.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::closure::Read;
use super::error::StoreError;
use super::index::Table;
use super::layout::{digest_key, digest_of_key, in_repository, repository_prefix};
use super::record::{LinkRecord, decode};
use super::{Inner, manifests, refs};
use crate::oci::Repository;
use crate::telemetry;

/// Has the index and the directory say the same of blobs, manifests and tags, after a walk. Blocks.
pub(super) fn prune(inner: &Inner) {
    for digest in inner.committed() {
        let _no_commit = inner.committing.write().unwrap_or_else(PoisonError::into_inner);
        if !inner.layout.blob(&digest).exists() {
            inner.forget_blob(&digest);
        }
    }
    let catalogue = manifests::catalogue(inner);
    let mut losers = BTreeSet::new();
    // Before the tags: a record never names a manifest that is not on disk.
    for (repository, digest, record) in &catalogue.manifests {
        if inner.layout.manifest(repository, digest).exists() {
            continue;
        }
        if inner.layout.blob(digest).exists() {
            told(inner, repository, refs::write_manifest(&inner.layout, repository, digest, record));
        } else {
            inner.index.remove(Table::Manifests, &in_repository(repository, &digest_key(digest)));
            losers.insert(repository);
        }
    }
    for (repository, tag, record) in &catalogue.tags {
        if inner.layout.tag(repository, tag).exists() {
            continue;
        }
        if inner.layout.blob(&record.digest).exists() {
            told(inner, repository, refs::write_tag(&inner.layout, repository, tag, record));
        } else {
            inner.index.remove(Table::Tags, &in_repository(repository, tag.as_str().as_bytes()));
        }
    }
    losers.into_iter().for_each(|repository| inner.forget_links(repository));
    inner.index.flush();
}

/// What the disk refuses once more stays in the index, and is due at the next start.
fn told(inner: &Inner, repository: &Repository, written: Result<bool, StoreError>) {
    if let Err(error) = written {
        inner.is_ahead.store(true, Ordering::SeqCst);
        let error = telemetry::chain(&error);
        tracing::warn!(%repository, error, "the disk still refuses the record of a manifest that was served");
    }
}

impl Inner {
    /// Takes out what no manifest of the repository references any more, unless one cannot be read: that one may.
    fn forget_links(&self, repository: &Repository) {
        let manifests = self.manifests_of(repository);
        let closure = self.closure(manifests.iter().copied(), &manifests, &mut Read::default());
        if !closure.certain {
            return;
        }
        let prefix = repository_prefix(repository);
        for (key, value) in self.index.scan(Table::Links, &prefix) {
            let is_needed = digest_of_key(&key[prefix.len()..]).is_some_and(|digest| closure.digests.contains(&digest));
            if !is_needed && !decode::<LinkRecord>(&value).is_some_and(|link| link.unfounded) {
                self.index.remove(Table::Links, &key);
            }
        }
    }
}
