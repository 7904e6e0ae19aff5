//! GET of tag lists and referrers.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LINK, WARNING};
use http::{HeaderValue, Method};

use super::error::{self, Subject};
use super::headers;
use super::observe::Outcome;
use crate::cache::{CacheError, ListAnswer, Origin};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// `path` and `ns` are the request's own: the link to the next page leads to where this one was.
pub(super) fn serve(subject: Subject, method: &Method, path: &str, ns: Option<&str>, result: Result<ListAnswer, CacheError>) -> Outcome {
    let answer = match result {
        Ok(answer) => answer,
        Err(error) => return Outcome::new(error::of_cache(&error, subject)).because(error.to_string()),
    };
    let origin = if answer.stale.is_some() { Origin::Stale } else { Origin::Miss };
    let mut response = Response::new(Body::empty());
    let fields = response.headers_mut();
    fields.insert(headers::API_VERSION, headers::API_VERSION_VALUE);
    fields.insert(CONTENT_TYPE, headers::value(&answer.content_type));
    fields.insert(CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
    if let Some(query) = answer.next {
        let ns = ns.map(|ns| format!("&ns={ns}")).unwrap_or_default();
        fields.insert(LINK, headers::value(&format!("<{path}?{query}{ns}>; rel=\"next\"")));
    }
    if let Some(filters) = answer.filters_applied {
        fields.insert(FILTERS_APPLIED, headers::value(&filters));
    }
    if let Some(reason) = answer.stale {
        fields.insert(WARNING, headers::value(&format!("111 kuik \"from the cache: {}\"", reason.replace(['"', '\\'], "'"))));
    }
    if method == Method::GET {
        *response.body_mut() = Body::from(answer.body);
    }
    Outcome::new(response).from(origin)
}
