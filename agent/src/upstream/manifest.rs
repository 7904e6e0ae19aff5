//! Manifests, by HEAD and GET.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method};

use super::ask::{Answer, Operation, Question};
use super::client::{Incoming, content_length};
use super::error::UpstreamError;
use crate::oci::{self, Digest, MANIFEST_BYTES_MAX, Target};

const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";

/// What upstream says about a manifest without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// The digest that upstream claims, where it claims one that can be verified.
    pub digest: Option<Digest>,
    /// Its `Content-Type`, verbatim.
    pub media_type: Option<String>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

/// A manifest as upstream sent it; nothing about it has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedManifest {
    /// At most [`MANIFEST_BYTES_MAX`].
    pub bytes: Bytes,
    /// Its `Content-Type`, verbatim.
    pub media_type: Option<String>,
    /// The digest that upstream claims in a header.
    pub digest: Option<Digest>,
}

fn question(method: Method, target: &Target) -> Question {
    let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(oci::ACCEPT))]);
    Question { method, path: format!("manifests/{target}"), query: None, headers }
}

fn head(incoming: &Incoming) -> ManifestHead {
    ManifestHead {
        digest: incoming.header(DOCKER_CONTENT_DIGEST).and_then(|text| text.parse().ok()),
        media_type: incoming.header(CONTENT_TYPE).filter(|text| !text.is_empty()).map(str::to_owned),
        size: content_length(incoming),
    }
}

pub(super) struct HeadManifest<'a> {
    pub(super) target: &'a Target,
    /// HEAD, or GET where upstream does not know HEAD; the body is not read.
    pub(super) method: Method,
}

impl Operation for HeadManifest<'_> {
    type Output = ManifestHead;

    fn question(&self) -> Question {
        question(self.method.clone(), self.target)
    }

    async fn read(&self, answer: Answer) -> Result<ManifestHead, UpstreamError> {
        Ok(head(&answer.incoming))
    }
}

pub(super) struct GetManifest<'a>(pub(super) &'a Target);

impl Operation for GetManifest<'_> {
    type Output = FetchedManifest;

    fn question(&self) -> Question {
        question(Method::GET, self.0)
    }

    async fn read(&self, answer: Answer) -> Result<FetchedManifest, UpstreamError> {
        let ManifestHead { digest, media_type, .. } = head(&answer.incoming);
        let bytes = answer.into_body().collect(MANIFEST_BYTES_MAX).await?;
        Ok(FetchedManifest { bytes, media_type, digest })
    }
}
