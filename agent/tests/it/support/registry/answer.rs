//! From a request to an answer: what a correct registry says, bent by the faults in force.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json as value};

use super::body::Script;
use super::fault::Fault;
use super::journal::Seen;
use super::lists;
use super::serve::{Flush, HangUp};
use super::{Inner, content::Content};

const FORM_BYTES_MAX: usize = 64 << 10;
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What there is to send, before faults.
struct Found {
    bytes: Bytes,
    media_type: String,
    digest: String,
}

pub(super) async fn answer(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let form = axum::body::to_bytes(body, FORM_BYTES_MAX).await.unwrap_or_default();
    let seen = inner.journal.write(&parts, &form);
    let flush = parts.extensions.get::<Flush>().cloned().unwrap_or_default();
    let response = match inner.refuse(&seen) {
        Some(refusal) => refusal,
        None => respond(&inner, &seen, flush).await,
    };
    seen.answered(response.status().as_u16());
    response
}

async fn respond(inner: &Inner, seen: &Seen, flush: Flush) -> Response {
    let faults = inner.faults.take(seen);
    for fault in &faults {
        match fault {
            Fault::HoldHead(gate) => gate.pass().await,
            Fault::Hang => std::future::pending().await,
            _ => {}
        }
    }
    let mut response = faults.iter().find_map(instead).unwrap_or_else(|| correct(inner, seen, &faults, flush));
    for fault in &faults {
        bend_head(&mut response, fault);
    }
    response
}

/// The whole answer, where a fault decides it.
fn instead(fault: &Fault) -> Option<Response> {
    Some(match fault {
        Fault::Status(status) => error(StatusCode::from_u16(*status).unwrap(), "UNKNOWN", "as told"),
        Fault::StatusWith(status, name, value) => {
            let mut response = error(StatusCode::from_u16(*status).unwrap(), "UNKNOWN", "as told");
            response.headers_mut().insert(*name, value.parse().unwrap());
            response
        }
        Fault::Body(media_type, text) => {
            Response::builder().header(header::CONTENT_TYPE, *media_type).body(Body::from(text.clone())).unwrap()
        }
        Fault::Redirect(to) => redirect(307, to),
        Fault::RedirectWith(status, to) => redirect(*status, to),
        Fault::BreakHead => Response::builder().extension(HangUp).body(Body::empty()).unwrap(),
        _ => return None,
    })
}

fn redirect(status: u16, to: &str) -> Response {
    Response::builder().status(status).header(header::LOCATION, to).body(Body::empty()).unwrap()
}

fn bend_head(response: &mut Response, fault: &Fault) {
    let headers = response.headers_mut();
    match fault {
        Fault::NoLength => drop(headers.remove(header::CONTENT_LENGTH)),
        Fault::NoDigest => drop(headers.remove(DIGEST)),
        Fault::SayDigest(digest) => drop(headers.insert(DIGEST, digest.parse().unwrap())),
        Fault::NoType => drop(headers.remove(header::CONTENT_TYPE)),
        Fault::Header(name, value) => drop(headers.insert(*name, value.parse().unwrap())),
        _ => {}
    }
}

fn correct(inner: &Inner, seen: &Seen, faults: &[Fault], flush: Flush) -> Response {
    if seen.path == "/token" {
        return inner.auth.issue(seen);
    }
    if !matches!(seen.method, Method::GET | Method::HEAD) {
        return error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "GET and HEAD only");
    }
    if matches!(seen.path.as_str(), "/v2/" | "/v2") {
        return json(&value!({}));
    }
    let mut content = inner.content.lock().unwrap();
    let found = if let Some(digest) = seen.path.strip_prefix("/cdn/") {
        cdn(&content, digest)
    } else {
        match below_v2(&mut content, inner, seen) {
            Ok(Reply::Content(found)) => Ok(found),
            Ok(Reply::List(response)) => return response,
            Err(refusal) => Err(refusal),
        }
    };
    match found {
        Ok(found) => send(found, seen, faults, flush),
        Err(refusal) => refusal.into_response(),
    }
}

enum Reply {
    Content(Found),
    List(Response),
}

/// What is missing, and its code.
struct Unknown(&'static str);

impl Unknown {
    fn into_response(self) -> Response {
        error(StatusCode::NOT_FOUND, self.0, "not here")
    }
}

fn cdn(content: &Content, digest: &str) -> Result<Found, Unknown> {
    let unknown = || Unknown("BLOB_UNKNOWN");
    let bytes = digest.parse().ok().and_then(|digest| content.any_blob(&digest)).ok_or_else(unknown)?;
    Ok(Found { bytes, media_type: "application/octet-stream".to_owned(), digest: digest.to_owned() })
}

fn below_v2(content: &mut Content, inner: &Inner, seen: &Seen) -> Result<Reply, Unknown> {
    let path = seen.path.strip_prefix("/v2/").ok_or(Unknown("UNSUPPORTED"))?;
    let (before, reference) = path.rsplit_once('/').ok_or(Unknown("UNSUPPORTED"))?;
    let (name, marker) = before.rsplit_once('/').ok_or(Unknown("UNSUPPORTED"))?;
    let repository = content.repositories.get(name).ok_or(Unknown("NAME_UNKNOWN"))?;
    Ok(match marker {
        "manifests" => {
            let stored = repository.find(reference).ok_or(Unknown("MANIFEST_UNKNOWN"))?.clone();
            Reply::Content(Found { bytes: stored.bytes, media_type: stored.media_type, digest: stored.digest.to_string() })
        }
        "blobs" => {
            let bytes = reference.parse().ok().and_then(|digest| repository.blobs.get(&digest)).ok_or(Unknown("BLOB_UNKNOWN"))?;
            Reply::Content(Found { bytes: bytes.clone(), media_type: "application/octet-stream".to_owned(), digest: reference.to_owned() })
        }
        "tags" => Reply::List(lists::tags(name, repository, seen, inner.page_size())),
        "referrers" if inner.has_referrers() => Reply::List(lists::referrers(repository, reference, seen)),
        _ => return Err(Unknown("UNSUPPORTED")),
    })
}

/// The content with its faults, whole or the range that was asked for.
fn send(found: Found, seen: &Seen, faults: &[Fault], flush: Flush) -> Response {
    let bytes = bend_bytes(found.bytes, faults);
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, found.media_type)
        .header(header::ETAG, format!("\"{}\"", found.digest))
        .header(header::ACCEPT_RANGES, "bytes")
        .header("docker-distribution-api-version", "registry/2.0")
        .header(DIGEST, found.digest);
    let ignores_range = faults.iter().any(|fault| matches!(fault, Fault::NoRange));
    let asked = seen.range().filter(|_| !ignores_range && seen.method == Method::GET);
    let part = match asked.and_then(|header| resolve(header, bytes.len())) {
        None => 0..bytes.len(),
        Some(Err(())) => return unsatisfiable(bytes.len()),
        Some(Ok(mut part)) => {
            let shift: usize = faults.iter().map(|fault| if let Fault::ShiftRange(by) = fault { *by } else { 0 }).sum();
            part.start = (part.start + shift).min(part.end.saturating_sub(1));
            let content_range = format!("bytes {}-{}/{}", part.start, part.end - 1, bytes.len());
            response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, content_range);
            part
        }
    };
    let response = response.header(header::CONTENT_LENGTH, part.len());
    let body = match seen.method {
        Method::HEAD => Body::empty(),
        _ => Script::new(&bytes.slice(part), faults, seen.clone(), flush).into_body(),
    };
    response.body(body).unwrap()
}

fn bend_bytes(bytes: Bytes, faults: &[Fault]) -> Bytes {
    let mut bent = Vec::new();
    for fault in faults {
        if bent.is_empty() && matches!(fault, Fault::FlipFirst | Fault::FlipLast | Fault::CutLast(_) | Fault::Append(_)) {
            bent = bytes.to_vec();
        }
        match fault {
            Fault::FlipFirst => bent[0] ^= 1,
            Fault::FlipLast => *bent.last_mut().unwrap() ^= 1,
            Fault::CutLast(count) => bent.truncate(bent.len() - count),
            Fault::Append(count) => bent.resize(bent.len() + count, b'+'),
            _ => {}
        }
    }
    if bent.is_empty() { bytes } else { Bytes::from(bent) }
}

/// A single range as RFC 9110 reads it; `None` for what is ignored.
fn resolve(header: &str, size: usize) -> Option<Result<Range<usize>, ()>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => first..size.min(last + 1),
        (Ok(first), Err(_)) => first..size,
        (Err(_), Ok(count)) => size.saturating_sub(count)..size,
        (Err(_), Err(_)) => return None,
    };
    Some(if range.start < range.end { Ok(range) } else { Err(()) })
}

fn unsatisfiable(size: usize) -> Response {
    let mut response = error(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", "no such bytes");
    response.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::from_str(&format!("bytes */{size}")).unwrap());
    response
}

pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let mut response = json(&value!({ "errors": [{ "code": code, "message": message }] }));
    *response.status_mut() = status;
    response
}

pub(super) fn json(document: &Value) -> Response {
    Response::builder().header(header::CONTENT_TYPE, "application/json").body(Body::from(document.to_string())).unwrap()
}
