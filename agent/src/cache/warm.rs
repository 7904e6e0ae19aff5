//! Filling the cache with an image before anybody asks for it: `kuik-agent pull`.

use std::collections::BTreeSet;

use serde::Serialize;
use tokio::sync::mpsc;

use super::error::CacheError;
use super::fill::Phase;
use super::{Cache, ManifestAnswer};
use crate::oci::{Descriptor, Digest, Image, Manifest, Repository, Target};

/// Which manifests of an index are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    All,
    /// As `os/architecture` or `os/architecture/variant`; an image that is for none of its platforms is taken as a whole.
    One(String),
}

/// What `kuik-agent pull` reports, a line each.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum WarmEvent {
    Manifest { digest: String, media_type: String, size_bytes: u64 },
    Blob { digest: String, size_bytes: Option<u64>, done_bytes: u64, cached: bool },
    Error { message: String },
    Done { digest: String, bytes: u64 },
}

impl Cache {
    /// Fetches an image, layer after layer, and tells how far it is. Ends when it is whole, failed, or nobody listens any more.
    pub async fn warm(&self, image: &Image, platforms: &Platforms, events: mpsc::Sender<WarmEvent>) {
        let last = match self.warm_all(image, platforms, &events).await {
            Ok(done) => done,
            Err(error) => WarmEvent::Error { message: error.to_string() },
        };
        // Nobody may be listening any more; the image is here all the same.
        let _ = events.send(last).await;
    }

    async fn warm_all(&self, image: &Image, platforms: &Platforms, events: &mpsc::Sender<WarmEvent>) -> Result<WarmEvent, CacheError> {
        let repository = image.repository();
        let root = self.manifest(repository, &image.target()).await?;
        let root_digest = root.digest;
        let mut bytes = 0;
        let mut seen = BTreeSet::from([root.digest]);
        let mut open = vec![root];
        while let Some(answer) = open.pop() {
            let manifest = self.announce(repository, &answer, events).await?;
            bytes += answer.bytes.len() as u64;
            for child in choose(&manifest, &answer.bytes, platforms) {
                if !seen.insert(child.digest) {
                    continue;
                }
                if child.is_manifest {
                    open.push(self.manifest(repository, &Target::Digest(child.digest)).await?);
                } else {
                    bytes += self.warm_blob(repository, &child, events).await?;
                }
            }
        }
        Ok(WarmEvent::Done { digest: root_digest.to_string(), bytes })
    }

    async fn announce(
        &self,
        repository: &Repository,
        answer: &ManifestAnswer,
        events: &mpsc::Sender<WarmEvent>,
    ) -> Result<Manifest, CacheError> {
        let manifest = Manifest::parse(&answer.bytes).map_err(|error| CacheError::no_manifest(repository, &error))?;
        let (digest, media_type) = (answer.digest.to_string(), answer.media_type.clone());
        // As in `warm`: whether anybody listens changes nothing.
        let _ = events.send(WarmEvent::Manifest { digest, media_type, size_bytes: answer.bytes.len() as u64 }).await;
        Ok(manifest)
    }

    async fn warm_blob(&self, repository: &Repository, child: &Descriptor, events: &mpsc::Sender<WarmEvent>) -> Result<u64, CacheError> {
        let digest = &child.digest;
        let report = |size_bytes, done_bytes, cached| {
            let event = WarmEvent::Blob { digest: digest.to_string(), size_bytes, done_bytes, cached };
            async move {
                let _ = events.send(event).await;
            }
        };
        if let Some(blob) = self.store.open_blob(digest).await? {
            report(Some(blob.size), blob.size, true).await;
            return Ok(blob.size);
        }
        let fill = self.fills.join_or_lead(self.wanted(repository, digest));
        let mut progress = fill.watch();
        // A fill that is over already, and only being synced, was somebody else's.
        let cached = matches!(progress.borrow().phase, Phase::Verified);
        loop {
            let (phase, frontier, size) = {
                let now = progress.borrow_and_update();
                (now.phase.clone(), now.frontier, now.size)
            };
            report(size.or(child.size), frontier, cached).await;
            match phase {
                Phase::Verified => return Ok(frontier),
                Phase::Failed(error) => return Err(error),
                Phase::Detached { .. } => return Err(CacheError::Store("the disk cannot take it; see the agent's log".to_owned())),
                Phase::Opening | Phase::Flowing => progress.changed().await.map_err(|_| CacheError::Lost)?,
            }
        }
    }
}

/// The children to fetch: everything, or of an index what is for the platform. An index in which nothing is for it is taken whole.
fn choose(manifest: &Manifest, bytes: &[u8], platforms: &Platforms) -> Vec<Descriptor> {
    let Platforms::One(wanted) = platforms else {
        return manifest.children.clone();
    };
    let fitting = for_platform(bytes, wanted);
    let chosen: Vec<_> = manifest.children.iter().filter(|child| !child.is_manifest || fitting.contains(&child.digest)).cloned().collect();
    if chosen.is_empty() { manifest.children.clone() } else { chosen }
}

fn for_platform(bytes: &[u8], wanted: &str) -> BTreeSet<Digest> {
    let index: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let manifests = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
    let fits = |manifest: &&serde_json::Value| {
        let platform = &manifest["platform"];
        let part = |name: &str| platform[name].as_str().unwrap_or_default();
        let name = format!("{}/{}", part("os"), part("architecture"));
        // Nested indexes have no platform: they are looked into.
        platform.is_null() || name == wanted || format!("{name}/{}", part("variant")) == wanted
    };
    manifests.iter().filter(fits).filter_map(|manifest| manifest["digest"].as_str()?.parse().ok()).collect()
}
