//! Tags: fresh → answered at once; else confirmed by one HEAD for all who ask; if upstream cannot confirm, served as they were.
//!
//! The point of the product is that a tag which upstream has lost, or cannot serve right now, still starts.

use std::time::Duration;

use tokio::time::timeout;

use super::error::CacheError;
use super::manifests::ManifestResult;
use super::{Cache, Origin};
use crate::oci::{Digest, Registry, Repository, Tag, Target};
use crate::requester::Requester;
use crate::store::{TagRecord, UpstreamStatus, now_seconds};
use crate::upstream::UpstreamError;

/// Why a tag was answered without upstream's confirmation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    pub status: UpstreamStatus,
    /// What upstream said, for people.
    pub reason: String,
    /// When upstream last confirmed it, in seconds since 1970.
    pub validated_at: u64,
}

/// A tag is confirmed once for all who ask with the same rights.
pub(super) type ConfirmationKey = (Requester, Repository, Tag);

/// What a revalidation found.
#[derive(Debug, Clone)]
pub(super) enum Confirmation {
    Same,
    Moved(Box<super::ManifestAnswer>),
    Unconfirmed { status: UpstreamStatus, reason: String },
}

impl Cache {
    pub(super) async fn manifest_by_tag(&self, by: &Requester, repository: &Repository, tag: &Tag) -> ManifestResult {
        let target = Target::Tag(tag.clone());
        let Some(record) = self.store.find_tag(repository, tag).await else {
            return self.fetch_manifest(by, repository, &target).await;
        };
        if self.is_fresh(&record) {
            return match self.stored_manifest(&record.digest, Some(record.media_type)).await {
                Some(answer) => Ok(answer),
                None => self.fetch_manifest(by, repository, &target).await,
            };
        }
        match self.confirm(by, repository, tag, &record.digest).await {
            Confirmation::Moved(answer) => Ok(*answer),
            Confirmation::Same => match self.stored_manifest(&record.digest, Some(record.media_type)).await {
                Some(answer) => Ok(super::ManifestAnswer { origin: Origin::Revalidated, ..answer }),
                None => self.fetch_manifest(by, repository, &target).await,
            },
            Confirmation::Unconfirmed { status, reason } => self.serve_stale(by, (repository, tag), record, status, reason).await,
        }
    }

    fn is_fresh(&self, record: &TagRecord) -> bool {
        let age = now_seconds().checked_sub(record.validated_at);
        // A time in the future means that the clock was set back: ask.
        record.upstream_status == UpstreamStatus::Ok && age.is_some_and(|age| Duration::from_secs(age) < self.config.fresh_for)
    }

    async fn serve_stale(
        &self,
        by: &Requester,
        (repository, tag): (&Repository, &Tag),
        record: TagRecord,
        status: UpstreamStatus,
        reason: String,
    ) -> ManifestResult {
        let Some(answer) = self.stored_manifest(&record.digest, Some(record.media_type)).await else {
            // Not even the bytes are here: let upstream's own refusal be the answer.
            return self.fetch_manifest(by, repository, &Target::Tag(tag.clone())).await;
        };
        tracing::warn!(%repository, %tag, digest = %record.digest, ?status, reason, "serving a tag that upstream did not confirm");
        self.metrics.stale.get_or_create(&crate::metrics::ReasonLabels { reason: label(status) }).inc();
        let stale = Stale { status, reason, validated_at: record.validated_at };
        Ok(super::ManifestAnswer { origin: Origin::Stale, stale: Some(stale), ..answer })
    }

    /// Asks upstream whether the tag still means `digest`. Clients wait for it as long as `tags.revalidateTimeout`; the question
    /// itself goes on, so that the next client finds its answer.
    async fn confirm(&self, by: &Requester, repository: &Repository, tag: &Tag, digest: &Digest) -> Confirmation {
        if let Some(reason) = self.unavailable.get(&repository.registry) {
            return Confirmation::Unconfirmed { status: UpstreamStatus::Unavailable, reason };
        }
        let (cache, digest) = (self.clone(), *digest);
        let key = (by.clone(), repository.clone(), tag.clone());
        let lead = |landing: super::flight::Landing<ConfirmationKey, Confirmation>| async move {
            let (by, repository, tag) = key;
            // Another may have ended between the caller's look and this one.
            let is_done = cache.store.tag(&repository, &tag).is_some_and(|now| now.digest == digest && cache.is_fresh(&now));
            landing.finish(if is_done { Confirmation::Same } else { cache.revalidate(&by, &repository, &tag, &digest).await });
        };
        let asked = self.confirmations.join((by.clone(), repository.clone(), tag.clone()), lead);
        match timeout(self.config.revalidate_timeout, asked).await {
            Ok(Ok(confirmation)) => confirmation,
            Ok(Err(error)) => Confirmation::Unconfirmed { status: UpstreamStatus::Unavailable, reason: error.to_string() },
            Err(_) => {
                let reason = self.was_late(&repository.registry);
                self.store.note_tag(repository, tag, &digest, UpstreamStatus::Unavailable);
                Confirmation::Unconfirmed { status: UpstreamStatus::Unavailable, reason }
            }
        }
    }

    /// Notes that a registry did not answer in time; the reason that is noted.
    pub(super) fn was_late(&self, registry: &Registry) -> String {
        let reason = CacheError::Late { waited: self.config.revalidate_timeout }.to_string();
        self.unavailable.insert(registry.clone(), reason.clone());
        reason
    }

    pub(super) async fn revalidate(&self, by: &Requester, repository: &Repository, tag: &Tag, digest: &Digest) -> Confirmation {
        let target = Target::Tag(tag.clone());
        let error: CacheError = match self.upstream.by(by).head_manifest(repository, &target).await {
            Ok(head) if head.digest == Some(*digest) => {
                self.store.note_tag(repository, tag, digest, UpstreamStatus::Ok);
                return Confirmation::Same;
            }
            // Another digest; or none, from a registry that does not say it: then only the manifest itself tells.
            Ok(_) => match self.fetch_manifest(by, repository, &target).await {
                Ok(answer) if answer.digest == *digest => return Confirmation::Same,
                Ok(answer) => {
                    tracing::info!(%repository, %tag, from = %digest, to = %answer.digest, "a tag moved");
                    return Confirmation::Moved(Box::new(answer));
                }
                Err(error) => error,
            },
            Err(error) => error.into(),
        };
        let status = status_of(&error);
        // One repository's trouble says nothing of the registry's others.
        if let CacheError::Upstream(UpstreamError::Unreachable { .. } | UpstreamError::Stalled { .. }) = &error {
            self.unavailable.insert(repository.registry.clone(), error.to_string());
        }
        self.store.note_tag(repository, tag, digest, status);
        Confirmation::Unconfirmed { status, reason: error.to_string() }
    }
}

fn status_of(error: &CacheError) -> UpstreamStatus {
    match error {
        CacheError::Upstream(UpstreamError::NotFound { .. }) => UpstreamStatus::NotFound,
        CacheError::Upstream(UpstreamError::Denied { .. } | UpstreamError::Credentials { .. }) => UpstreamStatus::Denied,
        CacheError::Upstream(UpstreamError::TooManyRequests { .. }) => UpstreamStatus::RateLimited,
        _ => UpstreamStatus::Unavailable,
    }
}

fn label(status: UpstreamStatus) -> &'static str {
    match status {
        UpstreamStatus::Ok => "ok",
        UpstreamStatus::NotFound => "not_found",
        UpstreamStatus::Denied => "denied",
        UpstreamStatus::RateLimited => "rate_limited",
        UpstreamStatus::Unavailable => "unavailable",
    }
}
