//! All images that are held, cheaply: what was found about an image is kept until one of its manifests or blobs comes or goes.
//!
//! Reading the manifests of 2,000 images anew each time would cost seconds of CPU; this costs what has changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Mutex;

use super::Cache;
use crate::oci::{Digest, Image, Repository, Tag, Target};
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

/// An image that is held, and what it is made of.
#[derive(Debug, Clone)]
pub struct Holding {
    pub held: HeldImage,
    pub repository: Repository,
    pub target: Target,
    /// Itself and all manifests below it.
    pub manifests: Arc<[Digest]>,
    /// Everything that it references, each with the bytes of it that are here.
    pub blobs: Blobs,
}

/// What an image references, each with the bytes of it that are here: 0 for what is not. Shared, since it can be long.
pub type Blobs = Arc<[(ShortDigest, u64)]>;

/// What is known of what is held.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Held while changes are worked in, across the reading of manifests: there is one who asks.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tags: Vec<Named>,
    /// Manifests by the repository that has them.
    manifests: Vec<(Repository, Digest)>,
    summaries: HashMap<Digest, Summary>,
}

#[derive(Debug, Clone)]
struct Named {
    image: String,
    repository: Repository,
    target: Target,
    digest: Digest,
    record: Option<TagRecord>,
}

/// What was found by following a manifest.
#[derive(Debug)]
struct Summary {
    size_bytes: u64,
    complete: bool,
    /// Itself and all manifests below it.
    manifests: Arc<[Digest]>,
    /// Everything that was looked at; another look is due when any of it changes.
    blobs: Blobs,
}

impl Cache {
    /// All images that are held: every tag, and every manifest by digest that no tag's image contains.
    pub async fn held(&self) -> Vec<HeldImage> {
        self.holdings().await.into_iter().map(|holding| holding.held).collect()
    }

    /// The same, each with what it is made of.
    pub async fn holdings(&self) -> Vec<Holding> {
        let mut state = self.held.state.lock().await;
        let changed = self.store.take_changes();
        if changed.names || changed.all {
            self.read_names(&mut state);
        }
        state.forget(&changed);
        let roots: Vec<Digest> = state.tags.iter().map(|tagged| tagged.digest).collect();
        self.look_at(&mut state, roots).await;
        let alone = state.alone();
        self.look_at(&mut state, alone.iter().map(|named| named.digest).collect()).await;
        let keep: HashSet<Digest> = state.tags.iter().chain(&alone).map(|named| named.digest).collect();
        state.summaries.retain(|digest, _| keep.contains(digest));
        state.tags.iter().cloned().chain(alone).map(|named| self.holding(&state, named)).collect()
    }

    fn holding(&self, state: &State, named: Named) -> Holding {
        let Named { image, repository, target, digest, record: tag } = named;
        let (size_bytes, complete, manifests, blobs) = match state.summaries.get(&digest) {
            Some(found) => (found.size_bytes, found.complete, Arc::clone(&found.manifests), Arc::clone(&found.blobs)),
            None => (0, false, Arc::default(), Arc::default()),
        };
        let used_at = self.store.blob_record(&digest).map_or(0, |record| record.used);
        let held = HeldImage { image, digest, size_bytes, complete, used_at, tag };
        Holding { held, repository, target, manifests, blobs }
    }

    fn read_names(&self, state: &mut State) {
        let catalogue = self.store.catalogue();
        let tagged = |(repository, tag, record): (Repository, Tag, TagRecord)| {
            let image = Image::new(repository.clone(), Some(tag.clone()), None).to_string();
            Named { image, repository, target: Target::Tag(tag), digest: record.digest, record: Some(record) }
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
            let manifests: Arc<[Digest]> = walk.manifests.iter().filter_map(|manifest| parse(&manifest.digest)).collect();
            let of_manifests = walk.manifests.iter().map(|entry| (&entry.digest, entry.cached, entry.size_bytes));
            let of_blobs = walk.manifests.iter().flat_map(|entry| &entry.blobs).map(|blob| (&blob.digest, blob.cached, blob.size_bytes));
            let mut seen = HashSet::new();
            let short = |(digest, cached, bytes): (&String, bool, Option<u64>)| {
                let digest = ShortDigest::from(&parse(digest)?);
                seen.insert(digest).then(|| (digest, bytes.filter(|_| cached).unwrap_or(0)))
            };
            let blobs: Blobs = of_manifests.chain(of_blobs).filter_map(short).collect();
            state.summaries.insert(root, Summary { size_bytes, complete, manifests, blobs });
        }
    }
}

impl State {
    fn forget(&mut self, changed: &Changed) {
        if changed.all {
            self.summaries.clear();
        } else if !changed.blobs.is_empty() {
            self.summaries.retain(|_, summary| !summary.blobs.iter().any(|(digest, _)| changed.blobs.contains(digest)));
        }
    }

    /// Manifests that no tag's image contains.
    fn alone(&self) -> Vec<Named> {
        let mut held: HashSet<(&Repository, &Digest)> = HashSet::new();
        for tagged in &self.tags {
            held.insert((&tagged.repository, &tagged.digest));
            let below = self.summaries.get(&tagged.digest).map(|summary| &summary.manifests);
            held.extend(below.into_iter().flat_map(|manifests| manifests.iter()).map(|digest| (&tagged.repository, digest)));
        }
        let alone = self.manifests.iter().filter(|(repository, digest)| !held.contains(&(repository, digest)));
        let named = |(repository, digest): &(Repository, Digest)| {
            let image = Image::new(repository.clone(), None, Some(*digest)).to_string();
            Named { image, repository: repository.clone(), target: Target::Digest(*digest), digest: *digest, record: None }
        };
        alone.map(named).collect()
    }
}
