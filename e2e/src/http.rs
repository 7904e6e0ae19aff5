//! A small HTTP client, for making content and for comparing bytes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ureq::http::{Request, Response};

const BODY_LIMIT_BYTES: u64 = 1 << 30;

/// Every manifest media type in use.
pub const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A response with its whole body.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    headers: ureq::http::HeaderMap,
}

impl Reply {
    /// A header as text, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// `GET url`, asking for any kind of manifest. Statuses of 400 and above are no errors here.
pub fn get(url: &str) -> Result<Reply> {
    send("GET", url, &[("accept", ACCEPT_MANIFESTS)], &[])
}

/// Sends one request and reads the whole answer.
pub fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let context = || format!("{method} {url}");
    let request = request.body(body).with_context(context)?;
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(60))).build().into();
    reply(agent.run(request).with_context(context)?).with_context(context)
}

fn reply(response: Response<ureq::Body>) -> Result<Reply> {
    let (parts, mut body) = response.into_parts();
    let body = body.with_config().limit(BODY_LIMIT_BYTES).read_to_vec()?;
    Ok(Reply { status: parts.status.as_u16(), body, headers: parts.headers })
}
