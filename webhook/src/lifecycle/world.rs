//! What a plan is made from: what the cluster has, what the agents reported, and what the leader remembers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kuik_crd::{CachedImage, Candidate, Image, ImageError, NodeCache, keepers, object_name, repository_label};

use super::cluster::{AgentPod, NodeInfo, PodUse};
use super::copies::meant;
use super::holders::Holders;
use super::mirror::Objects;
use super::tombstones::Tombstones;
use crate::board::NodeState;
use crate::config::Settings;

/// An agent that is not ready and has not reported for this long, in seconds: nobody counts on its copies.
pub(super) const SILENT_SECONDS: u64 = 180;

/// A node keeps its share of images while its agent restarts: for this long after its last report, in seconds.
const CANDIDATE_SECONDS: u64 = 600;

/// Who begins to lead waits for reports at most this long, in seconds.
pub(super) const SETTLE_SECONDS: u64 = 60;

/// A look at everything. Times are seconds since 1970.
#[derive(Debug)]
pub(super) struct World {
    pub(super) settings: Arc<Settings>,
    /// Pods that v2 and kuik from v1.1 on manage.
    pub(super) pods: Objects<PodUse>,
    /// Pods that kuik v1.0 managed.
    pub(super) v1_pods: Objects<PodUse>,
    pub(super) images: Objects<CachedImage>,
    pub(super) node_caches: Objects<NodeCache>,
    pub(super) nodes: Objects<NodeInfo>,
    pub(super) agents: Objects<AgentPod>,
    pub(super) states: BTreeMap<String, Arc<NodeState>>,
    /// When this replica began to lead.
    pub(super) led_since: u64,
    /// No watch has failed lately: what is not there is gone.
    pub(super) watches_work: bool,
    /// Since when the watch of `CachedImage`s has neither failed nor begun anew.
    pub(super) images_steady_since: u64,
}

/// What the leader remembers from one plan to the next. A new leader begins with nothing.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Every ready agent has reported, or we have waited long enough.
    pub(super) settled: bool,
    /// When `forceUpdate` was first seen, by object.
    pub(super) forced: HashMap<String, u64>,
    /// Images whose `CachedImage` was deleted.
    pub(super) tombstones: Tombstones,
    pub(super) references: References,
    /// Who holds on to the images that are needed.
    pub(super) holders: Holders,
    /// When what was refused that pods were told of, by node, and by image and namespace.
    pub(super) refusals: HashMap<String, BTreeMap<(String, String), u64>>,
    /// Keepers by image, for the candidates that they were chosen from.
    keepers: Keepers,
}

/// Choosing keepers takes a hash per image and node: they are chosen again when the nodes have changed.
#[derive(Debug, Default)]
struct Keepers {
    candidates: Vec<Candidate>,
    chosen: HashMap<String, Vec<String>>,
}

impl World {
    /// Every pod once.
    pub(super) fn all_pods(&self) -> impl Iterator<Item = &PodUse> {
        let v1 = self.v1_pods.iter().filter(|(name, _)| !self.pods.contains_key(*name));
        self.pods.iter().chain(v1).map(|(_, pod)| &**pod)
    }

    /// The ready agents by node.
    pub(super) fn ready_agents(&self) -> BTreeMap<&str, &AgentPod> {
        self.agents.values().filter(|agent| agent.ready).map(|agent| (agent.node.as_str(), &**agent)).collect()
    }

    /// The node's processor; nothing if it does not say.
    pub(super) fn arch(&self, node: &str) -> &str {
        self.nodes.get(node).and_then(|node| node.arch.as_deref()).unwrap_or_default()
    }

    pub(super) fn zone(&self, node: &str) -> Option<String> {
        self.nodes.get(node).and_then(|node| node.zone.clone())
    }

    /// Nodes whose reports count: their agent is ready, or was heard of lately.
    pub(super) fn heard(&self, now: u64) -> BTreeMap<&str, &NodeState> {
        let ready = self.ready_agents();
        let counts = |node: &str, state: &NodeState| state.received_at + SILENT_SECONDS >= now || ready.contains_key(node);
        self.states.iter().filter(|(node, state)| counts(node, state)).map(|(node, state)| (node.as_str(), &**state)).collect()
    }

    /// Nodes that may keep images: they stay so while their agent restarts.
    pub(super) fn candidates(&self, now: u64) -> Vec<Candidate> {
        let recent = |at: u64| at + CANDIDATE_SECONDS >= now;
        let reported = self.states.iter().filter(|(_, state)| recent(state.received_at)).map(|(node, _)| node.as_str());
        let written = self.node_caches.iter().filter(|(_, cache)| last_report(cache).is_some_and(recent)).map(|(node, _)| &**node);
        let ready = self.ready_agents().into_keys();
        let nodes: BTreeSet<&str> = ready.chain(reported).chain(written).filter(|node| self.nodes.contains_key(*node)).collect();
        nodes.into_iter().map(|node| Candidate { node: node.to_owned(), zone: self.zone(node) }).collect()
    }

    /// Whether every ready agent has reported, or has had the time to. Where none is ready, all may be about to be.
    pub(super) fn has_settled(&self, now: u64) -> bool {
        let ready = self.ready_agents();
        let all_reported = !ready.is_empty() && ready.keys().all(|node| self.states.contains_key(*node));
        all_reported || now >= self.led_since + SETTLE_SECONDS
    }
}

impl Memory {
    /// The `copies` nodes that keep `image`.
    pub(super) fn keepers(&mut self, image: &str, candidates: &[Candidate], copies: usize) -> Vec<String> {
        if self.keepers.candidates != candidates {
            self.keepers = Keepers { candidates: candidates.to_vec(), chosen: HashMap::new() };
        }
        let chosen = self.keepers.chosen.entry(image.to_owned()).or_default();
        if chosen.len() < copies.min(candidates.len()) {
            *chosen = keepers(image, candidates, copies).into_iter().map(str::to_owned).collect();
        }
        chosen.iter().take(copies).cloned().collect()
    }

    /// Forgets the keepers of images that are not there any more.
    pub(super) fn forget_keepers(&mut self, is_there: impl Fn(&str) -> bool) {
        self.keepers.chosen.retain(|image, _| is_there(image));
    }
}

/// When a node's agent last reported, as its `NodeCache` tells it.
pub(super) fn last_report(cache: &NodeCache) -> Option<u64> {
    cache.status.as_ref()?.last_report.as_ref().map(seconds)
}

/// An image's reference in the forms that it is looked up by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) image: Image,
    /// Normalised.
    pub(super) text: String,
    pub(super) repository: String,
    pub(super) digest: Option<String>,
    /// The name that its `CachedImage` should have.
    pub(super) name: String,
    /// The value of that one's label of the repository.
    pub(super) label: String,
}

impl Reference {
    pub(super) fn new(image: Image) -> Self {
        let (text, repository) = (image.to_string(), image.repository().to_string());
        let digest = image.digest().map(ToString::to_string);
        let (name, label) = (object_name(&image), repository_label(image.repository()));
        Self { image, text, repository, digest, name, label }
    }

    /// As agents report it, in the form that is meant: they know what has a digest by that alone.
    pub(super) fn held_as(&self) -> String {
        let by_digest = self.digest.as_ref().map(|digest| format!("{}@{digest}", self.repository));
        meant(by_digest.as_ref().unwrap_or(&self.text)).into_owned()
    }
}

/// References that were parsed before, by what was parsed: most of a plan's time would go into doing that again.
#[derive(Debug, Default)]
pub(super) struct References {
    parsed: HashMap<String, Arc<Reference>>,
}

impl References {
    pub(super) fn get(&mut self, text: &str) -> Result<Arc<Reference>, ImageError> {
        if let Some(reference) = self.parsed.get(text) {
            return Ok(Arc::clone(reference));
        }
        let reference = Arc::new(Reference::new(text.parse()?));
        self.parsed.insert(text.to_owned(), Arc::clone(&reference));
        Ok(reference)
    }

    /// Forgets those that nobody holds, if there are more of them than of the others.
    pub(super) fn prune(&mut self, held: usize) {
        if self.parsed.len() > 2 * held {
            self.parsed.retain(|_, reference| Arc::strong_count(reference) > 1);
        }
    }
}

/// A time of the API in seconds since 1970; what is before is 0.
pub(super) fn seconds(time: &Time) -> u64 {
    u64::try_from(time.0.as_second()).unwrap_or(0)
}

/// Seconds since 1970 as a time of the API; what it cannot express is its last.
pub(super) fn time(seconds: u64) -> Time {
    let timestamp = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    Time(timestamp.unwrap_or(Timestamp::MAX))
}
