//! What the leader knows of the cluster's pods and nodes: only what it needs of them, so that ten thousand pods fit into a few MiB.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;

use crate::pod_images::originals;

/// The well-known label of a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The well-known label of a node's processor.
const ARCH_LABEL: &str = "kubernetes.io/arch";

/// Unused texts are looked for whenever so many new ones have come.
const PRUNE_AFTER: usize = 4_096;

/// A pod that has not finished, with the images that it was rewritten to get from the agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodUse {
    /// `namespace/name`.
    pub(super) name: Box<str>,
    pub(super) uid: Box<str>,
    /// Where it runs, once that is decided.
    pub(super) node: Option<Arc<str>>,
    /// Normalised references, each once.
    pub(super) images: Box<[Arc<str>]>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeInfo {
    pub(super) uid: String,
    pub(super) zone: Option<String>,
    /// What its processor is (`kubernetes.io/arch`); of an index it holds this platform.
    pub(super) arch: Option<String>,
}

/// An agent's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AgentPod {
    pub(super) node: String,
    /// Its address.
    pub(super) address: Option<String>,
    pub(super) ready: bool,
}

/// Keeps one copy of texts that many pods share. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Texts {
    inner: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    texts: HashSet<Arc<str>>,
    /// How many there were when the unused ones were last removed.
    pruned_at: usize,
}

impl Texts {
    fn share(&self, text: &str) -> Arc<str> {
        let mut known = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = known.texts.get(text) {
            return Arc::clone(text);
        }
        if known.texts.len() >= known.pruned_at + PRUNE_AFTER {
            known.texts.retain(|text| Arc::strong_count(text) > 1);
            known.pruned_at = known.texts.len();
        }
        let text: Arc<str> = text.into();
        known.texts.insert(Arc::clone(&text));
        text
    }
}

/// A pod's key, and what is needed of it: nothing if it has finished or gets no image from the agents.
pub(super) fn pod_use(pod: &Pod, agent_address: &str, texts: &Texts) -> (String, Option<PodUse>) {
    let key = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return (key, None);
    }
    let originals = originals(pod, agent_address);
    let mut images: Vec<Arc<str>> = originals.iter().map(|original| texts.share(&original.image.to_string())).collect();
    images.sort();
    images.dedup();
    if images.is_empty() {
        return (key, None);
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).map(|node| texts.share(node));
    let uid = pod.uid().unwrap_or_default().into();
    let kept = PodUse { name: key.as_str().into(), uid, node, images: images.into() };
    (key, Some(kept))
}

/// A node's key and what is needed of it.
pub(super) fn node_info(node: &PartialObjectMeta<Node>) -> (String, Option<NodeInfo>) {
    let zone = node.labels().get(ZONE_LABEL).filter(|zone| !zone.is_empty()).cloned();
    let arch = node.labels().get(ARCH_LABEL).cloned();
    let uid = node.uid().unwrap_or_default();
    (node.name_any(), Some(NodeInfo { uid, zone, arch }))
}

/// The key of an agent's pod and what is needed of it. Every pod is told, so that a change of nodes shows the old one too.
pub(super) fn agent_pod(pod: &Pod) -> (String, Option<AgentPod>) {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let address = status.and_then(|status| status.pod_ip.clone()).filter(|address| !address.is_empty());
    let ready = is_ready && address.is_some() && pod.metadata.deletion_timestamp.is_none();
    (pod.name_any(), node.map(|node| AgentPod { node, address, ready }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(phase: &str, image: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "labels": {"kuik.enix.io/managed": "true"}},
            "spec": {"nodeName": "node1", "containers": [{"name": "c", "image": image}, {"name": "d", "image": image}]},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn kept(pod: &Pod) -> Option<PodUse> {
        pod_use(pod, "localhost:7439", &Texts::default()).1
    }

    #[test]
    fn a_pod_uses_each_of_its_images_once_until_it_has_finished() {
        let image = "localhost:7439/docker.io/library/nginx:1.25";
        for phase in ["Pending", "Running", "Unknown"] {
            let kept = kept(&pod(phase, image)).unwrap();
            assert_eq!(&*kept.name, "shop/web");
            assert_eq!(kept.node.as_deref(), Some("node1"));
            assert_eq!(kept.images.iter().map(|image| &**image).collect::<Vec<_>>(), ["docker.io/library/nginx:1.25"]);
        }
        assert_eq!(kept(&pod("Succeeded", image)), None);
        assert_eq!(kept(&pod("Failed", image)), None);
    }

    #[test]
    fn an_image_that_was_not_rewritten_is_not_used_through_us() {
        assert_eq!(kept(&pod("Running", "nginx:1.25")), None);
    }

    #[test]
    fn pods_share_texts_and_unused_ones_go() {
        let texts = Texts::default();
        let first = texts.share("a");
        assert!(Arc::ptr_eq(&first, &texts.share("a")));
        for i in 0..3 * PRUNE_AFTER {
            texts.share(&format!("text {i}"));
        }
        assert!(texts.inner.lock().unwrap().texts.len() <= PRUNE_AFTER + 2);
        assert!(Arc::ptr_eq(&first, &texts.share("a")));
    }

    fn agent(status: &Value, deleting: bool) -> AgentPod {
        let deleted = if deleting { json!("2026-01-01T00:00:00Z") } else { Value::Null };
        let pod = json!({
            "metadata": {"name": "agent-x", "deletionTimestamp": deleted},
            "spec": {"nodeName": "node1", "containers": []},
            "status": status,
        });
        agent_pod(&serde_json::from_value(pod).unwrap()).1.unwrap()
    }

    #[test]
    fn an_agent_is_ready_when_its_pod_is_has_an_address_and_stays() {
        let ready = json!({"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]});
        assert!(agent(&ready, false).ready);
        assert!(!agent(&ready, true).ready);
        assert!(!agent(&json!({"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "False"}]}), false).ready);
        assert!(!agent(&json!({"conditions": [{"type": "Ready", "status": "True"}]}), false).ready);
    }

    #[test]
    fn nodes_have_zones_or_not() {
        let node =
            |labels: Value| node_info(&serde_json::from_value(json!({"metadata": {"name": "n", "uid": "u", "labels": labels}})).unwrap());
        let (key, info) = node(json!({"topology.kubernetes.io/zone": "a", "kubernetes.io/arch": "arm64"}));
        assert_eq!((key.as_str(), info), ("n", Some(NodeInfo { uid: "u".into(), zone: Some("a".into()), arch: Some("arm64".into()) })));
        assert_eq!(node(json!({})).1.unwrap().zone, None);
    }
}
