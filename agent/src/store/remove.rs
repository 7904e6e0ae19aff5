//! Deleting images: their names, what only they have, and nothing else.
//!
//! What stays: manifests and blobs that another tag or manifest of the repository, or any other repository, references.
//!
//! Many images are deleted in one go, because finding out what nobody else references takes a look at everything.
//!
//! Crash states. The index forgets first and is flushed; then files go: tags' records, the records of manifests, blobs, each group
//! synced before the next. So what a crash leaves is a prefix of:
//! * rows gone, all files there: the walk at the next start finds the images again, whole;
//! * tags gone: their manifests are held by digest, whole;
//! * records of manifests gone too: their blobs lie there without a reference, until `sweep.rs` finds them;
//! * everything gone.
//!
//! In none of them does a record name a manifest that is not on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::closure::{Closure, Read};
use super::delete::unlink;
use super::error::StoreError;
use super::heirs::Lost;
use super::index::Table;
use super::layout::{digest_in_key, digest_key, digest_of_key, in_repository, repository_prefix};
use super::record::{TagRecord, decode};
use super::{Inner, Store, files};
use crate::oci::{Digest, Repository, Target};

/// An image that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    pub repository: Repository,
    pub target: Target,
    /// It stays if it was used later than this.
    pub unused_since: u64,
    /// It stays where a manifest of its repository cannot be read: what that one needs is not known, so that nothing could be freed. If not,
    /// its names go all the same.
    pub only_if_certain: bool,
    /// Everybody may have it: who only claims what came with it may go on giving that.
    pub is_open: bool,
}

/// What became of an image that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone, and with it so much.
    Removed {
        /// What its blobs took, manifests included; what it shared with another that went along counts for the first of them.
        bytes: u64,
        /// How many files these were.
        blobs: usize,
    },
    /// It was used at this time, which is too late.
    Used(u64),
    /// It is not here, or only as a part of something else that stays.
    Absent,
    /// It stays, since a manifest beside it cannot be read.
    Uncertain,
    /// The directory is still being walked, so nobody knows yet what references what.
    NotYet,
}

impl Store {
    /// Deletes images, but for those used later than they may have been. Manifests in `needed` stay, with all they need.
    ///
    /// Who reads a blob of them at the moment goes on reading.
    ///
    /// # Errors
    /// When the disk fails; what is left then is as sound as after a crash.
    pub async fn remove_images(&self, victims: Vec<Victim>, needed: Vec<(Repository, Digest)>) -> Result<Vec<Removal>, StoreError> {
        if !self.inner.knows_all() {
            // The walk takes its time, and whoever waits behind us would wait for it too.
            return Ok(vec![Removal::NotYet; victims.len()]);
        }
        let inner = Arc::clone(&self.inner);
        self.delete_in_order(move || {
            inner.probe()?;
            inner.forget_images(&victims, &needed)
        })
        .await
    }

    /// Deletes one image. Manifests of its repository that are in `needed` stay, with all they need.
    ///
    /// # Errors
    /// As for [`Store::remove_images`].
    pub async fn remove_image(&self, victim: Victim, needed: Vec<Digest>) -> Result<Removal, StoreError> {
        let needed = needed.into_iter().map(|digest| (victim.repository.clone(), digest)).collect();
        let removals = self.remove_images(vec![victim], needed).await?;
        Ok(removals.first().copied().unwrap_or(Removal::Absent))
    }
}

/// An image that goes, and the manifest that it means.
struct Going<'a> {
    /// Its place in the list of victims.
    nth: usize,
    target: &'a Target,
    root: Digest,
    only_if_certain: bool,
    is_open: bool,
}

/// What one repository loses.
struct Loss<'a> {
    repository: &'a Repository,
    going: Vec<Going<'a>>,
    own: Closure,
    /// Manifests that the repository has no more.
    gone: Vec<Digest>,
    /// What it references no more.
    orphans: BTreeSet<Digest>,
}

impl Loss<'_> {
    /// Everybody may have what goes.
    fn is_open(&self) -> bool {
        self.going.iter().all(|going| going.is_open)
    }
}

impl Inner {
    /// Has the index and the records forget images; what remains to be deleted are the blobs.
    fn forget_images(&self, victims: &[Victim], needed: &[(Repository, Digest)]) -> Result<(Vec<Removal>, BTreeSet<Digest>), StoreError> {
        let mut removals = vec![Removal::Absent; victims.len()];
        if !self.knows_all() {
            return Ok((vec![Removal::NotYet; victims.len()], BTreeSet::new()));
        }
        let mut by_repository: BTreeMap<&Repository, Vec<usize>> = BTreeMap::new();
        victims.iter().enumerate().for_each(|(nth, victim)| by_repository.entry(&victim.repository).or_default().push(nth));
        let mut read = Read::default();
        let mut losses = Vec::new();
        for (repository, nths) in by_repository {
            let going = nths.into_iter().filter_map(|nth| self.going(nth, &victims[nth], &mut removals)).collect();
            let needed = needed.iter().filter(|(of, _)| of == repository).map(|(_, digest)| *digest);
            losses.push(self.loss(repository, going, (&needed.collect::<Vec<_>>(), &mut read), &mut removals));
        }
        if !self.index.is_sound() {
            // It broke meanwhile: what was read from it may lack rows.
            return Ok((vec![Removal::NotYet; victims.len()], BTreeSet::new()));
        }
        let mut lost = Lost::default();
        losses.iter().for_each(|loss| self.note_lost(&mut lost, loss.repository, &loss.orphans, loss.is_open()));
        losses.iter().for_each(|loss| self.forget_names(loss));
        self.settle_claims(&lost);
        let mut orphans: BTreeSet<Digest> = losses.iter().flat_map(|loss| &loss.orphans).copied().collect();
        self.spare_what_others_need(&mut orphans);
        if !self.index.is_sound() {
            orphans.clear();
        }
        let mut counted = BTreeSet::new();
        for loss in &losses {
            self.count(loss, &orphans, &mut counted, &mut read, &mut removals);
        }
        orphans.iter().for_each(|digest| self.forget_blob(digest));
        self.index.flush();
        self.changes.name();
        losses.iter().try_for_each(|loss| self.delete_tags(loss))?;
        losses.iter().try_for_each(|loss| self.delete_manifests(loss))?;
        Ok((removals, orphans))
    }

    /// The image as it is now, unless it is not to go.
    fn going<'a>(&self, nth: usize, victim: &'a Victim, removals: &mut [Removal]) -> Option<Going<'a>> {
        let Victim { repository, target, unused_since, only_if_certain, is_open } = victim;
        let root = match target {
            Target::Tag(tag) => {
                let row = self.index.get(Table::Tags, &in_repository(repository, tag.as_str().as_bytes()));
                row.and_then(|bytes| decode::<TagRecord>(&bytes)).map(|record| record.digest)?
            }
            Target::Digest(digest) => {
                self.index.get(Table::Manifests, &in_repository(repository, &digest_key(digest)))?;
                *digest
            }
        };
        let used = self.used(&root);
        if used > *unused_since {
            removals[nth] = Removal::Used(used);
            return None;
        }
        Some(Going { nth, target, root, only_if_certain: *only_if_certain, is_open: *is_open })
    }

    /// What goes with these images, and what stays because others of the repository need it.
    fn loss<'a>(
        &self,
        repository: &'a Repository,
        mut going: Vec<Going<'a>>,
        (needed, read): (&[Digest], &mut Read),
        removals: &mut [Removal],
    ) -> Loss<'a> {
        let manifests = self.manifests_of(repository);
        loop {
            let own = self.closure(going.iter().map(|going| going.root), &manifests, read);
            let tags = self.tag_digests(repository, &going);
            let others = manifests.iter().filter(|digest| !own.digests.contains(digest)).copied();
            let stays = self.closure(tags.into_iter().chain(others).chain(needed.iter().copied()), &manifests, read);
            let before = going.len();
            // What is held by digest and is a part of what stays is not gone without that.
            going.retain(|going| !(matches!(going.target, Target::Digest(_)) && stays.digests.contains(&going.root)));
            if !stays.certain {
                going.iter().filter(|going| going.only_if_certain).for_each(|going| removals[going.nth] = Removal::Uncertain);
                going.retain(|going| !going.only_if_certain);
            }
            if going.len() < before {
                continue;
            }
            let gone = own.manifests.iter().filter(|digest| !stays.digests.contains(digest)).copied().collect();
            let mut orphans: BTreeSet<Digest> = own.digests.iter().filter(|digest| !stays.digests.contains(digest)).copied().collect();
            if !stays.certain {
                // One that cannot be read may need any of them.
                orphans.clear();
            }
            return Loss { repository, going, own, gone, orphans };
        }
    }

    /// Tells each image what went with it.
    fn count(
        &self,
        loss: &Loss<'_>,
        orphans: &BTreeSet<Digest>,
        counted: &mut BTreeSet<Digest>,
        read: &mut Read,
        removals: &mut [Removal],
    ) {
        for going in &loss.going {
            let (mut bytes, mut blobs) = (0, 0);
            for digest in self.closure([going.root], &BTreeSet::new(), read).digests {
                if orphans.contains(&digest) && counted.insert(digest) {
                    bytes += self.blob_record(&digest).map_or(0, |record| record.size);
                    blobs += 1;
                }
            }
            removals[going.nth] = Removal::Removed { bytes, blobs };
        }
    }

    fn used(&self, digest: &Digest) -> u64 {
        let touched = self.touched().get(digest).copied();
        touched.or_else(|| self.blob_record(digest).map(|record| record.used)).unwrap_or(0)
    }

    pub(super) fn manifests_of(&self, repository: &Repository) -> BTreeSet<Digest> {
        let prefix = repository_prefix(repository);
        let rows = self.index.scan(Table::Manifests, &prefix);
        rows.into_iter().filter_map(|(key, _)| digest_of_key(&key[prefix.len()..])).collect()
    }

    /// What the repository's tags mean, but for those that go.
    fn tag_digests(&self, repository: &Repository, going: &[Going<'_>]) -> Vec<Digest> {
        let prefix = repository_prefix(repository);
        let tags: BTreeSet<&[u8]> = going.iter().filter_map(|going| tag_of(going.target)).collect();
        let rows = self.index.scan(Table::Tags, &prefix).into_iter().filter(|(key, _)| !tags.contains(&key[prefix.len()..]));
        rows.filter_map(|(_, value)| Some(decode::<TagRecord>(&value)?.digest)).collect()
    }

    /// Takes out of the index what the repository has no more.
    fn forget_names(&self, loss: &Loss<'_>) {
        let Loss { repository, going, own, gone, orphans } = loss;
        for tag in going.iter().filter_map(|going| tag_of(going.target)) {
            self.index.remove(Table::Tags, &in_repository(repository, tag));
        }
        for digest in gone {
            self.index.remove(Table::Manifests, &in_repository(repository, &digest_key(digest)));
            if let Some(subject) = own.subjects.get(digest) {
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
                if let Some(digest) = digest_in_key(key) {
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

    fn delete_tags(&self, loss: &Loss<'_>) -> Result<(), StoreError> {
        let tags = loss.going.iter().filter_map(|going| match going.target {
            Target::Tag(tag) => Some(self.layout.tag(loss.repository, tag)),
            Target::Digest(_) => None,
        });
        self.delete_records(&tags.collect::<Vec<_>>())?;
        let _ = fs::remove_dir(self.layout.tag_dir(loss.repository));
        Ok(())
    }

    fn delete_manifests(&self, loss: &Loss<'_>) -> Result<(), StoreError> {
        let paths: Vec<PathBuf> = loss.gone.iter().map(|digest| self.layout.manifest(loss.repository, digest)).collect();
        self.delete_records(&paths)?;
        // Directories that are empty now; one that is not stays, and so do those above it.
        let mut dir = self.layout.manifest_dir(loss.repository);
        while dir.starts_with(self.layout.refs()) && dir != self.layout.refs() && fs::remove_dir(&dir).is_ok() {
            dir.pop();
        }
        Ok(())
    }

    /// Deletes records of one directory, and makes that last.
    fn delete_records(&self, paths: &[PathBuf]) -> Result<(), StoreError> {
        for path in paths {
            self.account.records_went(unlink(path)?.into());
        }
        match paths.first().and_then(|path| path.parent()) {
            Some(dir) if dir.is_dir() => files::sync_dir(dir),
            _ => Ok(()),
        }
    }
}

fn tag_of(target: &Target) -> Option<&[u8]> {
    match target {
        Target::Tag(tag) => Some(tag.as_str().as_bytes()),
        Target::Digest(_) => None,
    }
}
