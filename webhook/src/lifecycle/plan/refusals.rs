//! Who is told that a namespace was refused an image: its pods that use the image on that node, once for each time.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::ObjectReference;
use kuik_crd::control::Refused;

use super::Note;
use crate::lifecycle::cluster::PodUse;
use crate::lifecycle::copies::{meant, repository};
use crate::lifecycle::world::{Memory, World};

/// The most pods that are told of one refusal.
const PODS_TOLD_MAX: usize = 5;

/// What is said, and what is counted.
#[derive(Debug, Default, PartialEq)]
pub(in crate::lifecycle) struct Telling {
    /// Each about a pod.
    pub(in crate::lifecycle) notes: Vec<(ObjectReference, Note)>,
    /// Of each refusal that is new, the metric's label.
    pub(in crate::lifecycle) reasons: Vec<&'static str>,
}

/// Pods by node and namespace.
type Pods<'a> = HashMap<(&'a str, &'a str), Vec<&'a PodUse>>;

/// What is to be said about refusals that have not been told of yet.
pub(super) fn tell(world: &World, memory: &mut Memory) -> Telling {
    let told = &mut memory.refusals;
    let mut new: Vec<(&str, &Refused)> = Vec::new();
    for (node, state) in &world.states {
        let before = told.get(node);
        let is_new = |key: &(String, String), refused: &Refused| before.and_then(|told| told.get(key)).is_none_or(|at| *at < refused.at);
        new.extend(state.refusals.iter().filter(|(key, refused)| is_new(key, refused)).map(|(_, refused)| (node.as_str(), refused)));
    }
    let mut telling = Telling::default();
    if !new.is_empty() {
        let pods = pods(world);
        for (node, refused) in new {
            telling.reasons.push(label(&refused.reason));
            telling.notes.extend(notes(&pods, node, refused));
        }
    }
    told.retain(|node, _| world.states.contains_key(node));
    for (node, state) in &world.states {
        let now = || state.refusals.iter().map(|(key, refused)| (key, refused.at));
        let known = told.entry(node.clone()).or_default();
        if !known.iter().map(|(key, at)| (key, *at)).eq(now()) {
            *known = now().map(|(key, at)| (key.clone(), at)).collect();
        }
    }
    telling
}

fn pods(world: &World) -> Pods<'_> {
    let mut pods = Pods::new();
    for pod in world.all_pods() {
        if let (Some(node), Some((namespace, _))) = (pod.node.as_deref(), pod.name.split_once('/')) {
            pods.entry((node, namespace)).or_default().push(pod);
        }
    }
    pods
}

fn notes(pods: &Pods<'_>, node: &str, refused: &Refused) -> Vec<(ObjectReference, Note)> {
    let there = pods.get(&(node, refused.namespace.as_str())).map(Vec::as_slice).unwrap_or_default();
    let image = meant(&refused.image);
    let text = match refused.message.as_str() {
        "" => format!("the agent on {node} refused {image} to the namespace {}", refused.namespace),
        message => message.to_owned(),
    };
    let users = there.iter().filter(|pod| pod.images.iter().any(|used| is_same(used, &image))).take(PODS_TOLD_MAX);
    users.map(|pod| (reference(pod), Note::warning("PullRefused", text.clone()))).collect()
}

/// Whether the image that a pod uses is the one that was asked for: runtimes ask by digest alone where a pod names tag and digest.
fn is_same(used: &str, asked: &str) -> bool {
    let by_digest =
        |(_, digest): (&str, &str)| used.ends_with(&format!("@{digest}")) && repository(&used.into()) == repository(&asked.into());
    used == asked || asked.split_once('@').is_some_and(by_digest)
}

fn reference(pod: &PodUse) -> ObjectReference {
    let (namespace, name) = pod.name.split_once('/').unwrap_or_default();
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    }
}

/// The words that agents say; a newer agent may know more.
fn label(reason: &str) -> &'static str {
    const KNOWN: [&str; 4] = ["denied", "no_secret", "no_credentials", "unavailable"];
    KNOWN.into_iter().find(|known| *known == reason).unwrap_or("other")
}
