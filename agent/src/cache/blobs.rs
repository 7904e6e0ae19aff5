//! Blobs: on disk → stream; else one fill for all who ask.

use std::sync::Arc;

use super::claims::Claim;
use super::error::CacheError;
use super::fill::{Fill, Phase};
use super::source::{Source, Wanted};
use super::stream::Content;
use super::{Cache, Origin};
use crate::oci::{Digest, Repository};
use crate::requester::Requester;
use crate::store::{Blob, Checked, LinkRecord, Store};

/// A blob and where it came from.
#[derive(Debug)]
pub struct BlobAnswer {
    pub content: Content,
    pub origin: Origin,
}

impl Cache {
    /// A blob of a repository.
    ///
    /// It is served only if the repository references it: as known from one of its manifests, or because upstream says so.
    ///
    /// # Errors
    /// When neither the disk nor upstream has it, or it is not the repository's.
    pub async fn blob(&self, by: &Requester, repository: &Repository, digest: &Digest) -> Result<BlobAnswer, CacheError> {
        let link = self.store.find_link(repository, digest).await;
        let claim = self.claim(by, repository, digest, link.as_ref()).await;
        if claim == Claim::Anothers {
            return self.through(by, repository, digest).await;
        }
        let is_known = link.is_some();
        if claim == Claim::Good
            && let Some(answer) = self.held_blob(by, (repository, digest), link.as_ref()).await?
        {
            return Ok(answer);
        }
        let fill = self.fills.join_or_lead(self.wanted(by, repository, digest))?;
        if !self.may_join(by, repository, link.as_ref(), &fill).await {
            return self.through(by, repository, digest).await;
        }
        // A fill of its own asks upstream for this very repository; another's has not.
        if !is_known && !fill.is_of(repository) {
            self.ask_whether_it_is_theirs(by, repository, digest).await?;
        }
        let size_hint = link.and_then(|link| link.size);
        match self.wait_open(by, repository, &fill, size_hint).await {
            // Another's refusal says nothing about this one.
            Err(CacheError::Upstream(_)) if !fill.is_for(by, repository) => {
                let own = self.fills.join_or_lead(self.wanted(by, repository, digest))?;
                if !own.is_of(repository) {
                    return self.through(by, repository, digest).await;
                }
                self.wait_open(by, repository, &own, size_hint).await
            }
            result => result,
        }
    }

    /// The size of a blob of a repository, if it is known. Fetches nothing.
    ///
    /// # Errors
    /// As [`Cache::blob`].
    pub async fn blob_size(&self, by: &Requester, repository: &Repository, digest: &Digest) -> Result<(Option<u64>, Origin), CacheError> {
        let link = self.store.find_link(repository, digest).await;
        let claim = self.claim(by, repository, digest, link.as_ref()).await;
        if claim == Claim::Anothers {
            return Ok((self.upstream.by(by).head_blob(repository, digest).await?, Origin::Miss));
        }
        if claim == Claim::Good
            && let Some(answer) = self.held_blob(by, (repository, digest), link.as_ref()).await?
        {
            return Ok((answer.content.size, Origin::Hit));
        }
        let (is_known, size_hint) = (link.is_some(), link.and_then(|link| link.size));
        let filling = self.fills.running(repository, digest).and_then(|fill| fill.watch().borrow().size);
        if is_known && filling.is_some() {
            return Ok((filling, Origin::Miss));
        }
        let size = self.ask_whether_it_is_theirs(by, repository, digest).await?;
        Ok((size.or(size_hint).or(filling), Origin::Miss))
    }

    /// A blob that is here, from memory or from disk.
    async fn held_blob(
        &self,
        by: &Requester,
        (repository, digest): (&Repository, &Digest),
        link: Option<&LinkRecord>,
    ) -> Result<Option<BlobAnswer>, CacheError> {
        if link.is_some()
            && let Some(bytes) = self.store.small(digest)
        {
            self.store.touch(digest);
            return Ok(Some(BlobAnswer { content: Content::memory(bytes), origin: Origin::Hit }));
        }
        let Some(blob) = open_or_miss(&self.store, digest).await else {
            return Ok(None);
        };
        if link.is_none() {
            self.ask_whether_it_is_theirs(by, repository, digest).await?;
        }
        let size_hint = link.and_then(|link| link.size);
        if size_hint.is_some_and(|size| size != blob.size) {
            // The manifest says another size: one of the two is wrong, and the digest tells which.
            if !matches!(self.store.verify(digest).await, Ok(Checked::Good { .. })) {
                return Ok(None);
            }
            self.store.put_link(repository, digest, Some(blob.size));
        }
        self.store.touch(digest);
        let content = if Store::is_small(blob.size) {
            match self.store.read_verified(digest).await {
                Ok(Some(bytes)) => Content::memory(bytes),
                Ok(None) | Err(_) => return Ok(None),
            }
        } else {
            Content::stored(blob, self.store.clone(), *digest)
        };
        Ok(Some(BlobAnswer { content, origin: Origin::Hit }))
    }

    /// Upstream's word on a blob of the repository, which is noted: an error, or its size if upstream says it.
    async fn ask_whether_it_is_theirs(&self, by: &Requester, repository: &Repository, digest: &Digest) -> Result<Option<u64>, CacheError> {
        let size = self.upstream.by(by).head_blob(repository, digest).await?;
        self.store.put_link(repository, digest, size);
        Ok(size)
    }

    pub(super) fn wanted(&self, by: &Requester, repository: &Repository, digest: &Digest) -> Wanted {
        Wanted {
            upstream: self.upstream.by(by),
            repository: repository.clone(),
            digest: *digest,
            max_attempts: self.config.max_attempts,
            avoid: self.fills.wrong(digest),
        }
    }

    /// Waits until upstream has answered, so that a refusal still gets its own status.
    async fn wait_open(
        &self,
        by: &Requester,
        repository: &Repository,
        fill: &Arc<Fill>,
        size_hint: Option<u64>,
    ) -> Result<BlobAnswer, CacheError> {
        let mut progress = fill.watch();
        let (phase, frontier, size) = {
            let opened = progress.wait_for(|progress| !matches!(progress.phase, Phase::Opening)).await.map_err(|_| CacheError::Lost)?;
            (opened.phase.clone(), opened.frontier, opened.size)
        };
        match phase {
            Phase::Failed(error) => return Err(error),
            // Nothing could be written at all.
            Phase::Detached { .. } if frontier == 0 => {
                let source = Source::open(self.wanted(by, repository, &fill.wanted.digest), 0).await?;
                return Ok(BlobAnswer { content: Content::through(source, fill.wanted.digest), origin: Origin::Miss });
            }
            Phase::Opening | Phase::Flowing | Phase::Verified | Phase::Detached { .. } => {}
        }
        // What the manifest claims is good enough for an upstream that does not say: if it is wrong, so is the digest.
        let size = size.or(size_hint);
        Ok(BlobAnswer { content: Content::growing(Arc::clone(fill), progress, size), origin: Origin::Miss })
    }
}

/// A committed blob. A disk that cannot be read is no reason to fail: upstream may have it.
pub(super) async fn open_or_miss(store: &Store, digest: &Digest) -> Option<Blob> {
    store.open_blob(digest).await.unwrap_or_else(|error| {
        tracing::error!(%digest, error = %crate::telemetry::chain(&error), "a blob cannot be read: asking upstream");
        None
    })
}
