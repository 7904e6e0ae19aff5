//! Tag lists by page, and referrers.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde_json::json;

use super::answer;
use super::content::Repository;
use super::journal::Seen;

pub(super) fn tags(name: &str, repository: &Repository, seen: &Seen, page_size: Option<usize>) -> Response {
    let asked = parameter(seen, "n").and_then(|n| n.parse::<usize>().ok());
    let last = parameter(seen, "last").unwrap_or_default();
    let n = asked.into_iter().chain(page_size).min().unwrap_or(usize::MAX);
    let mut after = repository.tags.keys().filter(|tag| **tag > last);
    let page: Vec<&String> = after.by_ref().take(n).collect();
    let more = after.next().is_some();
    let mut response = answer::json(&json!({ "name": name, "tags": page }));
    if let (true, Some(end)) = (more, page.last()) {
        let link = format!("</v2/{name}/tags/list?last={end}&n={n}>; rel=\"next\"");
        response.headers_mut().insert(header::LINK, HeaderValue::from_str(&link).unwrap());
    }
    response
}

pub(super) fn referrers(repository: &Repository, subject: &str, seen: &Seen) -> Response {
    let artifact_type = parameter(seen, "artifactType");
    let index = repository.referrers(subject, artifact_type.as_deref()).to_string();
    let mut response = Response::builder().header(header::CONTENT_TYPE, "application/vnd.oci.image.index.v1+json");
    if artifact_type.is_some() {
        response = response.header("oci-filters-applied", "artifactType");
    }
    response.body(Body::from(index)).unwrap()
}

fn parameter(seen: &Seen, name: &str) -> Option<String> {
    form_urlencoded::parse(seen.query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
