//! A small cluster to plan for. [`Lab::apply`] does what an API server would do with a plan.

mod holders;
mod images;
mod names;
mod nodes;
mod properties;
mod refusals;
mod status;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use kuik_crd::control::{Desired, Finding, Held, UpstreamState};
use kuik_crd::names::{MANAGED_BY, MANAGED_BY_LABEL};
use kuik_crd::{CachedImage, CachedImageSpec, CachedImageStatus, Image, NodeCache, object_name};
use serde_json::{Value, json};

use super::{Action, Plan, Target, plan};
use crate::board::NodeState;
use crate::config::Settings;
use crate::lifecycle::cluster::{AgentPod, NodeInfo, PodUse};
use crate::lifecycle::world::{Memory, World, time};

/// The lab's clock begins here.
const START: u64 = 1_800_000_000;

/// An unused image goes after this.
const DELAY: u64 = 3_600;

const DIGEST: &str = "sha256:abababababababababababababababababababababababababababababababab";

/// A cluster, and the leader's memory of it.
struct Lab {
    world: World,
    memory: Memory,
    now: u64,
    version: u64,
    written: Vec<String>,
}

impl Lab {
    /// So many nodes with ready agents, `n1` in zone `a`, `n2` in `b` and so on, which have all reported nothing.
    fn new(nodes: usize) -> Self {
        let settings = Settings { expiry_delay: Duration::from_secs(DELAY), ..Settings::default() };
        let world = World {
            settings: Arc::new(settings),
            pods: Arc::default(),
            v1_pods: Arc::default(),
            images: Arc::default(),
            node_caches: Arc::default(),
            nodes: Arc::default(),
            agents: Arc::default(),
            states: BTreeMap::new(),
            led_since: START - 1_000,
            watches_work: true,
            images_steady_since: START - 1_000,
        };
        let mut lab = Self { world, memory: Memory::default(), now: START, version: 0, written: Vec::new() };
        for (i, zone) in (1..=nodes).zip("abcdefgh".chars().cycle()) {
            lab = lab.node(&format!("n{i}"), &zone.to_string()).report(&format!("n{i}"), &[]);
        }
        lab
    }

    fn node(mut self, name: &str, zone: &str) -> Self {
        let info = NodeInfo { uid: format!("uid-{name}"), zone: Some(zone.to_owned()), arch: None };
        Arc::make_mut(&mut self.world.nodes).insert(name.into(), Arc::new(info));
        self.agent(name, true)
    }

    fn agent(mut self, node: &str, ready: bool) -> Self {
        let number: String = node.chars().filter(char::is_ascii_digit).collect();
        let agent = AgentPod { node: node.to_owned(), address: Some(format!("10.0.0.{number}")), ready };
        Arc::make_mut(&mut self.world.agents).insert(format!("agent-{node}").into(), Arc::new(agent));
        self
    }

    fn pod(mut self, name: &str, node: &str, images: &[&str]) -> Self {
        let images = images.iter().map(|image| (*image).into()).collect();
        let node = Some(node).filter(|node| !node.is_empty()).map(Into::into);
        let pod = PodUse { name: name.into(), uid: format!("uid-{name}").into(), node, images };
        Arc::make_mut(&mut self.world.pods).insert(name.into(), Arc::new(pod));
        self
    }

    fn without_pod(mut self, name: &str) -> Self {
        Arc::make_mut(&mut self.world.pods).remove(name);
        self
    }

    /// An object that we made, with its right name.
    fn image(self, source: &str) -> Self {
        let name = object_name(&source.parse().unwrap());
        self.object(&name, source, |object| {
            object.labels_mut().insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
        })
    }

    /// An object of somebody else's.
    fn object(mut self, name: &str, source: &str, change: impl FnOnce(&mut CachedImage)) -> Self {
        let mut object = CachedImage::new(name, CachedImageSpec { source_image: source.to_owned(), ..CachedImageSpec::default() });
        if let Ok(image) = source.parse::<Image>() {
            let label = kuik_crd::repository_label(image.repository());
            object.labels_mut().insert("kuik.enix.io/repository".to_owned(), label);
        }
        object.metadata.creation_timestamp = Some(time(self.now));
        object.metadata.uid = Some(format!("uid-{name}"));
        change(&mut object);
        self.put(object);
        self
    }

    /// Changes the object of an image.
    fn change(mut self, source: &str, change: impl FnOnce(&mut CachedImage)) -> Self {
        let mut object = CachedImage::clone(self.get(source).expect("the object must be there"));
        change(&mut object);
        self.put(object);
        self
    }

    fn report(self, node: &str, held: &[Held]) -> Self {
        self.state(node, |state| state.images = held.iter().map(|held| (held.image.clone(), held.clone())).collect())
    }

    fn finding(self, node: &str, image: &str, error: Option<&str>) -> Self {
        let at = self.now;
        self.state(node, |state| {
            let finding = Finding { image: image.to_owned(), at, error: error.map(str::to_owned) };
            state.findings.insert(image.to_owned(), finding);
        })
    }

    /// Changes what a node has reported, just now.
    fn state(mut self, node: &str, change: impl FnOnce(&mut NodeState)) -> Self {
        let mut state = self.world.states.get(node).map(|state| NodeState::clone(state)).unwrap_or_default();
        state.received_at = self.now;
        change(&mut state);
        self.world.states.insert(node.to_owned(), Arc::new(state));
        self
    }

    /// Lets time pass; agents that are ready report on.
    fn after(mut self, seconds: u64) -> Self {
        self.now += seconds;
        let now = self.now;
        let ready: BTreeSet<String> = self.world.ready_agents().into_keys().map(str::to_owned).collect();
        for (_, state) in self.world.states.iter_mut().filter(|(node, _)| ready.contains(*node)) {
            Arc::make_mut(state).received_at = now;
        }
        self
    }

    fn plan(&mut self) -> Plan {
        plan(&self.world, &mut self.memory, self.now)
    }

    /// Plans and applies until nothing is left to be written.
    fn settle(mut self) -> Self {
        for _ in 0..20 {
            let plan = self.plan();
            if plan.steps.is_empty() {
                return self;
            }
            plan.steps.into_iter().for_each(|step| self.apply(step.action));
        }
        panic!("it does not come to rest: {:#?}", self.plan().steps);
    }

    fn apply(&mut self, action: Action) {
        self.written.push(describe(&action));
        match action {
            Action::CreateImage(object) => {
                assert!(!self.world.images.contains_key(object.name_any().as_str()), "the name {} is taken", object.name_any());
                let mut object = *object;
                object.metadata.creation_timestamp = Some(time(self.now));
                object.metadata.uid = Some(format!("uid-{}", self.version));
                object.status = None;
                self.put(object);
            }
            Action::PatchImage(target, patch) => {
                let object = self.named(&target);
                let mut value = serde_json::to_value(&object).unwrap();
                json_patch::merge(&mut value, &patch);
                let object: CachedImage = serde_json::from_value(value).unwrap();
                if object.metadata.deletion_timestamp.is_some() && object.finalizers().is_empty() {
                    Arc::make_mut(&mut self.world.images).remove(target.name.as_str());
                } else {
                    self.put(object);
                }
            }
            Action::WriteImageStatus(object) => {
                self.named(&Target::of(&*object));
                self.put(*object);
            }
            Action::DeleteImage(target, expired) => {
                self.named(&target);
                Arc::make_mut(&mut self.world.images).remove(target.name.as_str());
                if let Some(expired) = expired {
                    self.memory.tombstones.expired(expired, self.now);
                }
            }
            Action::CreateNodeCache(object) | Action::WriteNodeCacheStatus(object) => {
                Arc::make_mut(&mut self.world.node_caches).insert(object.name_any().into(), Arc::new(*object));
            }
            Action::DeleteNodeCache(target) => {
                Arc::make_mut(&mut self.world.node_caches).remove(target.name.as_str());
            }
        }
    }

    fn put(&mut self, mut object: CachedImage) {
        self.version += 1;
        object.metadata.resource_version = Some(self.version.to_string());
        Arc::make_mut(&mut self.world.images).insert(object.name_any().into(), Arc::new(object));
    }

    /// The object that is meant, which must be as it was.
    fn named(&self, target: &Target) -> CachedImage {
        let object = &self.world.images[target.name.as_str()];
        assert_eq!(object.metadata.resource_version, target.version, "a write for another version of {}", target.name);
        CachedImage::clone(object)
    }

    fn get(&self, source: &str) -> Option<&CachedImage> {
        let image: Image = source.parse().unwrap();
        self.world.images.get(object_name(&image).as_str()).map(|object| &**object)
    }

    fn status(&self, source: &str) -> CachedImageStatus {
        self.get(source).expect("the object must be there").status.clone().expect("it must have a status")
    }

    /// `STATUS REASON` of a condition.
    fn condition(&self, source: &str, type_: &str) -> String {
        let status = self.status(source);
        let condition = status.conditions.iter().find(|condition| condition.type_ == type_).expect("the condition must be there");
        format!("{} {}", condition.status, condition.reason)
    }

    fn expires(&self, source: &str) -> Option<u64> {
        self.get(source).and_then(|object| object.spec.expires_at.as_ref()).map(crate::lifecycle::world::seconds)
    }

    fn names(&self) -> Vec<&str> {
        self.world.images.keys().map(|name| &**name).collect()
    }

    /// What a node is told, once everything is written.
    fn desired(&mut self, node: &str) -> Desired {
        let wishes = self.plan().wishes.expect("there must be wishes");
        wishes.desired.get(node).cloned().unwrap_or_default()
    }

    /// What is written from now on.
    fn forget_written(mut self) -> Self {
        self.written.clear();
        self
    }
}

/// An image that a node holds as a whole, confirmed by upstream at the beginning.
fn whole(image: &str) -> Held {
    Held {
        image: image.to_owned(),
        digest: DIGEST.to_owned(),
        size_bytes: 10 << 20,
        complete: true,
        used_at: START - 100,
        checked_at: START - 100,
        validated_at: START - 100,
        upstream: UpstreamState::Available,
        ..Held::default()
    }
}

/// A part of it.
fn part(image: &str) -> Held {
    Held { complete: false, size_bytes: 1 << 20, ..whole(image) }
}

fn describe(action: &Action) -> String {
    match action {
        Action::CreateImage(object) => format!("create {}", object.name_any()),
        Action::PatchImage(target, patch) => {
            let mut patch = patch.clone();
            patch["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            if patch["metadata"] == json!({}) {
                patch.as_object_mut().unwrap().remove("metadata");
            }
            format!("patch {} {}", target.name, Value::to_string(&patch))
        }
        Action::WriteImageStatus(object) => format!("status {}", object.name_any()),
        Action::DeleteImage(target, expired) => format!("delete {}{}", target.name, if expired.is_some() { " (expired)" } else { "" }),
        Action::CreateNodeCache(object) => format!("create node cache {}", object.name_any()),
        Action::WriteNodeCacheStatus(object) => format!("status of node cache {}", object.name_any()),
        Action::DeleteNodeCache(target) => format!("delete node cache {}", target.name),
    }
}

/// The reasons of the Events of a plan.
fn reasons(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().flat_map(|step| &step.notes).map(|note| note.reason).collect()
}

const NGINX: &str = "docker.io/library/nginx:1.25";
const NGINX_NAME: &str = "docker.io-library-nginx-1.25";
