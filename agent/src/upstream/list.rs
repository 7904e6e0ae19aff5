//! Lists: the tags of a repository, the referrers of a manifest.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, LINK};
use http::{HeaderMap, Method};

use super::ask::{Answer, Operation, Question};
use super::error::UpstreamError;
use crate::oci::{Digest, Page};

const LIST_BYTES_MAX: usize = 16 << 20;
const OCI_FILTERS_APPLIED: &str = "oci-filters-applied";
const LIST_ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/json, */*";

/// A list to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum List {
    /// The tags of the repository.
    Tags(Page),
    /// What refers to a manifest.
    Referrers { digest: Digest, artifact_type: Option<String> },
}

/// A list as upstream sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListReply {
    /// At most 16 MiB.
    pub body: Bytes,
    /// Its `Content-Type`, verbatim.
    pub content_type: Option<String>,
    /// The query of the URL under which the list goes on, as upstream wrote it.
    pub next: Option<String>,
    /// The `OCI-Filters-Applied` header.
    pub filters_applied: Option<String>,
}

impl Operation for List {
    type Output = ListReply;

    fn is_list(&self) -> bool {
        true
    }

    fn question(&self) -> Question {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let path = match self {
            Self::Tags(Page { n, last }) => {
                query.extend_pairs(n.map(|n| ("n", n.to_string())));
                query.extend_pairs(last.as_ref().map(|last| ("last", last)));
                "tags/list".to_owned()
            }
            Self::Referrers { digest, artifact_type } => {
                query.extend_pairs(artifact_type.as_ref().map(|kind| ("artifactType", kind)));
                format!("referrers/{digest}")
            }
        };
        let query = Some(query.finish()).filter(|query| !query.is_empty());
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(LIST_ACCEPT))]);
        Question { method: Method::GET, path, query, headers }
    }

    async fn read(&self, answer: Answer) -> Result<ListReply, UpstreamError> {
        let incoming = &answer.incoming;
        let links = incoming.response.headers().get_all(LINK).iter().filter_map(|link| link.to_str().ok());
        let next = links.filter_map(next_query).next().map(str::to_owned);
        let content_type = incoming.header(CONTENT_TYPE).map(str::to_owned);
        let filters_applied = incoming.header(OCI_FILTERS_APPLIED).map(str::to_owned);
        let body = answer.into_body().collect(LIST_BYTES_MAX).await?;
        Ok(ListReply { body, content_type, next, filters_applied })
    }
}

/// The query of the URL with `rel=next` in a `Link` header, from RFC 8288 §3.
fn next_query(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let (url, after) = rest.split_once('<')?.1.split_once('>')?;
        let (params, further) = link_params(after);
        if params
            .iter()
            .any(|(name, value)| name.eq_ignore_ascii_case("rel") && value.split(' ').any(|rel| rel.eq_ignore_ascii_case("next")))
        {
            let url = url.split('#').next().unwrap_or_default();
            return url.split_once('?').map(|(_, query)| query).filter(|query| !query.is_empty());
        }
        rest = further;
    }
}

/// The parameters of one link, and what follows the comma after it.
fn link_params(mut rest: &str) -> (Vec<(&str, &str)>, &str) {
    let mut params = Vec::new();
    loop {
        rest = rest.trim_start();
        match rest.strip_prefix(';') {
            Some(after) => rest = after.trim_start(),
            None => return (params, rest.split_once(',').map_or("", |(_, further)| further)),
        }
        let end = rest.find(['=', ';', ',']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let Some(value) = after.strip_prefix('=') else {
            rest = after;
            continue;
        };
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => value.split_at(value.find([';', ',']).unwrap_or(value.len())),
        };
        params.push((name.trim(), value.trim()));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn where_a_list_goes_on() {
        let check = |header: &str, want: Option<&str>| assert_eq!(next_query(header), want, "{header}");
        check(r#"</v2/a/tags/list?n=2&last=b>; rel="next""#, Some("n=2&last=b"));
        check("<https://x.y/v2/a/tags/list?last=b%26c#f>;rel=next", Some("last=b%26c"));
        check(r#"</a?x=1>; rel="prev", </a?x=3,4> ; title="a, b; c" ; REL="up Next""#, Some("x=3,4"));
        check(r#"</a?x=1>; rel="nextish""#, None);
        check(r#"</a>; rel="next""#, None);
        check("</a?x=1>", None);
        check("", None);
    }

    proptest! {
        #[test]
        fn no_link_panics(header in "\\PC{0,60}") {
            let _ = next_query(&header);
        }

        #[test]
        fn no_link_of_about_the_right_shape_panics(header in "(<[a?=>#]{0,5}>?[;, ]{0,2}(rel|=|\"|next){0,4}){0,4}") {
            let _ = next_query(&header);
        }
    }
}
