//! An image as one file, which containerd imports: a tar archive of an OCI layout.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;
use tempfile::TempDir;

use super::Image;
use crate::process::run;

/// Writes `image` to `path`; it is imported under `name`, with its registry and tag.
pub fn archive(image: &Image, name: &str, path: &Path) -> Result<()> {
    let dir = TempDir::with_prefix("kuik-layout-").context("make a directory for a layout")?;
    let blobs = dir.path().join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    for content in image.blobs.iter().chain(&image.manifests) {
        fs::write(blobs.join(content.digest.trim_start_matches("sha256:")), &content.bytes)?;
    }
    let mut root = image.root().descriptor();
    root["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [root] });
    fs::write(dir.path().join("index.json"), index.to_string())?;
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut tar = Command::new("tar");
    run(tar.arg("-cf").arg(path).arg("-C").arg(dir.path()).args(["oci-layout", "index.json", "blobs"]))?;
    Ok(())
}
