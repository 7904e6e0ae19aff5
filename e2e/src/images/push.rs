//! Pushes content as the distribution specification says.

use anyhow::{Context as _, Result, ensure};

use super::{Content, Image};
use crate::http;
use crate::registry::Registry;

/// A registry to push to, wherever it is.
#[derive(Clone, Debug)]
pub struct Destination {
    /// `address:port`.
    pub host: String,
    /// The value of the `Authorization` header, if it wants one.
    pub authorization: Option<String>,
}

impl Destination {
    /// Pushes an image with everything below it, under `tag`.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<()> {
        for blob in &image.blobs {
            self.push_blob(repository, blob)?;
        }
        for manifest in &image.manifests {
            self.push_manifest(repository, &manifest.digest, manifest)?;
        }
        self.push_manifest(repository, tag, image.root())
    }

    /// Pushes one manifest whose content is there already.
    pub fn push_manifest(&self, repository: &str, reference: &str, manifest: &Content) -> Result<()> {
        let url = format!("http://{}/v2/{repository}/manifests/{reference}", self.host);
        expect_created(&url, &self.send("PUT", &url, &manifest.media_type, &manifest.bytes)?)
    }

    /// Deletes the manifest with this digest, and with it all tags that point at it.
    pub fn delete_manifest(&self, repository: &str, digest: &str) -> Result<()> {
        let url = format!("http://{}/v2/{repository}/manifests/{digest}", self.host);
        let reply = self.send("DELETE", &url, "", &[])?;
        ensure!(reply.status == 202, "DELETE {url}: {} {}", reply.status, String::from_utf8_lossy(&reply.body));
        Ok(())
    }

    fn push_blob(&self, repository: &str, blob: &Content) -> Result<()> {
        let start = format!("http://{}/v2/{repository}/blobs/uploads/", self.host);
        let reply = self.send("POST", &start, "", &[])?;
        let location = reply.header("location").with_context(|| format!("POST {start}: {}, no location", reply.status))?;
        let base = match location.starts_with('/') {
            true => format!("http://{}{location}", self.host),
            false => location.to_owned(),
        };
        let separator = if base.contains('?') { '&' } else { '?' };
        let url = format!("{base}{separator}digest={}", blob.digest);
        expect_created(&url, &self.send("PUT", &url, "application/octet-stream", &blob.bytes)?)
    }

    fn send(&self, method: &str, url: &str, content_type: &str, body: &[u8]) -> Result<http::Reply> {
        let typed = (!content_type.is_empty()).then_some(("content-type", content_type));
        let authorization = self.authorization.as_deref().map(|value| ("authorization", value));
        let headers: Vec<(&str, &str)> = typed.into_iter().chain(authorization).collect();
        http::send(method, url, &headers, body)
    }
}

/// Pushes an image with everything below it, under `tag`.
pub fn push(registry: &Registry, repository: &str, tag: &str, image: &Image) -> Result<()> {
    destination(registry).push(repository, tag, image)
}

/// Pushes one manifest whose content is there already.
pub fn push_manifest(registry: &Registry, repository: &str, reference: &str, manifest: &Content) -> Result<()> {
    destination(registry).push_manifest(repository, reference, manifest)
}

fn destination(registry: &Registry) -> Destination {
    Destination { host: registry.host(), authorization: None }
}

fn expect_created(url: &str, reply: &http::Reply) -> Result<()> {
    let body = String::from_utf8_lossy(&reply.body);
    ensure!(reply.status == 201, "PUT {url}: {} {body}", reply.status);
    Ok(())
}
