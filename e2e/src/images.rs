//! Images of every shape, made here byte by byte and pushed over HTTP.
//!
//! The same call makes the same bytes every time, except that `marker` goes into the content: two
//! tests, or two versions of a tag, get different digests by using different markers.

mod archive;
mod layer;
mod push;
mod shapes;

pub use archive::archive;
pub use layer::{Compression, Layer, plain_layer};
pub use push::{Destination, push, push_manifest};
pub use shapes::{artifact, big, docker, layered, multi_arch, nested, oci, referrer, referrers_index, running, with_layer};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Bytes that a registry stores, with the media type under which others refer to them.
#[derive(Clone, Debug)]
pub struct Content {
    pub media_type: String,
    pub bytes: Vec<u8>,
    pub digest: String,
}

impl Content {
    /// Bytes with their digest.
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        let digest = sha256(&bytes);
        Self { media_type: media_type.to_owned(), bytes, digest }
    }

    /// The descriptor that a manifest refers to this by.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// A manifest or index with everything below it.
#[derive(Clone, Debug)]
pub struct Image {
    /// Configs and layers, of all platforms.
    pub blobs: Vec<Content>,
    /// Manifests, children before the index that lists them.
    pub manifests: Vec<Content>,
}

impl Image {
    /// The manifest or index that a tag points at.
    ///
    /// # Panics
    ///
    /// On an image without a manifest, which no function here makes.
    pub fn root(&self) -> &Content {
        self.manifests.last().expect("an image must have a manifest")
    }
}

/// `sha256:…` of these bytes.
pub fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String must succeed");
        text
    })
}
