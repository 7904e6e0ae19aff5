//! Whether upstream gives something to somebody: the question behind every right.

use std::time::Duration;

use super::Cache;
use super::error::CacheError;
use super::flight::Landing;
use crate::oci::{Digest, Image, Manifest, Page, Repository, Target};
use crate::requester::Requester;
use crate::upstream::List;

/// Something of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Asked {
    Manifest(Target),
    Blob(Digest),
    /// Tags or referrers.
    List,
}

impl Asked {
    /// The image's reference, if it is one that is asked for by its tag.
    #[must_use]
    pub fn image(&self, repository: &Repository) -> Option<String> {
        let image = match self {
            Self::Manifest(Target::Tag(tag)) => Image::new(repository.clone(), Some(tag.clone()), None),
            Self::Manifest(Target::Digest(digest)) => Image::new(repository.clone(), None, Some(*digest)),
            Self::Blob(_) | Self::List => return None,
        };
        Some(image.to_string())
    }
}

/// What upstream gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// A manifest: whoever gets one may pull from the repository.
    Manifest,
    /// A blob or a list, which some registries give to more than may pull.
    Other,
    /// Not what was asked for, which is not there, but the list of tags.
    ListInstead,
}

/// A right is asked for once for all who wait for it.
pub(super) type LeaveKey = (Requester, Repository, Asked);

impl Cache {
    /// Asks upstream for something, by somebody and with what they have to show. A manifest that is not here is fetched by that.
    ///
    /// Where something is not there, upstream is asked for the list of the repository's tags. If it refuses that, too, it counts as not there:
    /// pulling and listing are rights of their own at some registries.
    ///
    /// # Errors
    /// When upstream does not give it, or cannot be asked.
    pub async fn ask_leave(&self, by: &Requester, repository: &Repository, asked: &Asked) -> Result<Leave, CacheError> {
        let key = (by.clone(), repository.clone(), asked.clone());
        let cache = self.clone();
        let lead = |landing: Landing<LeaveKey, Result<Leave, CacheError>>| async move {
            let (by, repository, asked) = key;
            landing.finish(cache.ask_for(&by, &repository, &asked).await);
        };
        self.leaves.join((by.clone(), repository.clone(), asked.clone()), lead).await?
    }

    async fn ask_for(&self, by: &Requester, repository: &Repository, asked: &Asked) -> Result<Leave, CacheError> {
        let upstream = self.upstream.by(by);
        let answered: Result<Leave, CacheError> = match asked {
            Asked::Manifest(target) if self.only_asks(by, repository, target).await => {
                upstream.head_manifest(repository, target).await.map(|_| Leave::Manifest).map_err(Into::into)
            }
            Asked::Manifest(target) => self.fetch_manifest(by, repository, target).await.map(|_| Leave::Manifest),
            Asked::Blob(digest) => upstream.head_blob(repository, digest).await.map(|_| Leave::Other).map_err(Into::into),
            Asked::List => return self.ask_for_list(by, repository).await,
        };
        match answered {
            Err(error) if error.is_not_found() => self.ask_for_list(by, repository).await.map(|_| Leave::ListInstead).map_err(|_| error),
            answered => answered,
        }
    }

    /// Asks upstream for the list of a repository's tags, which limits of the rate of pulls do not count.
    ///
    /// # Errors
    /// When upstream does not give it, or cannot be asked.
    pub async fn ask_for_list(&self, by: &Requester, repository: &Repository) -> Result<Leave, CacheError> {
        let list = List::Tags(Page { n: Some(1), last: None });
        Ok(self.upstream.by(by).list(repository, &list).await.map(|_| Leave::Other)?)
    }

    /// Whether everybody may have a repository, as far as is known.
    #[must_use]
    pub fn is_open(&self, repository: &Repository) -> bool {
        self.upstream.is_open(repository)
    }

    /// Whether the agent has credentials of its own for a repository.
    #[must_use]
    pub fn has_own_credentials(&self, repository: &Repository) -> bool {
        self.upstream.has_credentials(repository)
    }

    /// Whether a manifest is only asked about: it is here already, or the agent has credentials of its own to fetch it with, so that what
    /// those who show nothing may fetch is left to others.
    async fn only_asks(&self, by: &Requester, repository: &Repository, target: &Target) -> bool {
        (*by == Requester::Nobody && self.has_own_credentials(repository)) || self.holds(repository, target).await
    }

    async fn holds(&self, repository: &Repository, target: &Target) -> bool {
        match target {
            Target::Tag(tag) => self.store.find_tag(repository, tag).await.is_some(),
            Target::Digest(digest) => self.store.find_manifest(repository, digest).await.is_some(),
        }
    }

    /// Whether the repository got it on this node until this time, in seconds since 1970.
    pub async fn was_got_until(&self, repository: &Repository, asked: &Asked, until: u64) -> bool {
        let wanted = match asked {
            Asked::Manifest(Target::Tag(tag)) => match self.store.find_tag(repository, tag).await {
                Some(record) => record.digest,
                None => return false,
            },
            Asked::Manifest(Target::Digest(digest)) | Asked::Blob(digest) => *digest,
            Asked::List => return false,
        };
        for digest in self.store.manifests_until(repository, until).await {
            if digest == wanted {
                return true;
            }
            let bytes = self.store.read_verified(&digest).await.ok().flatten();
            let manifest = bytes.and_then(|bytes| Manifest::parse(&bytes).ok());
            if manifest.is_some_and(|manifest| manifest.children.iter().any(|child| child.digest == wanted)) {
                return true;
            }
        }
        false
    }

    /// How long a client waits for what only confirms something that is known.
    #[must_use]
    pub fn revalidate_timeout(&self) -> Duration {
        self.config.revalidate_timeout
    }

    /// Where pull secrets of namespaces come from, from here on.
    pub fn join(&self, keyring: std::sync::Arc<dyn crate::upstream::Keyring>) {
        self.upstream.join(keyring);
    }
}
