//! Whether what is here may be given under a repository whose manifest only claims it.
//!
//! A manifest can list any digest, and who can push one somewhere could so name another's private layer. Where rights are looked at, what came
//! here for one repository is given under another only if
//! * everybody may have it from where it came,
//! * or whoever asks may,
//! * or both are of one registry, and it says that the other repository has it, too, or is away,
//! * or everybody might have it from where it came, until that went (`store/heirs.rs`).
//!
//! Otherwise the registry that claims it has to send it, once. A download under way is joined within its registry only, by the same rules.
//!
//! After the index was lost it is not known where something came from, only who references it. It may then have come from any of them, so the
//! rule has to hold for each: see [`Givers::OneOf`].

use tokio::time::timeout;

use super::Cache;
use super::blobs::BlobAnswer;
use super::error::CacheError;
use super::fill::Fill;
use super::source::Source;
use super::stream::Content;
use crate::cache::Origin;
use crate::oci::{Digest, Hasher, Repository};
use crate::requester::Requester;
use crate::store::{Givers, LinkRecord};
use crate::upstream::UpstreamError;

/// What a claim is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// What is here is the repository's, too.
    Good,
    /// It is another's, for all that is known.
    Anothers,
    /// There is nothing here that it could be about.
    Nothing,
}

/// For whom a claim is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Good {
    /// For whoever may have the repository: that need not be asked again.
    ForAll,
    /// For who asks, at this moment.
    ForThem,
    No,
}

/// Whether what is here is certainly the repository's, which references it by `link`, or nobody asks whose it is.
pub(super) fn is_certain(looks_at_rights: bool, link: Option<&LinkRecord>) -> bool {
    !looks_at_rights || link.is_some_and(|link| !link.claimed)
}

/// Whether nobody gets an answer of the registry's.
fn is_away(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Unreachable { .. } | UpstreamError::Stalled { .. } | UpstreamError::Broken { .. } => true,
        // 501 and 505 say that it does not know the question.
        UpstreamError::Status { status, .. } => *status >= 500 && !matches!(status, 501 | 505),
        _ => false,
    }
}

impl Cache {
    /// Whether what is here may be given under the repository, which references it by `link`.
    pub(crate) async fn claim(&self, by: &Requester, repository: &Repository, digest: &Digest, link: Option<&LinkRecord>) -> Claim {
        if is_certain(self.config.looks_at_rights, link) {
            return Claim::Good;
        }
        if !self.is_here(digest).await {
            return Claim::Nothing;
        }
        let mut givers = self.store.givers(digest).await;
        // The walk after an unclean stop may not have come to all that reference it.
        if matches!(givers, Givers::OneOf(_)) && self.store.settled().await {
            if !self.store.knows_all() {
                return Claim::Anothers;
            }
            givers = self.store.givers(digest).await;
        }
        let is_good = match givers {
            Givers::Known(givers) => self.is_theirs_too(by, repository, digest, &givers).await,
            Givers::OneOf(givers) => self.is_theirs_whoevers(by, repository, digest, &givers).await,
        };
        match is_good {
            Good::ForAll => self.store.came(repository, digest),
            Good::ForThem => {}
            Good::No => return Claim::Anothers,
        }
        Claim::Good
    }

    /// Also what the index does not know yet.
    async fn is_here(&self, digest: &Digest) -> bool {
        self.store.small(digest).is_some()
            || self.store.blob_record(digest).is_some()
            || (!self.store.knows_all() && self.store.open_blob(digest).await.is_ok_and(|blob| blob.is_some()))
    }

    /// Whether a download that was begun for another repository of the registry may be joined.
    pub(super) async fn may_join(&self, by: &Requester, repository: &Repository, link: Option<&LinkRecord>, fill: &Fill) -> bool {
        let giver = &fill.wanted.repository;
        // What upstream confirms is noted by nobody: a fill that only runs has brought nothing.
        is_certain(self.config.looks_at_rights, link)
            || fill.is_of(repository)
            || self.upstream.is_open(giver)
            || self.upstream.may(by, giver)
            || (giver.registry == repository.registry && self.confirmed(by, repository, &fill.wanted.digest).await != Good::No)
    }

    /// It came from each of these.
    async fn is_theirs_too(&self, by: &Requester, repository: &Repository, digest: &Digest, givers: &[Repository]) -> Good {
        if givers.iter().any(|giver| self.upstream.is_open(giver)) {
            return Good::ForAll;
        }
        let may = givers.iter().any(|giver| self.upstream.may(by, giver));
        let has_sibling = givers.iter().any(|giver| giver.registry == repository.registry);
        match (may, has_sibling) {
            (true, true) => self.for_them_at_least(by, repository, digest).await,
            (true, false) => Good::ForThem,
            (false, true) => self.confirmed(by, repository, digest).await,
            (false, false) => Good::No,
        }
    }

    /// Who asks may have it, and the registry knows whether all may who may have the repository: that outlives the right of who asks.
    async fn for_them_at_least(&self, by: &Requester, repository: &Repository, digest: &Digest) -> Good {
        if self.unavailable.contains_key(&repository.registry) {
            return Good::ForThem;
        }
        match timeout(self.config.revalidate_timeout, self.confirmed(by, repository, digest)).await {
            Ok(Good::ForAll) => Good::ForAll,
            Ok(Good::ForThem | Good::No) => Good::ForThem,
            Err(_) => {
                self.was_late(&repository.registry);
                Good::ForThem
            }
        }
    }

    /// Asks the registry that it came from whether this repository has it, too. Where it is away, it counts that it took the manifest:
    /// registries take none whose blobs they do not have there (distribution specification, "Pushing Manifests"). Not where it only limits
    /// requests, or has too many of ours already: whoever asks can bring that about.
    async fn confirmed(&self, by: &Requester, repository: &Repository, digest: &Digest) -> Good {
        let (of_registry, of_repository) = ((repository.registry.clone(), None), (repository.registry.clone(), Some(repository.clone())));
        let was_away = || self.away.contains_key(&of_registry) || self.away.contains_key(&of_repository);
        if was_away() {
            return Good::ForThem;
        }
        match self.upstream.by(by).head_blob(repository, digest).await {
            Ok(_) => {
                self.away.invalidate(&of_registry);
                Good::ForAll
            }
            Err(error) if is_away(&error) => {
                // Who can be reached may have trouble with one repository, and say of another what is so.
                let is_for_all = matches!(error, UpstreamError::Unreachable { .. });
                self.away.insert(if is_for_all { of_registry } else { of_repository }, ());
                Good::ForThem
            }
            // Others have found out meanwhile, while this question waited for theirs.
            Err(UpstreamError::Busy { .. }) if was_away() => Good::ForThem,
            Err(_) => Good::No,
        }
    }

    /// It came from one of these, and nobody knows which.
    async fn is_theirs_whoevers(&self, by: &Requester, repository: &Repository, digest: &Digest, givers: &[Repository]) -> Good {
        let is_sibling = |giver: &Repository| giver.registry == repository.registry;
        if givers.iter().all(|giver| giver == repository) && !givers.is_empty() {
            return Good::ForAll;
        }
        let is_for_all = |giver: &Repository| self.upstream.is_open(giver);
        let is_for_them = |giver: &Repository| giver == repository || is_for_all(giver) || self.upstream.may(by, giver);
        if givers.is_empty() || !givers.iter().all(|giver| is_for_them(giver) || is_sibling(giver)) {
            return Good::No;
        }
        if givers.iter().all(is_for_all) {
            return Good::ForAll;
        }
        if !givers.iter().all(is_for_them) {
            return self.confirmed(by, repository, digest).await;
        }
        let has_sibling = givers.iter().any(|giver| giver != repository && is_sibling(giver));
        if has_sibling && givers.iter().all(|giver| is_for_all(giver) || is_sibling(giver)) {
            return self.for_them_at_least(by, repository, digest).await;
        }
        Good::ForThem
    }

    pub(super) async fn is_anothers_manifest(&self, by: &Requester, repository: &Repository, digest: &Digest) -> bool {
        // The look-up is for those who need it.
        self.config.looks_at_rights
            && self.claim(by, repository, digest, self.store.link(repository, digest).as_ref()).await == Claim::Anothers
    }

    /// Has the registry send what only a manifest says that it has, for nobody but the agent.
    pub(super) async fn prove(&self, repository: &Repository, digest: &Digest) -> Result<(), CacheError> {
        if self.claim(&Requester::Agent, repository, digest, self.store.link(repository, digest).as_ref()).await != Claim::Anothers {
            return Ok(());
        }
        let mut source = Source::open(self.wanted(&Requester::Agent, repository, digest), 0).await?;
        let mut hasher = Hasher::new(digest.algorithm());
        loop {
            let (next, bytes) = source.next().await;
            source = next;
            match bytes? {
                Some(bytes) => hasher.update(&bytes),
                None => break,
            }
        }
        let actual = hasher.finish();
        if actual != *digest {
            return Err(CacheError::mismatch(repository, *digest, actual));
        }
        self.store.came(repository, digest);
        Ok(())
    }

    /// Straight from upstream, whatever is here. When all of it has come, it is known to be the repository's.
    pub(super) async fn through(&self, by: &Requester, repository: &Repository, digest: &Digest) -> Result<BlobAnswer, CacheError> {
        tracing::info!(%repository, %digest, requester = %by, "only a manifest says that the repository has what came here from another: asking upstream");
        let source = Source::open(self.wanted(by, repository, digest), 0).await?;
        Ok(BlobAnswer { content: Content::proving(source, *digest, (self.store.clone(), repository.clone())), origin: Origin::Miss })
    }
}
