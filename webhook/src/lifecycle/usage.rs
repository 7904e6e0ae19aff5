//! Which images are used, by which pods, on which nodes: a pure fold over the pods.

use std::collections::{BTreeSet, HashMap};

use kuik_crd::{PodReference, UsedBy};

use super::cluster::PodUse;

/// The most pods that a status lists.
const PODS_LISTED_MAX: usize = 50;

/// Who uses an image.
#[derive(Debug, Default)]
pub(super) struct Users<'a> {
    /// `namespace/name`, each once.
    pods: Vec<&'a str>,
    /// Where they run, as far as that is decided.
    pub(super) nodes: BTreeSet<&'a str>,
}

/// The users of each image, by normalised reference.
pub(super) type Usage<'a> = HashMap<&'a str, Users<'a>>;

/// Folds pods, each of which must come once.
pub(super) fn usage<'a>(pods: impl IntoIterator<Item = &'a PodUse>) -> Usage<'a> {
    let mut usage = Usage::new();
    for pod in pods {
        for image in &pod.images {
            let users = usage.entry(image).or_default();
            users.pods.push(&pod.name);
            users.nodes.extend(pod.node.as_deref());
        }
    }
    usage
}

impl Users<'_> {
    /// As the status of a `CachedImage` tells it: all are counted, the first few by name are listed.
    pub(super) fn used_by(&self) -> UsedBy {
        let mut pods = self.pods.clone();
        if pods.len() > PODS_LISTED_MAX {
            pods.select_nth_unstable(PODS_LISTED_MAX - 1);
            pods.truncate(PODS_LISTED_MAX);
        }
        pods.sort_unstable();
        let pods = pods.into_iter().map(|pod| PodReference { namespaced_name: pod.to_owned() }).collect();
        UsedBy { count: i32::try_from(self.pods.len()).unwrap_or(i32::MAX), pods }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: Option<&str>, images: &[&str]) -> PodUse {
        let images = images.iter().map(|image| (*image).into()).collect();
        PodUse { name: name.into(), uid: "".into(), node: node.map(Into::into), images }
    }

    #[test]
    fn pods_are_folded_into_users_of_images() {
        let pods = [pod("a/2", Some("n1"), &["x", "y"]), pod("a/1", Some("n2"), &["x"]), pod("a/3", None, &["x"])];
        let usage = usage(&pods);
        assert_eq!(usage["x"].nodes, BTreeSet::from(["n1", "n2"]));
        let names: Vec<_> = usage["x"].used_by().pods.into_iter().map(|pod| pod.namespaced_name).collect();
        assert_eq!(names, ["a/1", "a/2", "a/3"]);
        assert_eq!(usage["y"].used_by().count, 1);
        assert!(!usage.contains_key("z"));
    }

    #[test]
    fn all_pods_are_counted_and_the_first_fifty_listed() {
        let pods: Vec<_> = (0..120).rev().map(|i| pod(&format!("a/{i:03}"), None, &["x"])).collect();
        let used_by = usage(&pods)["x"].used_by();
        assert_eq!((used_by.count, used_by.pods.len()), (120, 50));
        assert_eq!(used_by.pods[0].namespaced_name, "a/000");
        assert_eq!(used_by.pods[49].namespaced_name, "a/049");
    }
}
