//! Lists of tags and of referrers: upstream's where it answers, else what the cache knows.

use bytes::Bytes;
use oci_spec::distribution::TagListBuilder;
use serde_json::json;

use super::Cache;
use super::error::CacheError;
use crate::oci::{Digest, Manifest, Page, Repository};
use crate::requester::Requester;
use crate::upstream::{List, ListReply, UpstreamError};

/// A list, ready to send.
#[derive(Debug)]
pub struct ListAnswer {
    pub body: Bytes,
    pub content_type: String,
    /// The query of the next page.
    pub next: Option<String>,
    /// For `OCI-Filters-Applied`.
    pub filters_applied: Option<String>,
    /// Why the list is the cache's and not upstream's.
    pub stale: Option<String>,
}

impl ListAnswer {
    fn from_upstream(reply: ListReply, default_type: &str) -> Self {
        Self {
            body: reply.body,
            content_type: reply.content_type.unwrap_or_else(|| default_type.to_owned()),
            next: reply.next,
            filters_applied: reply.filters_applied,
            stale: None,
        }
    }
}

impl Cache {
    /// The tags of a repository.
    ///
    /// # Errors
    /// When upstream does not answer and the cache knows no tag of the repository.
    pub async fn tags(&self, by: &Requester, repository: &Repository, page: &Page) -> Result<ListAnswer, CacheError> {
        let error = match self.upstream.by(by).list(repository, &List::Tags(page.clone())).await {
            Ok(reply) => return Ok(ListAnswer::from_upstream(reply, "application/json")),
            Err(error) if self.is_refused(&error) => return Err(error.into()),
            Err(error) => error,
        };
        self.store.look_into(repository).await;
        let known = self.store.tags(repository);
        if known.is_empty() {
            return Err(error.into());
        }
        let (tags, next) = cut(known, page);
        let list = TagListBuilder::default().name(repository.name.as_str()).tags(tags).build();
        let list = list.expect("a tag list must build: both of its fields are set");
        let body = serde_json::to_vec(&list).expect("a tag list must serialise: it holds only strings").into();
        let content_type = "application/json".to_owned();
        Ok(ListAnswer { body, content_type, next, filters_applied: None, stale: Some(error.to_string()) })
    }

    /// The manifests that have `subject` as their subject, as an image index.
    ///
    /// A 404 is passed on even if the cache knows some: it tells the client to look at the referrers tag, where all of them are.
    ///
    /// # Errors
    /// When upstream does not answer and never said anything of this subject.
    pub async fn referrers(
        &self,
        by: &Requester,
        repository: &Repository,
        subject: &Digest,
        kind: Option<&str>,
    ) -> Result<ListAnswer, CacheError> {
        let list = List::Referrers { digest: *subject, artifact_type: kind.map(str::to_owned) };
        let error = match self.upstream.by(by).list(repository, &list).await {
            Ok(reply) => {
                self.remember_referrers(repository, subject, kind.is_none() && reply.next.is_none(), &reply.body);
                return Ok(ListAnswer::from_upstream(reply, INDEX_TYPE));
            }
            Err(error @ UpstreamError::NotFound { .. }) => return Err(error.into()),
            Err(error) if self.is_refused(&error) => return Err(error.into()),
            Err(error) => error,
        };
        self.store.look_into(repository).await;
        let Some(known) = self.store.referrers(repository, subject) else {
            return Err(error.into());
        };
        let mut manifests = Vec::new();
        for (digest, descriptor) in known {
            let descriptor = match descriptor {
                Some(descriptor) => Some(descriptor),
                None => self.describe_referrer(repository, &digest).await,
            };
            manifests.extend(descriptor.filter(|descriptor| kind.is_none_or(|kind| descriptor["artifactType"] == kind)));
        }
        let body = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests }).to_string().into();
        let filters_applied = kind.map(|_| "artifactType".to_owned());
        Ok(ListAnswer { body, content_type: INDEX_TYPE.to_owned(), next: None, filters_applied, stale: Some(error.to_string()) })
    }

    /// Where rights are looked at, what upstream refuses to list is not listed from the cache.
    fn is_refused(&self, error: &UpstreamError) -> bool {
        self.config.looks_at_rights && matches!(error, UpstreamError::Denied { .. })
    }

    /// Keeps what upstream says of each referrer, for the time when it does not answer.
    fn remember_referrers(&self, repository: &Repository, subject: &Digest, all: bool, body: &Bytes) {
        if body.len() > REMEMBERED_BYTES_MAX {
            return;
        }
        let index: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let listed = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        let referrers = listed.filter_map(|descriptor| Some((descriptor["digest"].as_str()?.parse().ok()?, descriptor)));
        self.store.put_referrers(repository, subject, all, referrers);
    }

    /// The descriptor of a referrer that came as a manifest and never in a list.
    async fn describe_referrer(&self, repository: &Repository, digest: &Digest) -> Option<serde_json::Value> {
        let media_type = self.store.manifest_media_type(repository, digest)??;
        let bytes = self.store.read_verified(digest).await.ok()??;
        let manifest = Manifest::parse(&bytes).ok()?;
        let mut descriptor = json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() });
        if let Some(artifact_type) = manifest.artifact_type {
            descriptor["artifactType"] = artifact_type.into();
        }
        if let Some(annotations) = Manifest::annotations(&bytes) {
            descriptor["annotations"] = json!(annotations);
        }
        Some(descriptor)
    }
}

/// A referrers list above this is passed on and not kept: it would take many times its size in memory to read.
const REMEMBERED_BYTES_MAX: usize = 1 << 20;

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// One page of an ordered list, and the query of the next.
fn cut(tags: Vec<String>, page: &Page) -> (Vec<String>, Option<String>) {
    let after = |tag: &String| page.last.as_ref().is_none_or(|last| tag > last);
    let mut rest = tags.into_iter().filter(after);
    let Some(n) = page.n.and_then(|n| usize::try_from(n).ok()) else {
        return (rest.collect(), None);
    };
    let tags: Vec<String> = rest.by_ref().take(n).collect();
    let next = match (tags.last(), rest.next()) {
        (Some(last), Some(_)) => Some(format!("n={n}&last={last}")),
        _ => None,
    };
    (tags, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_from_the_cache_is_cut_into_pages() {
        let tags = || ["a", "b", "c"].map(str::to_owned).to_vec();
        let page = |n: Option<u32>, last: Option<&str>| cut(tags(), &Page { n, last: last.map(str::to_owned) });
        assert_eq!(page(None, None), (tags(), None));
        assert_eq!(page(Some(2), None), (vec!["a".to_owned(), "b".to_owned()], Some("n=2&last=b".to_owned())));
        assert_eq!(page(Some(2), Some("b")), (vec!["c".to_owned()], None));
        assert_eq!(page(Some(3), None), (tags(), None));
        assert_eq!(page(Some(0), None), (vec![], None));
        assert_eq!(page(None, Some("c")), (vec![], None));
    }
}
