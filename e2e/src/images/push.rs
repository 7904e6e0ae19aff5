//! Pushes content as the distribution specification says.

use anyhow::{Context as _, Result, ensure};

use super::{Content, Image};
use crate::http;
use crate::registry::Registry;

/// Pushes an image with everything below it, under `tag`.
pub fn push(registry: &Registry, repository: &str, tag: &str, image: &Image) -> Result<()> {
    for blob in &image.blobs {
        push_blob(registry, repository, blob)?;
    }
    for manifest in &image.manifests {
        push_manifest(registry, repository, &manifest.digest, manifest)?;
    }
    push_manifest(registry, repository, tag, image.root())
}

/// Pushes one manifest whose content is there already.
pub fn push_manifest(registry: &Registry, repository: &str, reference: &str, manifest: &Content) -> Result<()> {
    let url = registry.url(repository, &format!("manifests/{reference}"));
    let headers = [("content-type", manifest.media_type.as_str())];
    expect_created(&url, &http::send("PUT", &url, &headers, &manifest.bytes)?)
}

fn push_blob(registry: &Registry, repository: &str, blob: &Content) -> Result<()> {
    let start = registry.url(repository, "blobs/uploads/");
    let reply = http::send("POST", &start, &[], &[])?;
    let location = reply.header("location").with_context(|| format!("POST {start}: no location"))?;
    let base = match location.starts_with('/') {
        true => format!("http://{}{location}", registry.host()),
        false => location.to_owned(),
    };
    let separator = if base.contains('?') { '&' } else { '?' };
    let url = format!("{base}{separator}digest={}", blob.digest);
    let headers = [("content-type", "application/octet-stream")];
    expect_created(&url, &http::send("PUT", &url, &headers, &blob.bytes)?)
}

fn expect_created(url: &str, reply: &http::Reply) -> Result<()> {
    let body = String::from_utf8_lossy(&reply.body);
    ensure!(reply.status == 201, "PUT {url}: {} {body}", reply.status);
    Ok(())
}
