//! Deleting one image: its name, what only it has, and nothing else.
//!
//! What stays: manifests and blobs that another tag or manifest of the repository, or any other repository, references.
//!
//! Crash states. The index forgets first and is flushed; then files go: the tag's record, the records of manifests, blobs, each group
//! synced before the next. So what a crash leaves is a prefix of:
//! * rows gone, all files there: the walk at the next start finds the image again, whole;
//! * the tag gone: its manifests are held by digest, whole;
//! * records of manifests gone too: their blobs lie there without a reference, and harm nobody;
//! * everything gone.
//!
//! In none of them does a record name a manifest that is not on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::error::StoreError;
use super::index::Table;
use super::layout::{digest_key, digest_of_key, in_repository, repository_prefix};
use super::record::{TagRecord, decode};
use super::{Inner, Store, files};
use crate::oci::{Digest, Manifest, Repository, Target};

/// What became of an image that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone, and with it so much.
    Removed {
        /// What its blobs took, manifests included.
        bytes: u64,
        /// How many files these were.
        blobs: usize,
    },
    /// It was used at this time, which is too late.
    Used(u64),
    /// It is not here, or only as a part of something else that stays.
    Absent,
    /// The directory is still being walked, so nobody knows yet what references what.
    NotYet,
}

impl Store {
    /// Deletes an image unless it was used later than `unused_since`. Manifests of the repository in `needed` stay, with all they need.
    ///
    /// Who reads a blob of it at the moment goes on reading.
    ///
    /// # Errors
    /// When the disk fails; what is left then is as sound as after a crash.
    pub async fn remove_image(
        &self,
        repository: &Repository,
        target: &Target,
        unused_since: u64,
        needed: Vec<Digest>,
    ) -> Result<Removal, StoreError> {
        if !self.inner.knows_all() {
            // The walk takes its time, and whoever waits behind us would wait for it too.
            return Ok(Removal::NotYet);
        }
        // Nobody gives a name to a manifest meanwhile.
        let naming = self.inner.naming.write().await;
        if !self.inner.knows_all() {
            return Ok(Removal::NotYet);
        }
        let inner = Arc::clone(&self.inner);
        let (repository, target) = (repository.clone(), target.clone());
        let removed = super::blocking(move || inner.remove_image(&repository, &target, unused_since, &needed)).await;
        drop(naming);
        removed
    }
}

/// Manifests and everything that they reference.
#[derive(Debug, Default)]
struct Closure {
    /// Manifests in the order in which they were found, the roots first.
    manifests: Vec<Digest>,
    digests: BTreeSet<Digest>,
    /// The subject of each referrer among the manifests.
    subjects: BTreeMap<Digest, Digest>,
    /// The bytes of each manifest could be read: nothing is missing here.
    certain: bool,
}

impl Inner {
    fn remove_image(&self, repository: &Repository, target: &Target, unused_since: u64, needed: &[Digest]) -> Result<Removal, StoreError> {
        let manifests = self.manifests_of(repository);
        let root = match target {
            Target::Tag(tag) => {
                let row = self.index.get(Table::Tags, &in_repository(repository, tag.as_str().as_bytes()));
                row.and_then(|bytes| decode::<TagRecord>(&bytes)).map(|record| record.digest)
            }
            Target::Digest(digest) => manifests.contains(digest).then_some(*digest),
        };
        let Some(root) = root else {
            return Ok(Removal::Absent);
        };
        let used = self.used(&root);
        if used > unused_since {
            return Ok(Removal::Used(used));
        }
        let own = self.closure([root], &manifests);
        let tags = self.tag_digests(repository, target);
        let others = manifests.iter().filter(|digest| !own.digests.contains(digest)).copied();
        let stays = self.closure(tags.into_iter().chain(others).chain(needed.iter().copied()), &manifests);
        if matches!(target, Target::Digest(_)) && stays.digests.contains(&root) {
            return Ok(Removal::Absent);
        }
        let gone: Vec<Digest> = own.manifests.iter().filter(|digest| !stays.digests.contains(digest)).copied().collect();
        let mut orphans: BTreeSet<Digest> = own.digests.iter().filter(|digest| !stays.digests.contains(digest)).copied().collect();
        if !stays.certain {
            // One that cannot be read may need any of them.
            orphans.clear();
        }
        self.forget_names(repository, target, &gone, &orphans, &own.subjects);
        self.spare_what_others_need(&mut orphans);
        let bytes = orphans.iter().filter_map(|digest| self.blob_record(digest)).map(|record| record.size).sum();
        orphans.iter().for_each(|digest| self.forget_blob(digest));
        self.index.flush();
        self.changes.name();
        self.delete_records(repository, target, &gone)?;
        for digest in &orphans {
            self.delete_blob(digest)?;
        }
        Ok(Removal::Removed { bytes, blobs: orphans.len() })
    }

    fn used(&self, digest: &Digest) -> u64 {
        let touched = self.touched().get(digest).copied();
        touched.or_else(|| self.blob_record(digest).map(|record| record.used)).unwrap_or(0)
    }

    fn manifests_of(&self, repository: &Repository) -> BTreeSet<Digest> {
        let prefix = repository_prefix(repository);
        let rows = self.index.scan(Table::Manifests, &prefix);
        rows.into_iter().filter_map(|(key, _)| digest_of_key(&key[prefix.len()..])).collect()
    }

    /// What the repository's tags mean, but for the one that goes.
    fn tag_digests(&self, repository: &Repository, target: &Target) -> Vec<Digest> {
        let prefix = repository_prefix(repository);
        let goes = match target {
            Target::Tag(tag) => tag.as_str().as_bytes(),
            Target::Digest(_) => b"",
        };
        let rows = self.index.scan(Table::Tags, &prefix).into_iter().filter(|(key, _)| key[prefix.len()..] != *goes);
        rows.filter_map(|(_, value)| Some(decode::<TagRecord>(&value)?.digest)).collect()
    }

    fn closure(&self, roots: impl IntoIterator<Item = Digest>, known: &BTreeSet<Digest>) -> Closure {
        let mut closure = Closure { certain: true, ..Closure::default() };
        let mut open: Vec<Digest> = roots.into_iter().collect();
        open.reverse();
        while let Some(digest) = open.pop() {
            if !closure.digests.insert(digest) {
                continue;
            }
            closure.manifests.push(digest);
            let bytes = self.small.get(&digest).or_else(|| self.read_verified(&digest).ok().flatten());
            let Some(manifest) = bytes.and_then(|bytes| Manifest::parse(&bytes).ok()) else {
                // A child that never came needs nothing.
                closure.certain &= !known.contains(&digest);
                continue;
            };
            if let Some(subject) = manifest.subject {
                closure.subjects.insert(digest, subject);
            }
            for child in manifest.children {
                if child.is_manifest {
                    open.push(child.digest);
                } else {
                    closure.digests.insert(child.digest);
                }
            }
        }
        closure
    }

    /// Takes out of the index what the repository has no more.
    fn forget_names(
        &self,
        repository: &Repository,
        target: &Target,
        gone: &[Digest],
        orphans: &BTreeSet<Digest>,
        subjects: &BTreeMap<Digest, Digest>,
    ) {
        if let Target::Tag(tag) = target {
            self.index.remove(Table::Tags, &in_repository(repository, tag.as_str().as_bytes()));
        }
        for digest in gone {
            self.index.remove(Table::Manifests, &in_repository(repository, &digest_key(digest)));
            if let Some(subject) = subjects.get(digest) {
                let mut key = in_repository(repository, &digest_key(subject));
                key.extend(digest_key(digest));
                self.index.remove(Table::Referrers, &key);
            }
        }
        for digest in orphans {
            self.index.remove(Table::Links, &in_repository(repository, &digest_key(digest)));
        }
    }

    /// Takes out of `orphans` what some repository still references.
    fn spare_what_others_need(&self, orphans: &mut BTreeSet<Digest>) {
        for table in [Table::Links, Table::Manifests] {
            self.index.each(table, &mut |key, _| {
                let digest = key.iter().position(|byte| *byte == 0).and_then(|zero| digest_of_key(&key[zero + 1..]));
                if let Some(digest) = digest {
                    orphans.remove(&digest);
                }
            });
        }
        self.index.each(Table::Tags, &mut |_, value| {
            if let Some(record) = decode::<TagRecord>(value) {
                orphans.remove(&record.digest);
            }
        });
    }

    fn delete_records(&self, repository: &Repository, target: &Target, gone: &[Digest]) -> Result<(), StoreError> {
        if let Target::Tag(tag) = target {
            delete(&[self.layout.tag(repository, tag)])?;
        }
        let paths: Vec<PathBuf> = gone.iter().map(|digest| self.layout.manifest(repository, digest)).collect();
        delete(&paths)?;
        // Directories that are empty now; one that is not stays, and so do those above it.
        let mut dir = self.layout.tag_dir(repository);
        let _ = fs::remove_dir(&dir);
        dir = self.layout.manifest_dir(repository);
        while dir.starts_with(self.layout.refs()) && dir != self.layout.refs() && fs::remove_dir(&dir).is_ok() {
            dir.pop();
        }
        Ok(())
    }

    /// Unlinks a blob that the index has forgotten, unless it was committed anew meanwhile.
    fn delete_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let _no_commit = self.committing.write().unwrap_or_else(PoisonError::into_inner);
        if self.blob_record(digest).is_some() {
            return Ok(());
        }
        let path = self.layout.blob(digest);
        unlink(&path)
    }
}

/// Deletes files of one directory, and makes that last.
fn delete(paths: &[PathBuf]) -> Result<(), StoreError> {
    paths.iter().try_for_each(|path| unlink(path))?;
    match paths.first().and_then(|path| path.parent()) {
        Some(dir) if dir.is_dir() => files::sync_dir(dir),
        _ => Ok(()),
    }
}

fn unlink(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("delete", path)(error)),
        _ => Ok(()),
    }
}
