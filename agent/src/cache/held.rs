//! All images that are held, cheaply: what was found about an image is kept until one of its manifests or blobs comes or goes.
//!
//! Reading the manifests of 2,000 images anew each time would cost seconds of CPU; this costs what has changed.

use std::collections::{HashMap, HashSet};

use tokio::sync::Mutex;

use super::Cache;
use crate::oci::{Digest, Image, Repository};
use crate::store::{Changed, ShortDigest, TagRecord};

/// An image that is held, whole or in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldImage {
    /// `repository:tag`, or `repository@digest` for what no tag's image contains.
    pub image: String,
    pub digest: Digest,
    /// Bytes of it on this node, each blob counted once.
    pub size_bytes: u64,
    /// Whether one platform of it, at least, is here as a whole.
    pub complete: bool,
    /// When it was last asked for, in seconds since 1970; 0 for never.
    pub used_at: u64,
    /// What is known of the tag; nothing for a digest.
    pub tag: Option<TagRecord>,
}

/// What is known of what is held.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Held while changes are worked in, across the reading of manifests: there is one who asks.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tags: Vec<Tagged>,
    /// Manifests by the repository that has them.
    manifests: Vec<(Repository, Digest)>,
    summaries: HashMap<Digest, Summary>,
}

#[derive(Debug)]
struct Tagged {
    image: String,
    repository: Repository,
    record: TagRecord,
}

/// What was found by following a manifest.
#[derive(Debug)]
struct Summary {
    size_bytes: u64,
    complete: bool,
    /// Itself and all manifests below it.
    manifests: Vec<Digest>,
    /// Everything that was looked at; another look is due when any of it changes.
    closure: Vec<ShortDigest>,
}

impl Cache {
    /// All images that are held: every tag, and every manifest by digest that no tag's image contains.
    pub async fn held(&self) -> Vec<HeldImage> {
        let mut state = self.held.state.lock().await;
        let changed = self.store.take_changes();
        if changed.names || changed.all {
            self.read_names(&mut state);
        }
        state.forget(&changed);
        let roots: Vec<Digest> = state.tags.iter().map(|tagged| tagged.record.digest).collect();
        self.look_at(&mut state, roots).await;
        let alone = state.alone();
        self.look_at(&mut state, alone.iter().map(|(_, digest)| *digest).collect()).await;
        let keep: HashSet<Digest> =
            state.tags.iter().map(|tagged| tagged.record.digest).chain(alone.iter().map(|(_, digest)| *digest)).collect();
        state.summaries.retain(|digest, _| keep.contains(digest));
        let tagged = state.tags.iter().map(|tagged| (tagged.image.clone(), tagged.record.digest, Some(tagged.record.clone())));
        let alone = alone.into_iter().map(|(repository, digest)| (Image::new(repository, None, Some(digest)).to_string(), digest, None));
        let images = tagged.chain(alone).map(|(image, digest, tag)| {
            let (size_bytes, complete) = state.summaries.get(&digest).map_or((0, false), |summary| (summary.size_bytes, summary.complete));
            let used_at = self.store.blob_record(&digest).map_or(0, |record| record.used);
            HeldImage { image, digest, size_bytes, complete, used_at, tag }
        });
        images.collect()
    }

    fn read_names(&self, state: &mut State) {
        let catalogue = self.store.catalogue();
        let tagged = |(repository, tag, record): (Repository, _, _)| {
            let image = Image::new(repository.clone(), Some(tag), None).to_string();
            Tagged { image, repository, record }
        };
        state.tags = catalogue.tags.into_iter().map(tagged).collect();
        state.manifests = catalogue.manifests.into_iter().map(|(repository, digest, _)| (repository, digest)).collect();
    }

    async fn look_at(&self, state: &mut State, roots: Vec<Digest>) {
        for root in roots {
            if state.summaries.contains_key(&root) {
                continue;
            }
            let walk = self.walk(root, None).await;
            let (size_bytes, complete) = (walk.bytes, walk.complete);
            let parse = |digest: &String| digest.parse::<Digest>().ok();
            let manifests: Vec<Digest> = walk.manifests.iter().filter_map(|manifest| parse(&manifest.digest)).collect();
            let blobs = walk.manifests.iter().flat_map(|manifest| &manifest.blobs).filter_map(|blob| parse(&blob.digest));
            let mut closure: Vec<ShortDigest> = manifests.iter().copied().chain(blobs).map(|digest| (&digest).into()).collect();
            closure.shrink_to_fit();
            state.summaries.insert(root, Summary { size_bytes, complete, manifests, closure });
        }
    }
}

impl State {
    fn forget(&mut self, changed: &Changed) {
        if changed.all {
            self.summaries.clear();
        } else if !changed.blobs.is_empty() {
            self.summaries.retain(|_, summary| !summary.closure.iter().any(|digest| changed.blobs.contains(digest)));
        }
    }

    /// Manifests that no tag's image contains.
    fn alone(&self) -> Vec<(Repository, Digest)> {
        let mut held: HashSet<(&Repository, &Digest)> = HashSet::new();
        for tagged in &self.tags {
            held.insert((&tagged.repository, &tagged.record.digest));
            let below = self.summaries.get(&tagged.record.digest).map(|summary| &summary.manifests);
            held.extend(below.into_iter().flatten().map(|digest| (&tagged.repository, digest)));
        }
        self.manifests.iter().filter(|(repository, digest)| !held.contains(&(repository, digest))).cloned().collect()
    }
}
