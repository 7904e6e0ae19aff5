//! What is to be done: a pure function of what the cluster has, what the agents reported and what the leader remembers.
//!
//! At most one write per object and plan: what else is to be written is planned again once the API server has shown the result.

mod catalogue;
mod conditions;
mod disk;
mod edit;
mod images;
mod nodes;
mod refusals;
mod status;
#[cfg(test)]
mod tests;
mod wishes;

use std::collections::{BTreeMap, HashMap};

use kuik_crd::{CachedImage, Candidate, NodeCache, Phase};
use serde_json::Value;

use self::catalogue::Catalogue;
pub(super) use self::refusals::Telling;
use super::copies::Copies;
use super::usage::{Usage, usage};
use super::world::{Memory, SETTLE_SECONDS, World};
use crate::board::Wishes;

/// A plan is made again after this, in seconds, whatever happens: agents fall silent without telling.
const LOOK_AGAIN_SECONDS: u64 = 30;

/// What is to be done, and when to think again.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What is to be written, what matters most first.
    pub(super) steps: Vec<Step>,
    /// What the agents are told; nothing until that is known.
    pub(super) wishes: Option<Wishes>,
    /// In seconds since 1970.
    pub(super) next_wakeup: u64,
    /// How many images there are of each sort.
    pub(super) census: BTreeMap<Sort, i64>,
    /// What pods are told.
    pub(super) telling: Telling,
}

/// One write, and what is said about it when it has succeeded.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) action: Action,
    pub(super) notes: Vec<Note>,
}

/// A write to the API.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    CreateImage(Box<CachedImage>),
    /// A merge patch that names the version that it is for.
    PatchImage(Target, Value),
    WriteImageStatus(Box<CachedImage>),
    /// With what is to be forgotten when it goes because it expired.
    DeleteImage(Target, Option<Expired>),
    CreateNodeCache(Box<NodeCache>),
    WriteNodeCacheStatus(Box<NodeCache>),
    DeleteNodeCache(Target),
}

/// An image that nothing has used for long enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expired {
    /// As agents report it.
    pub(super) image: String,
    /// Since when nothing has used it, in seconds since 1970. What a node has used after that is not to be dropped.
    pub(super) since: u64,
}

/// An object as it was when the plan was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) uid: Option<String>,
    pub(super) version: Option<String>,
}

/// An Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) is_warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) text: String,
}

/// What images are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sort {
    pub(super) phase: &'static str,
    pub(super) cached: bool,
    pub(super) expiring: bool,
}

impl Target {
    fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self { name: meta.name.clone().unwrap_or_default(), uid: meta.uid.clone(), version: meta.resource_version.clone() }
    }
}

impl Note {
    fn normal(reason: &'static str, text: String) -> Self {
        Self { is_warning: false, reason, text }
    }

    pub(crate) fn warning(reason: &'static str, text: String) -> Self {
        Self { is_warning: true, reason, text }
    }
}

/// What the parts of a plan share.
#[derive(Debug)]
struct Context<'a> {
    world: &'a World,
    now: u64,
    /// Copies that nobody reported are not there.
    settled: bool,
    usage: Usage<'a>,
    copies: Copies<'a>,
    catalogue: Catalogue<'a>,
    candidates: Vec<Candidate>,
    /// The nodes that keep the images that are to be kept, by normalised reference.
    keepers: HashMap<String, Vec<String>>,
}

impl<'a> Context<'a> {
    fn new(world: &'a World, memory: &mut Memory, now: u64) -> Self {
        memory.settled = memory.settled || world.has_settled(now);
        let catalogue = Catalogue::new(&world.images, &mut memory.references);
        let candidates = world.candidates(now);
        let mut keepers = HashMap::new();
        for (text, group) in catalogue.groups() {
            if group.right().is_some_and(catalogue::is_kept) {
                keepers.insert(text.to_owned(), memory.keepers(text, &candidates, world.settings.copies));
            }
        }
        Self {
            world,
            now,
            settled: memory.settled,
            usage: usage(world.all_pods()),
            copies: Copies::new(&world.heard(now)),
            catalogue,
            candidates,
            keepers,
        }
    }

    /// Whether what is not there is gone, so that deleting may follow from it.
    fn may_delete(&self) -> bool {
        self.settled && self.world.watches_work
    }
}

/// Makes a plan. It changes nothing but `memory`.
pub(super) fn plan(world: &World, memory: &mut Memory, now: u64) -> Plan {
    let context = Context::new(world, memory, now);
    let is_there = |text: &str| context.catalogue.get(text).is_some() || context.usage.contains_key(text);
    let by_digest = |text: &str, (repository, digest): (&str, &str)| context.catalogue.matching(text, repository, digest).next().is_some();
    let is_needed = |text: &str| is_there(text) || text.split_once('@').is_some_and(|parts| by_digest(text, parts));
    memory.tombstones.ripen(now, world.watches_work, world.images.len(), is_needed);
    memory.forget_keepers(is_there);
    let mut steps = images::steps(&context, memory);
    steps.extend(nodes::steps(&context));
    steps.sort_by_key(|step| step.action.rank());
    let wishes = context.settled.then(|| wishes::wishes(&context, memory));
    let next_wakeup = next_wakeup(&context, memory);
    let telling = refusals::tell(world, memory);
    Plan { steps, wishes, next_wakeup, census: census(world), telling }
}

impl Action {
    /// What is written first: what agents or people wait for.
    fn rank(&self) -> u8 {
        match self {
            Self::CreateImage(_) => 0,
            Self::PatchImage(..) | Self::DeleteImage(..) => 1,
            Self::WriteImageStatus(_) => 2,
            Self::CreateNodeCache(_) | Self::DeleteNodeCache(_) => 3,
            Self::WriteNodeCacheStatus(_) => 4,
        }
    }
}

fn next_wakeup(context: &Context<'_>, memory: &Memory) -> u64 {
    let expiring = context.world.images.values().filter_map(|object| object.spec.expires_at.as_ref()).map(super::world::seconds);
    let forced = memory.forced.values().map(|since| since + images::FORCE_SECONDS);
    let settle = (!context.settled).then_some(context.world.led_since + SETTLE_SECONDS);
    let again = context.now + LOOK_AGAIN_SECONDS;
    let all = expiring.chain(forced).chain(settle).chain(memory.tombstones.next_ripe());
    all.filter(|at| *at > context.now).min().map_or(again, |at| at.min(again))
}

fn census(world: &World) -> BTreeMap<Sort, i64> {
    let mut census = BTreeMap::new();
    for object in world.images.values() {
        let status = object.status.as_ref();
        let phase = match status.and_then(|status| status.phase) {
            None | Some(Phase::Synchronizing) => "Synchronizing",
            Some(Phase::Pulling) => "Pulling",
            Some(Phase::ErrImagePull) => "ErrImagePull",
            Some(Phase::Ready) => "Ready",
            Some(Phase::Terminating) => "Terminating",
        };
        let cached = status.is_some_and(|status| status.is_cached);
        *census.entry(Sort { phase, cached, expiring: object.spec.expires_at.is_some() }).or_default() += 1;
    }
    census
}
