//! Work on images that nobody asked for at the moment: asking upstream about a tag again, and whether an image is here as a whole.

use std::collections::BTreeSet;

use tokio::sync::mpsc;

use super::catalogue::DEPTH_MAX;
use super::error::CacheError;
use super::tags::{Confirmation, ConfirmationKey};
use super::warm::{Platforms, WarmEvent, choose};
use super::{Cache, flight};
use crate::oci::{Digest, Image, Manifest, Repository, Tag, Target};
use crate::requester::Requester;

/// What upstream said of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// It means what it meant.
    Same,
    /// It means another manifest, this one, which is here now.
    Moved(Digest),
    /// It did not confirm the tag, for this reason; the tag stays as it was.
    Unconfirmed(String),
    /// The tag is not known here.
    Absent,
}

impl Cache {
    /// Asks upstream about a tag that is known here, however lately it was asked, and waits for the answer.
    pub async fn refresh(&self, repository: &Repository, tag: &Tag) -> Refreshed {
        let Some(record) = self.store.tag(repository, tag) else {
            return Refreshed::Absent;
        };
        let (cache, digest) = (self.clone(), record.digest);
        let key = (Requester::Agent, repository.clone(), tag.clone());
        let lead = |landing: flight::Landing<ConfirmationKey, Confirmation>| async move {
            let (by, repository, tag) = key;
            landing.finish(cache.revalidate(&by, &repository, &tag, &digest).await);
        };
        match self.confirmations.join((Requester::Agent, repository.clone(), tag.clone()), lead).await {
            Ok(Confirmation::Same) => Refreshed::Same,
            Ok(Confirmation::Moved(answer)) => Refreshed::Moved(answer.digest),
            Ok(Confirmation::Unconfirmed { reason, .. }) => Refreshed::Unconfirmed(reason),
            Err(error) => Refreshed::Unconfirmed(error.to_string()),
        }
    }

    /// Fetches what had wrong bytes here again, for a repository that references it; `false` if none does. It was last asked for at `used`.
    ///
    /// # Errors
    /// When upstream does not give it, or the disk does not take it.
    pub async fn refetch(&self, digest: &Digest, used: Option<u64>) -> Result<bool, CacheError> {
        let Some((repository, is_manifest)) = self.store.repository_of(digest).await? else {
            return Ok(false);
        };
        if is_manifest {
            self.fetch_manifest(&Requester::Agent, &repository, &Target::Digest(*digest)).await?;
        } else {
            self.fetch_blob(&repository, digest).await?;
        }
        used.into_iter().for_each(|used| self.store.set_used(digest, used));
        Ok(true)
    }

    /// Fetches an image; no progress, only the outcome.
    ///
    /// # Errors
    /// When a part of it cannot be had, or cannot be stored.
    pub async fn fetch(&self, image: &Image, platforms: &Platforms) -> Result<(), CacheError> {
        let (events, mut progress) = mpsc::channel(16);
        let listen = async { while progress.recv().await.is_some() {} };
        let (outcome, ()) = tokio::join!(
            async {
                let outcome = self.warm_all(image, platforms, &events).await;
                drop(events);
                outcome
            },
            listen
        );
        match outcome? {
            WarmEvent::Error { message } => Err(CacheError::Store(message)),
            WarmEvent::Manifest { .. } | WarmEvent::Blob { .. } | WarmEvent::Done { .. } => Ok(()),
        }
    }

    /// Whether everything that [`Cache::fetch`] would fetch is here. Asks nobody.
    pub async fn is_whole(&self, image: &Image, platforms: &Platforms) -> bool {
        let repository = image.repository();
        let root = match image.target() {
            Target::Tag(tag) => match self.store.tag(repository, &tag) {
                Some(record) => record.digest,
                None => return false,
            },
            Target::Digest(digest) => digest,
        };
        let mut seen = BTreeSet::from([root]);
        let mut open = vec![(root, 0)];
        while let Some((digest, depth)) = open.pop() {
            let Some(manifest) = self.own_manifest(repository, &digest).await else {
                return false;
            };
            for child in choose(&manifest, platforms) {
                if !seen.insert(child.digest) {
                    continue;
                }
                if child.is_manifest && depth < DEPTH_MAX {
                    open.push((child.digest, depth + 1));
                } else if !child.is_manifest && self.store.blob_record(&child.digest).is_none() {
                    return false;
                }
            }
        }
        true
    }

    async fn own_manifest(&self, repository: &Repository, digest: &Digest) -> Option<Manifest> {
        self.store.manifest_media_type(repository, digest)?;
        let bytes = self.store.read_verified(digest).await.ok()??;
        Manifest::parse(&bytes).ok()
    }
}
