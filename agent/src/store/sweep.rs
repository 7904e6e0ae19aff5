//! Blobs that no manifest references: what a pull left that was broken off, what a crash left of a deletion.
//!
//! They go after a grace period since they were last used: a client may fetch layers first and their manifest last. What upstream said of a
//! blob that no manifest here names ([`Store::put_link`]) lets a repository serve it, and does not keep it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::StoreError;
use super::index::Table;
use super::layout::{digest_in_key, digest_key, digest_of_key, repository_in_key};
use super::record::{BlobRecord, LinkRecord, TagRecord, decode};
use super::{Inner, Store};
use crate::oci::{Digest, Repository};

/// What nothing references.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orphans {
    pub blobs: usize,
    pub bytes: u64,
}

impl Store {
    /// What nothing references and nobody used later than `unused_since`.
    ///
    /// # Errors
    /// None but the runtime's own.
    pub async fn orphans(&self, unused_since: u64) -> Result<Orphans, StoreError> {
        let inner = Arc::clone(&self.inner);
        super::blocking(move || {
            let found = inner.find_orphans(unused_since);
            Ok(inner.sum(&found))
        })
        .await
    }

    /// Deletes what nothing references and nobody used later than `unused_since`.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn sweep(&self, unused_since: u64) -> Result<Orphans, StoreError> {
        // Mostly there are none, and nobody has to wait for a look.
        if !self.inner.knows_all() || self.orphans(unused_since).await?.blobs == 0 {
            return Ok(Orphans::default());
        }
        let inner = Arc::clone(&self.inner);
        self.delete_in_order(move || {
            inner.probe()?;
            let orphans = inner.find_orphans(unused_since);
            if !inner.knows_all() {
                // The index broke meanwhile: it may lack what references them.
                return Ok((Orphans::default(), BTreeSet::new()));
            }
            let swept = inner.sum(&orphans);
            inner.forget_orphans(&orphans);
            Ok((swept, orphans))
        })
        .await
    }
}

impl Inner {
    fn find_orphans(&self, unused_since: u64) -> BTreeSet<Digest> {
        let mut orphans = BTreeSet::new();
        self.index.each(Table::Blobs, &mut |key, value| {
            if decode::<BlobRecord>(value).is_some_and(|record| record.used <= unused_since) {
                orphans.extend(digest_of_key(key));
            }
        });
        for (digest, used) in &*self.touched() {
            if *used > unused_since {
                orphans.remove(digest);
            }
        }
        for table in [Table::Links, Table::Manifests] {
            if orphans.is_empty() {
                return orphans;
            }
            self.index.each(table, &mut |key, value| {
                if let Some(digest) = digest_in_key(key)
                    && orphans.contains(&digest)
                    && !(table == Table::Links && is_unfounded(value))
                {
                    orphans.remove(&digest);
                }
            });
        }
        self.index.each(Table::Tags, &mut |_, value| {
            if let Some(record) = decode::<TagRecord>(value) {
                orphans.remove(&record.digest);
            }
        });
        orphans
    }

    fn sum(&self, orphans: &BTreeSet<Digest>) -> Orphans {
        let bytes = orphans.iter().filter_map(|digest| self.blob_record(digest)).map(|record| record.size).sum();
        Orphans { blobs: orphans.len(), bytes }
    }

    fn forget_orphans(&self, orphans: &BTreeSet<Digest>) {
        let mut links = Vec::new();
        self.index.each(Table::Links, &mut |key, _| {
            if digest_in_key(key).is_some_and(|digest| orphans.contains(&digest)) {
                links.push(key.to_vec());
            }
        });
        for key in links {
            self.index.remove(Table::Links, &key);
        }
        orphans.iter().for_each(|digest| self.forget_blob(digest));
        self.index.flush();
    }

    /// The repositories that reference a blob, or have it as a manifest; those that have it so come first.
    pub(super) fn repositories_of(&self, digest: &Digest) -> Vec<Reference> {
        let wanted = digest_key(digest);
        let mut found = Vec::new();
        for table in [Table::Manifests, Table::Links] {
            let is_manifest = table == Table::Manifests;
            self.index.each(table, &mut |key, value| {
                if key.iter().position(|byte| *byte == 0).is_none_or(|zero| key[zero + 1..] != *wanted) {
                    return;
                }
                // What cannot be read proves nothing.
                let link: Option<LinkRecord> = if is_manifest { Some(LinkRecord::default()) } else { decode(value) };
                let (is_claimed, is_recovered) = link.map_or((true, false), |link| (link.claimed, link.recovered));
                found.extend(repository_in_key(key).map(|repository| Reference { repository, is_manifest, is_claimed, is_recovered }));
            });
        }
        found
    }
}

/// How a repository references a blob.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) repository: Repository,
    /// It is a manifest of the repository.
    pub(super) is_manifest: bool,
    /// Only a manifest, or upstream's word, says so: see [`LinkRecord::claimed`].
    pub(super) is_claimed: bool,
    /// See [`LinkRecord::recovered`].
    pub(super) is_recovered: bool,
}

/// A link that no manifest is the reason of.
fn is_unfounded(value: &[u8]) -> bool {
    decode::<LinkRecord>(value).is_some_and(|link| link.unfounded)
}
