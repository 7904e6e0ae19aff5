//! What an operator sees of the cache: its images, their size, age and completeness.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Cache;
use crate::oci::{Descriptor, Digest, Image, Manifest, Repository};
use crate::store::{TagRecord, UpstreamStatus};

/// How deep indexes within indexes are followed; deeper ones exist only to cause harm.
pub(super) const DEPTH_MAX: usize = 8;

/// One image of `kuik-agent ls`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageEntry {
    pub reference: String,
    pub digest: String,
    pub media_type: String,
    /// Bytes of it on this node, each blob counted once.
    pub size_bytes: u64,
    /// Whether one platform of it, at least, is here as a whole.
    pub complete: bool,
    pub last_used: Option<jiff::Timestamp>,
    /// When upstream last confirmed the tag; nothing for a digest.
    pub validated_at: Option<jiff::Timestamp>,
    pub upstream_status: Option<UpstreamStatus>,
}

/// One image of `kuik-agent inspect`.
#[derive(Debug, Serialize)]
pub struct ImageDetail {
    #[serde(flatten)]
    pub image: ImageEntry,
    pub manifests: Vec<ManifestEntry>,
}

/// A manifest of an image: itself, or one of an index.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestEntry {
    pub digest: String,
    pub media_type: Option<String>,
    pub size_bytes: Option<u64>,
    pub platform: Option<String>,
    pub cached: bool,
    pub blobs: Vec<BlobEntry>,
}

/// A blob of a manifest.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobEntry {
    pub digest: String,
    pub media_type: Option<String>,
    pub size_bytes: Option<u64>,
    pub cached: bool,
}

impl Cache {
    /// All images: every tag, and every manifest by digest that no tag's image holds.
    pub async fn images(&self) -> Vec<ImageEntry> {
        let catalogue = self.store.catalogue();
        let mut images = Vec::new();
        let mut held: BTreeSet<(Repository, Digest)> = BTreeSet::new();
        for (repository, tag, record) in catalogue.tags {
            let image = Image::new(repository.clone(), Some(tag), None);
            let detail = self.detail(&image, record.digest, Some(&record)).await;
            held.extend(detail.manifests.iter().filter_map(|manifest| Some((repository.clone(), manifest.digest.parse().ok()?))));
            held.insert((repository, record.digest));
            images.push(detail.image);
        }
        for (repository, digest, _) in catalogue.manifests {
            if !held.contains(&(repository.clone(), digest)) {
                let image = Image::new(repository, None, Some(digest));
                images.push(self.detail(&image, digest, None).await.image);
            }
        }
        images
    }

    /// One image, if its tag or its manifest is known.
    pub async fn image(&self, image: &Image) -> Option<ImageDetail> {
        let repository = image.repository();
        if let Some(digest) = image.digest() {
            self.store.manifest_media_type(repository, digest)?;
            return Some(self.detail(image, *digest, None).await);
        }
        let record = self.store.tag(repository, image.tag()?)?;
        Some(self.detail(image, record.digest, Some(&record)).await)
    }

    async fn detail(&self, image: &Image, digest: Digest, tag: Option<&TagRecord>) -> ImageDetail {
        let media_type = self.store.manifest_media_type(image.repository(), &digest).flatten();
        let walk = self.walk(digest, media_type.clone()).await;
        let time = |seconds: u64| jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok();
        let entry = ImageEntry {
            reference: image.to_string(),
            digest: digest.to_string(),
            media_type: media_type.unwrap_or_default(),
            size_bytes: walk.bytes,
            complete: walk.complete,
            last_used: self.store.blob_record(&digest).filter(|record| record.used > 0).and_then(|record| time(record.used)),
            validated_at: tag.and_then(|tag| time(tag.validated_at)),
            upstream_status: tag.map(|tag| tag.upstream_status),
        };
        ImageDetail { image: entry, manifests: walk.manifests }
    }
}

impl Cache {
    pub(super) async fn walk(&self, root: Digest, media_type: Option<String>) -> Walk<'_> {
        let mut walk = Walk { cache: self, manifests: Vec::new(), counted: BTreeSet::new(), bytes: 0, complete: false };
        walk.follow(root, media_type).await;
        walk
    }
}

/// A manifest that is still to be read.
struct Open {
    digest: Digest,
    media_type: Option<String>,
    size: Option<u64>,
    platform: Option<String>,
}

impl From<&Descriptor> for Open {
    fn from(child: &Descriptor) -> Self {
        Self { digest: child.digest, media_type: child.media_type.clone(), size: child.size, platform: child.platform.clone() }
    }
}

/// Follows a manifest to everything it references, without recursion.
pub(super) struct Walk<'a> {
    cache: &'a Cache,
    pub(super) manifests: Vec<ManifestEntry>,
    counted: BTreeSet<Digest>,
    pub(super) bytes: u64,
    pub(super) complete: bool,
}

impl Walk<'_> {
    async fn follow(&mut self, root: Digest, media_type: Option<String>) {
        let mut open = vec![(Open { digest: root, media_type, size: None, platform: None }, 0)];
        while let Some((Open { digest, media_type, size, platform }, depth)) = open.pop() {
            if depth > DEPTH_MAX || !self.counted.insert(digest) {
                continue;
            }
            let bytes = self.cache.store.read_verified(&digest).await.ok().flatten();
            let manifest = bytes.as_ref().and_then(|bytes| Manifest::parse(bytes).ok());
            let size_bytes = bytes.as_ref().map(|bytes| bytes.len() as u64).or(size);
            self.bytes += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            let mut entry =
                ManifestEntry { digest: digest.to_string(), media_type, size_bytes, platform, cached: bytes.is_some(), blobs: Vec::new() };
            if let Some(manifest) = manifest {
                let children = manifest.children.iter().filter(|child| child.is_manifest);
                open.extend(children.map(|child| (Open::from(child), depth + 1)));
                entry.blobs = self.blobs(&manifest);
                self.complete |= !entry.blobs.is_empty() && entry.blobs.iter().all(|blob| blob.cached);
            }
            self.manifests.push(entry);
        }
    }

    fn blobs(&mut self, manifest: &Manifest) -> Vec<BlobEntry> {
        let mut entries = Vec::new();
        for child in manifest.children.iter().filter(|child| !child.is_manifest) {
            let record = self.cache.store.blob_record(&child.digest);
            if let Some(record) = record
                && self.counted.insert(child.digest)
            {
                self.bytes += record.size;
            }
            entries.push(BlobEntry {
                digest: child.digest.to_string(),
                media_type: child.media_type.clone(),
                size_bytes: record.map(|record| record.size).or(child.size),
                cached: record.is_some(),
            });
        }
        entries
    }
}
