//! Whether what is here may be given under a repository whose manifest only claims it.
//!
//! A manifest can list any digest, and who can push one somewhere could so name another's private layer. Where rights are looked at, what came
//! here for one repository is given under another only if
//! * both are of one registry, which takes no manifest whose blobs it does not have there (distribution specification, "Pushing Manifests"),
//! * or whoever asks may have it from where it came.
//!
//! Otherwise the registry that claims it has to send it.

use super::Cache;
use super::blobs::BlobAnswer;
use super::error::CacheError;
use super::source::Source;
use super::stream::Content;
use crate::cache::Origin;
use crate::oci::{Digest, Repository};
use crate::requester::Requester;
use crate::store::LinkRecord;

impl Cache {
    /// What is here, or on its way, is another's.
    pub(super) async fn is_anothers(&self, by: &Requester, repository: &Repository, digest: &Digest, link: Option<&LinkRecord>) -> bool {
        if !self.config.looks_at_rights || link.is_some_and(|link| !link.claimed) {
            return false;
        }
        let filling = self.fills.running(digest);
        let is_here = self.store.blob_record(digest).is_some() || self.store.small(digest).is_some();
        if !is_here && filling.is_none() {
            return false;
        }
        let mut givers = self.store.givers(digest).await;
        givers.extend(filling.map(|fill| fill.wanted.repository.clone()));
        if givers.iter().any(|giver| giver.registry == repository.registry || self.upstream.is_open(giver)) {
            // That goes for everybody, and is not asked again.
            self.store.came(repository, digest);
            return false;
        }
        !givers.iter().any(|giver| self.upstream.may(by, giver))
    }

    pub(super) async fn is_anothers_manifest(&self, by: &Requester, repository: &Repository, digest: &Digest) -> bool {
        // The look-up is for those who need it.
        self.config.looks_at_rights && self.is_anothers(by, repository, digest, self.store.link(repository, digest).as_ref()).await
    }

    /// Straight from upstream, whatever is here.
    pub(super) async fn through(&self, by: &Requester, repository: &Repository, digest: &Digest) -> Result<BlobAnswer, CacheError> {
        tracing::info!(%repository, %digest, requester = %by, "only a manifest says that the repository has what came here from another: asking upstream");
        let source = Source::open(self.wanted(by, repository, digest), 0).await?;
        Ok(BlobAnswer { content: Content::through(source, *digest), origin: Origin::Miss })
    }
}
