//! GET and HEAD of manifests.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, WARNING};
use http::{HeaderValue, Method, StatusCode};

use super::error::{self, Subject};
use super::headers;
use super::observe::Outcome;
use crate::cache::{Cache, ManifestAnswer, Stale};
use crate::oci::{Repository, Target};
use crate::requester::Requester;

pub(super) async fn serve(
    cache: &Cache,
    by: &Requester,
    method: &Method,
    request: &HeaderMap,
    repository: &Repository,
    target: &Target,
) -> Outcome {
    match cache.manifest(by, repository, target).await {
        Ok(answer) => {
            let origin = answer.origin;
            Outcome::new(respond(method, request, answer)).from(origin)
        }
        Err(error) => Outcome::new(error::of_cache(&error, Subject::Manifest)).because(error.to_string()),
    }
}

fn respond(method: &Method, request: &HeaderMap, answer: ManifestAnswer) -> Response {
    let mut response = Response::new(Body::empty());
    let fields = response.headers_mut();
    headers::insert_digest(fields, &answer.digest);
    fields.insert(headers::API_VERSION, headers::API_VERSION_VALUE);
    if let Some(stale) = &answer.stale {
        fields.insert(WARNING, warning(stale));
    }
    if headers::none_match(request, &answer.digest) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    fields.insert(CONTENT_TYPE, headers::value(&answer.media_type));
    fields.insert(CONTENT_LENGTH, HeaderValue::from(answer.bytes.len()));
    if method == Method::GET {
        *response.body_mut() = Body::from(answer.bytes);
    }
    response
}

/// `Warning: 111` (RFC 7234 §5.5.4): served without successful revalidation. The RFC's successor dropped the header; it is the one that
/// tools show to people.
fn warning(stale: &Stale) -> HeaderValue {
    let when = i64::try_from(stale.validated_at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok()).unwrap_or_default();
    let reason = stale.reason.replace(['"', '\\'], "'");
    headers::value(&format!("111 kuik \"not revalidated since {when}: {reason}\""))
}
