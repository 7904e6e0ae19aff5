//! Errors → status and OCI body. The only such table.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};

use crate::access::Refusal;
use crate::cache::CacheError;
use crate::oci::{ErrorBody, ErrorCode, RouteError};
use crate::upstream::UpstreamError;

/// What was asked for: it names the code of a 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Manifest,
    Blob,
    Tags,
    Referrers,
}

/// How soon a client that was turned away for lack of room may come back.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(5);

pub(super) fn of_cache(error: &CacheError, subject: Subject) -> Response {
    let (status, code, retry_after) = match error {
        CacheError::Upstream(error) => return of_upstream(error, subject),
        CacheError::Mismatch { .. } => (StatusCode::BAD_GATEWAY, ErrorCode::DigestInvalid, None),
        CacheError::NoManifest { .. } => (StatusCode::BAD_GATEWAY, ErrorCode::ManifestInvalid, None),
        CacheError::Busy { .. } | CacheError::Full { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, Some(BUSY_RETRY_AFTER))
        }
        CacheError::Late { .. } => (StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable, None),
        CacheError::Store(_) | CacheError::Lost => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown, None),
    };
    body(status, code, &error.to_string(), retry_after)
}

/// A refusal before anything was looked at. The challenge is what makes a runtime show its pull secret (RFC 7617).
pub(super) fn of_refusal(refusal: &Refusal, subject: Subject) -> Response {
    let message = refusal.to_string();
    match refusal {
        Refusal::Unauthorized { .. } => {
            let mut response = body(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, &message, None);
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"kube-image-keeper\""));
            response
        }
        Refusal::Denied { .. } => body(StatusCode::FORBIDDEN, ErrorCode::Denied, &message, None),
        Refusal::NotThere { .. } => body(StatusCode::NOT_FOUND, unknown(subject), &message, None),
        Refusal::Unproven { error, .. } => of_cache(error, subject),
    }
}

/// What upstream does not have.
fn unknown(subject: Subject) -> ErrorCode {
    match subject {
        // Of referrers too: a client that reads NAME_UNKNOWN gives up instead of looking at the referrers tag.
        Subject::Manifest | Subject::Referrers => ErrorCode::ManifestUnknown,
        Subject::Blob => ErrorCode::BlobUnknown,
        Subject::Tags => ErrorCode::NameUnknown,
    }
}

fn of_upstream(error: &UpstreamError, subject: Subject) -> Response {
    let (status, code, retry_after) = match error {
        UpstreamError::NotFound { .. } => (StatusCode::NOT_FOUND, unknown(subject), None),
        // Not 401: that would ask the client for credentials which the agent would not pass on.
        UpstreamError::Denied { .. } | UpstreamError::Credentials { .. } => (StatusCode::FORBIDDEN, ErrorCode::Denied, None),
        UpstreamError::TooManyRequests { retry_after, .. } => {
            (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, Some(*retry_after))
        }
        UpstreamError::Busy { .. } => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, Some(BUSY_RETRY_AFTER)),
        UpstreamError::Stalled { .. } => (StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable, None),
        UpstreamError::TooLarge { .. } => (StatusCode::BAD_GATEWAY, ErrorCode::SizeInvalid, None),
        UpstreamError::Unreachable { .. }
        | UpstreamError::Broken { .. }
        | UpstreamError::Status { .. }
        | UpstreamError::Protocol { .. } => (StatusCode::BAD_GATEWAY, ErrorCode::Unavailable, None),
    };
    body(status, code, &error.to_string(), retry_after)
}

pub(super) fn of_route(error: &RouteError) -> Response {
    let (status, code) = match error {
        RouteError::Method => (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported),
        RouteError::NotFound => (StatusCode::NOT_FOUND, ErrorCode::Unsupported),
        // No registry has a manifest under such a name, and clients expect to hear just that.
        RouteError::Tag(_) => (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown),
        RouteError::Digest(_) => (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid),
        RouteError::Name(_) | RouteError::Encoding => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
        RouteError::Query => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported),
    };
    let mut response = body(status, code, &error.to_string(), None);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

fn body(status: StatusCode, code: ErrorCode, message: &str, retry_after: Option<Duration>) -> Response {
    let mut response = Response::new(Body::from(ErrorBody::new(code, message).to_json()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(wait) = retry_after {
        // Rounded up: coming back early is what the header is there to prevent.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}
