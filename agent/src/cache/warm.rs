//! Filling the cache with an image before anybody asks for it: `kuik-agent pull`.

use std::collections::BTreeSet;

use serde::Serialize;
use tokio::sync::mpsc;

use super::catalogue::DEPTH_MAX;
use super::error::CacheError;
use super::fill::Phase;
use super::{Cache, ManifestAnswer};
use crate::oci::{Descriptor, Digest, Image, Manifest, Repository, Target};
use crate::requester::Requester;

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

    pub(super) async fn warm_all(
        &self,
        image: &Image,
        platforms: &Platforms,
        events: &mpsc::Sender<WarmEvent>,
    ) -> Result<WarmEvent, CacheError> {
        let repository = image.repository();
        let root = self.manifest(&Requester::Agent, repository, &image.target()).await?.digest;
        let mut bytes = 0;
        let mut seen = BTreeSet::from([root]);
        let mut open = vec![(root, image.target(), 0)];
        while let Some((digest, target, depth)) = open.pop() {
            let answer = self.manifest(&Requester::Agent, repository, &target).await?;
            let manifest = self.announce(repository, &answer, events).await?;
            bytes += answer.bytes.len() as u64;
            for child in choose(&manifest, platforms) {
                if !seen.insert(child.digest) {
                    continue;
                }
                if child.is_manifest && depth < DEPTH_MAX {
                    open.push((child.digest, Target::Digest(child.digest), depth + 1));
                } else if !child.is_manifest {
                    bytes += self.warm_blob(repository, &child, events).await?;
                }
            }
            tracing::debug!(%repository, %digest, depth, "a manifest is warm");
        }
        Ok(WarmEvent::Done { digest: root.to_string(), bytes })
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
        if let Some(blob) = super::blobs::open_or_miss(&self.store, &child.digest).await {
            self.prove(repository, &child.digest).await?;
            tell(events, child, Some(blob.size), blob.size, true).await;
            return Ok(blob.size);
        }
        self.follow(repository, &child.digest, Some((child, events))).await
    }

    /// Fetches a blob that is not here.
    pub(super) async fn fetch_blob(&self, repository: &Repository, digest: &Digest) -> Result<u64, CacheError> {
        self.follow(repository, digest, None).await
    }

    /// Joins or begins a fill, and follows it until the blob is stored; tells how far it is, if somebody wants to know.
    async fn follow(
        &self,
        repository: &Repository,
        digest: &Digest,
        listener: Option<(&Descriptor, &mpsc::Sender<WarmEvent>)>,
    ) -> Result<u64, CacheError> {
        let fill = self.fills.join_or_lead(self.wanted(&Requester::Agent, repository, digest))?;
        let mut progress = fill.watch();
        // A fill that is over already, and only being synced, was somebody else's.
        let cached = matches!(progress.borrow().phase, Phase::Verified);
        loop {
            let (phase, frontier, size, over) = {
                let now = progress.borrow_and_update();
                (now.phase.clone(), now.frontier, now.size, now.over)
            };
            if let Some((child, events)) = listener {
                tell(events, child, size.or(child.size), frontier, cached).await;
            }
            match phase {
                Phase::Verified if over => return Ok(frontier),
                Phase::Failed(error) => return Err(error),
                Phase::Detached { .. } => return Err(CacheError::Store("the disk cannot take it; see the agent's log".to_owned())),
                // Verified is for clients; an image is here when it is committed.
                Phase::Opening | Phase::Flowing | Phase::Verified => progress.changed().await.map_err(|_| CacheError::Lost)?,
            }
        }
    }
}

/// How far a blob is. As in `warm`: whether anybody listens changes nothing.
async fn tell(events: &mpsc::Sender<WarmEvent>, child: &Descriptor, size_bytes: Option<u64>, done_bytes: u64, cached: bool) {
    let _ = events.send(WarmEvent::Blob { digest: child.digest.to_string(), size_bytes, done_bytes, cached }).await;
}

/// The children to fetch: everything, or of an index what is for the platform. An index in which nothing is for it is taken whole.
pub(super) fn choose(manifest: &Manifest, platforms: &Platforms) -> Vec<Descriptor> {
    let Platforms::One(wanted) = platforms else {
        return manifest.children.clone();
    };
    let fits = |platform: &str| platform == wanted || platform.strip_prefix(wanted).is_some_and(|variant| variant.starts_with('/'));
    // What has no platform is taken: layers, and indexes within the index, which are looked into.
    let chosen: Vec<_> = manifest.children.iter().filter(|child| child.platform.as_deref().is_none_or(fits)).cloned().collect();
    if chosen.is_empty() { manifest.children.clone() } else { chosen }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_index_only_what_is_for_the_platform_is_fetched() {
        let child = |number: u8, platform: Option<&str>| {
            let platform = platform.map(|name| {
                let mut parts = name.split('/');
                serde_json::json!({ "os": parts.next(), "architecture": parts.next(), "variant": parts.next() })
            });
            serde_json::json!({ "digest": format!("sha256:{}", format!("{number:02x}").repeat(32)), "platform": platform })
        };
        let index = serde_json::json!({ "manifests": [
            child(0, Some("linux/amd64")), child(1, Some("linux/arm/v7")), child(2, Some("unknown/unknown")), child(3, None),
        ] });
        let manifest = Manifest::parse(index.to_string().as_bytes()).unwrap();
        let check = |wanted: &str, numbers: &[usize]| {
            let chosen = choose(&manifest, &Platforms::One(wanted.to_owned()));
            let all: Vec<_> = numbers.iter().map(|number| manifest.children[*number].clone()).collect();
            assert_eq!(chosen, all, "{wanted}");
        };
        check("linux/amd64", &[0, 3]);
        check("linux/arm", &[1, 3]);
        check("linux/arm/v7", &[1, 3]);
        check("linux/ar", &[3]);
        assert_eq!(choose(&manifest, &Platforms::All).len(), 4);
    }
}
