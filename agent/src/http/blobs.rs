//! GET and HEAD of blobs, whole or in ranges, while they grow or when they are whole.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, IF_RANGE, RANGE, TRANSFER_ENCODING};
use http::{HeaderValue, Method, StatusCode};

use super::error::{self, Subject};
use super::headers;
use super::observe::Outcome;
use crate::cache::{Cache, Content};
use crate::metrics::Metrics;
use crate::oci::{ByteRange, Digest, Repository};
use crate::requester::Requester;

pub(super) async fn serve(
    (cache, metrics): (&Cache, &Arc<Metrics>),
    by: &Requester,
    method: &Method,
    request: &HeaderMap,
    repository: &Repository,
    digest: &Digest,
) -> Outcome {
    if method == Method::HEAD {
        return match cache.blob_size(by, repository, digest).await {
            Ok((size, origin)) => Outcome::new(head(request, digest, size)).from(origin),
            Err(error) => Outcome::new(error::of_cache(&error, Subject::Blob)).because(error.to_string()),
        };
    }
    match cache.blob(by, repository, digest).await {
        Ok(answer) => Outcome::new(get(request, digest, answer.content, metrics)).from(answer.origin),
        Err(error) => Outcome::new(error::of_cache(&error, Subject::Blob)).because(error.to_string()),
    }
}

fn begin(request: &HeaderMap, digest: &Digest) -> Response {
    let mut response = Response::new(Body::empty());
    let fields = response.headers_mut();
    headers::insert_digest(fields, digest);
    fields.insert(headers::API_VERSION, headers::API_VERSION_VALUE);
    fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if headers::none_match(request, digest) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    }
    response
}

fn head(request: &HeaderMap, digest: &Digest, size: Option<u64>) -> Response {
    let mut response = begin(request, digest);
    match (response.status(), size) {
        (StatusCode::OK, Some(size)) => {
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
        }
        // What GET would send too, and a body whose end is not known: or the length of HEAD's own empty one would be taken for the
        // blob's.
        (StatusCode::OK, None) => {
            *response.body_mut() = Body::from_stream(futures_util::stream::empty::<std::io::Result<Bytes>>());
            response.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        _ => {}
    }
    response
}

fn get(request: &HeaderMap, digest: &Digest, content: Content, metrics: &Arc<Metrics>) -> Response {
    let mut response = begin(request, digest);
    if response.status() == StatusCode::NOT_MODIFIED {
        return response;
    }
    let Some(size) = content.size else {
        // A range of an unknown size cannot be answered for; the whole may be sent instead (RFC 9110 §14.2).
        *response.body_mut() = Body::from_stream(content.stream(None, Arc::clone(metrics)));
        return response;
    };
    let range = match wanted(request, digest).map(|range| range.resolve(size)) {
        None => None,
        Some(Ok(range)) => Some(range),
        Some(Err(_)) => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            response.headers_mut().insert(CONTENT_RANGE, headers::value(&format!("bytes */{size}")));
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
            return response;
        }
    };
    let Range { start, end } = range.clone().unwrap_or(0..size);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(end - start));
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        response.headers_mut().insert(CONTENT_RANGE, headers::value(&format!("bytes {start}-{}/{size}", end - 1)));
    }
    *response.body_mut() = match content.as_memory() {
        // Known to be whole: no stream, so that head and body go out in one write.
        Some(bytes) if range.is_none() => Body::from(bytes.clone()),
        _ => Body::from_stream(content.stream(range, Arc::clone(metrics))),
    };
    response
}

/// The range that is asked for, unless `If-Range` names another content.
fn wanted(request: &HeaderMap, digest: &Digest) -> Option<ByteRange> {
    if let Some(condition) = request.get(IF_RANGE) {
        let tag = condition.to_str().ok()?.trim_matches('"');
        if tag.parse() != Ok(*digest) {
            return None;
        }
    }
    ByteRange::parse(request.get(RANGE)?.to_str().ok()?)
}
