//! Headers that several answers share.

use http::HeaderValue;
use http::header::{ETAG, HeaderMap, HeaderName, IF_NONE_MATCH};

use crate::oci::Digest;

pub(super) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(super) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(super) const API_VERSION_VALUE: HeaderValue = HeaderValue::from_static("registry/2.0");

/// Content is named by its digest, so the digest is its entity tag.
pub(super) fn insert_digest(headers: &mut HeaderMap, digest: &Digest) {
    let text = digest.to_string();
    headers.insert(ETAG, value(&format!("\"{text}\"")));
    headers.insert(DOCKER_CONTENT_DIGEST, value(&text));
}

/// Whether `If-None-Match` holds the digest, or `*`.
pub(super) fn none_match(headers: &HeaderMap, digest: &Digest) -> bool {
    let Some(header) = headers.get(IF_NONE_MATCH) else {
        return false;
    };
    let Ok(header) = header.to_str() else {
        return false;
    };
    header.split(',').any(|tag| {
        let tag = tag.trim();
        // Clients also send the bare digest.
        tag == "*" || tag.trim_start_matches("W/").trim_matches('"').parse().is_ok_and(|tag: Digest| tag == *digest)
    })
}

/// A header value from text of our own; what cannot stand in a header is left out.
pub(super) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| {
        let clean: String = text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
        HeaderValue::from_str(&clean).expect("printable ASCII must be a header value")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_tag_is_matched_in_all_its_forms() {
        let hex = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let digest: Digest = format!("sha256:{hex}").parse().unwrap();
        let check = |header: &str, want: bool| {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(header).unwrap())]);
            assert_eq!(none_match(&headers, &digest), want, "{header}");
        };
        check(&format!("\"sha256:{hex}\""), true);
        check(&format!("W/\"sha256:{hex}\""), true);
        check(&format!("sha256:{hex}"), true);
        check(&format!("\"x\", \"sha256:{hex}\""), true);
        check("*", true);
        check("\"x\"", false);
        check("", false);
        assert!(!none_match(&HeaderMap::new(), &digest));
    }

    #[test]
    fn text_that_cannot_stand_in_a_header_is_cleaned() {
        assert_eq!(value("a\r\nb: é"), "ab: ");
    }
}
