//! Images of every kind, made of deterministic bytes.

use kuik_crd::Digest;
use serde_json::{Value, json};
use sha2::Digest as _;

use super::registry::FakeRegistry;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub(crate) const EMPTY: &str = "application/vnd.oci.empty.v1+json";

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::Sha256(sha2::Sha256::digest(bytes).into())
}

pub(crate) fn sha512_of(bytes: &[u8]) -> Digest {
    Digest::Sha512(sha2::Sha512::digest(bytes).into())
}

const BLOCK_BYTES: usize = 64 << 10;

/// `size` bytes that look random, the same for the same seed. Blocks of 64 KiB repeat but for the number that each begins with.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let block = splitmix(seed, size.min(BLOCK_BYTES));
    let mut bytes = Vec::with_capacity(size + BLOCK_BYTES);
    for number in 0_u64.. {
        let begin = bytes.len();
        if begin >= size {
            break;
        }
        bytes.extend_from_slice(&block);
        if number > 0 {
            bytes[begin..begin + 8].copy_from_slice(&number.to_le_bytes());
        }
    }
    bytes.truncate(size);
    bytes
}

fn splitmix(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut word = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend(word());
    }
    bytes.truncate(size);
    bytes
}

/// Bytes that a manifest names.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
}

impl Blob {
    pub(crate) fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { digest: digest_of(&bytes), media_type, bytes }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest.to_string(), "size": self.bytes.len() })
    }
}

/// A manifest or an index, with everything below it.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) digest: Digest,
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// Config and layers, in this order.
    pub(crate) blobs: Vec<Blob>,
    /// What an index lists.
    pub(crate) children: Vec<Image>,
}

impl Image {
    /// The document is written with odd white space and the key order given: who re-serialises it is found out.
    fn new(media_type: &'static str, document: &Value, blobs: Vec<Blob>, children: Vec<Self>) -> Self {
        let mut bytes = serde_json::to_vec_pretty(document).unwrap();
        bytes.extend(b"\n\t ");
        Self { digest: digest_of(&bytes), media_type, bytes, blobs, children }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest.to_string(), "size": self.bytes.len() })
    }

    /// The only layer, or the first.
    pub(crate) fn layer(&self) -> &Blob {
        &self.blobs[1]
    }

    /// Puts it, and everything below it, into a repository, without a tag.
    pub(crate) fn push_untagged(&self, upstream: &FakeRegistry, repository: &str) {
        for blob in &self.blobs {
            upstream.add_blob(repository, blob.bytes.clone());
        }
        for child in &self.children {
            child.push_untagged(upstream, repository);
        }
        upstream.add_manifest(repository, self.media_type, self.bytes.clone());
    }

    /// Puts it into a repository and tags it.
    pub(crate) fn push(&self, upstream: &FakeRegistry, repository: &str, tag: &str) {
        self.push_untagged(upstream, repository);
        upstream.tag(repository, tag, self.digest);
    }
}

fn config(media_type: &'static str, seed: u64, architecture: &str) -> Blob {
    let document = json!({ "architecture": architecture, "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] }, "seed": seed });
    Blob::new(media_type, serde_json::to_vec(&document).unwrap())
}

fn manifest(media_type: &'static str, blobs: Vec<Blob>, more: Value) -> Image {
    let mut document = json!({ "schemaVersion": 2, "mediaType": media_type, "config": blobs[0].descriptor() });
    document["layers"] = blobs[1..].iter().map(Blob::descriptor).collect();
    merge(&mut document, more);
    Image::new(media_type, &document, blobs, Vec::new())
}

fn merge(document: &mut Value, more: Value) {
    if let (Value::Object(document), Value::Object(more)) = (document, more) {
        document.extend(more);
    }
}

/// An OCI image with layers of these sizes. Another seed makes another image.
pub(crate) fn simple(seed: u64, layer_sizes: &[usize]) -> Image {
    layered(seed, OCI_MANIFEST, OCI_CONFIG, OCI_LAYER, layer_sizes)
}

/// A Docker image, schema 2.
pub(crate) fn docker(seed: u64, layer_sizes: &[usize]) -> Image {
    layered(seed, DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER, layer_sizes)
}

pub(crate) fn zstd(seed: u64, layer_sizes: &[usize]) -> Image {
    layered(seed, OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_ZSTD, layer_sizes)
}

fn layered(seed: u64, media_type: &'static str, config_type: &'static str, layer_type: &'static str, sizes: &[usize]) -> Image {
    let layers = (1..).zip(sizes).map(|(i, size)| Blob::new(layer_type, noise(seed * 1000 + i, *size)));
    manifest(media_type, std::iter::once(config(config_type, seed, "amd64")).chain(layers).collect(), json!({}))
}

/// An OCI image with just these layers.
pub(crate) fn with_layers(seed: u64, layers: Vec<Blob>) -> Image {
    manifest(OCI_MANIFEST, std::iter::once(config(OCI_CONFIG, seed, "amd64")).chain(layers).collect(), json!({}))
}

/// An artifact about `subject`: a signature, say.
pub(crate) fn referrer(seed: u64, artifact_type: &str, subject: &Image) -> Image {
    let empty = Blob::new(EMPTY, b"{}".to_vec());
    let more = json!({
        "artifactType": artifact_type,
        "subject": subject.descriptor(),
        "annotations": { "org.example.seed": seed.to_string() },
    });
    manifest(OCI_MANIFEST, vec![empty, Blob::new("application/vnd.example.data", noise(seed, 100))], more)
}

/// An image whose manifest has exactly this size.
pub(crate) fn padded(seed: u64, manifest_size: usize) -> Image {
    let image = |padding: usize| {
        let blobs = vec![config(OCI_CONFIG, seed, "amd64"), Blob::new(OCI_LAYER, noise(seed, 100))];
        manifest(OCI_MANIFEST, blobs, json!({ "annotations": { "org.example.padding": "p".repeat(padding) } }))
    };
    let bare_size = image(0).bytes.len();
    image(manifest_size - bare_size)
}

fn index_of(media_type: &'static str, children: Vec<Image>, platforms: &[Value]) -> Image {
    let mut document = json!({ "schemaVersion": 2, "mediaType": media_type });
    let entries = children.iter().zip(platforms).map(|(child, platform)| {
        let mut entry = child.descriptor();
        entry["platform"] = platform.clone();
        entry
    });
    document["manifests"] = entries.collect();
    Image::new(media_type, &document, Vec::new(), children)
}

fn platform(architecture: &str) -> Value {
    json!({ "architecture": architecture, "os": "linux" })
}

/// An OCI index of two platforms and, as `docker buildx` adds it, an attestation.
pub(crate) fn multi_platform(seed: u64, layer_size: usize) -> Image {
    let statement = Blob::new("application/vnd.in-toto+json", noise(seed + 70, 500));
    let attestation = manifest(OCI_MANIFEST, vec![config(OCI_CONFIG, seed + 70, "unknown"), statement], json!({}));
    let children = vec![simple(seed + 10, &[layer_size]), simple(seed + 20, &[layer_size]), attestation];
    let unknown = json!({ "architecture": "unknown", "os": "unknown" });
    index_of(OCI_INDEX, children, &[platform("amd64"), platform("arm64"), unknown])
}

/// A Docker manifest list of two platforms.
pub(crate) fn docker_list(seed: u64, layer_size: usize) -> Image {
    let children = vec![docker(seed + 10, &[layer_size]), docker(seed + 20, &[layer_size])];
    index_of(DOCKER_LIST, children, &[platform("amd64"), platform("s390x")])
}

/// An index that lists an index and an image.
pub(crate) fn nested(seed: u64, layer_size: usize) -> Image {
    let children = vec![multi_platform(seed + 100, layer_size), simple(seed + 30, &[layer_size])];
    index_of(OCI_INDEX, children, &[platform("amd64"), platform("riscv64")])
}
