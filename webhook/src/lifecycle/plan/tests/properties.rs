//! What holds whatever the cluster looks like.

use super::*;
use proptest::prelude::*;

const SOURCES: [&str; 6] = [
    NGINX,
    "nginx:1.25",
    "quay.io/a/b-c:1",
    "quay.io/a-b/c:1",
    "docker.io/library/nginx@sha256:abababababababababababababababababababababababababababababababab",
    "not an image",
];

const NAMES: [&str; 4] = [NGINX_NAME, "quay.io-a-b-c-1", "mine", "other"];

/// A pod: where, and what it uses.
fn pods() -> impl Strategy<Value = Vec<(usize, usize)>> {
    proptest::collection::vec((0_usize..4, 0_usize..5), 0..6)
}

/// An object: name, source, retained, expiry, made by us.
fn objects() -> impl Strategy<Value = Vec<(usize, usize, bool, Option<u64>, bool)>> {
    let expiry = proptest::option::of(START - 50..START + 50);
    proptest::collection::vec((0_usize..4, 0_usize..6, any::<bool>(), expiry, any::<bool>()), 0..6)
}

/// An image on a node: node, source, whole, last used, what upstream said.
fn held() -> impl Strategy<Value = Vec<(usize, usize, bool, u64, bool)>> {
    proptest::collection::vec((1_usize..4, 0_usize..5, any::<bool>(), START - 2 * DELAY..START, any::<bool>()), 0..8)
}

fn lab(pods: &[(usize, usize)], objects: &[(usize, usize, bool, Option<u64>, bool)], held: &[(usize, usize, bool, u64, bool)]) -> Lab {
    let mut lab = Lab::new(3);
    for (i, (node, source)) in pods.iter().enumerate() {
        let image = SOURCES[*source].parse::<Image>().unwrap().to_string();
        let node = if *node == 0 { String::new() } else { format!("n{node}") };
        lab = lab.pod(&format!("a/{i}"), &node, &[&image]);
    }
    for (name, source, retain, expires, ours) in objects {
        lab = lab.object(NAMES[*name], SOURCES[*source], |object| {
            object.spec.retain = *retain;
            object.spec.expires_at = expires.map(time);
            if *ours {
                object.labels_mut().insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
            }
        });
    }
    for node in 1..4 {
        let of_node = held.iter().filter(|(of, ..)| *of == node).map(|(_, source, complete, used_at, gone)| {
            let image = SOURCES[*source].parse::<Image>().unwrap().to_string();
            let upstream = if *gone { UpstreamState::NotFound } else { UpstreamState::Available };
            Held { complete: *complete, used_at: *used_at, upstream, ..whole(&image) }
        });
        lab = lab.report(&format!("n{node}"), &of_node.collect::<Vec<_>>());
    }
    lab
}

fn used(lab: &Lab) -> BTreeSet<String> {
    lab.world.pods.values().flat_map(|pod| pod.images.iter()).map(ToString::to_string).collect()
}

fn retained(lab: &Lab) -> BTreeSet<String> {
    let retained = lab.world.images.values().filter(|object| object.spec.retain);
    retained.filter_map(|object| Some(object.spec.source_image.parse::<Image>().ok()?.to_string())).collect()
}

fn present(lab: &Lab) -> BTreeSet<String> {
    lab.world.images.values().filter_map(|object| Some(object.spec.source_image.parse::<Image>().ok()?.to_string())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// `settle` fails if plans do not come to rest.
    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_do(pods in pods(), objects in objects(), held in held()) {
        let mut lab = lab(&pods, &objects, &held).settle();
        let wishes = lab.plan().wishes;
        prop_assert!(lab.plan().steps.is_empty());
        prop_assert_eq!(lab.plan().wishes, wishes);
        let mut lab = lab.forget_written().after(20).settle();
        prop_assert!(lab.plan().steps.is_empty());
    }

    #[test]
    fn each_image_has_one_object_in_the_end_and_none_that_is_used_or_retained_is_lost(pods in pods(), objects in objects(), held in held()) {
        let lab = lab(&pods, &objects, &held);
        let needed: BTreeSet<String> = used(&lab).union(&retained(&lab)).cloned().collect();
        let mut lab = lab.settle();
        prop_assert!(present(&lab).is_superset(&needed), "{:?} {:?}", present(&lab), needed);
        let valid = lab.world.images.values().filter(|object| object.spec.source_image.parse::<Image>().is_ok()).count();
        prop_assert_eq!(valid, present(&lab).len());
        for node in ["n1", "n2", "n3"] {
            let desired = lab.desired(node);
            prop_assert!(desired.drop.iter().all(|drop| !needed.contains(&drop.image)), "{:?}", desired.drop);
        }
        let lab = lab.after(3 * DELAY).settle();
        prop_assert_eq!(present(&lab), needed);
    }

    #[test]
    fn what_is_used_or_retained_has_no_expiry_and_everything_else_has(pods in pods(), objects in objects(), held in held()) {
        let lab = lab(&pods, &objects, &held).settle();
        let needed: BTreeSet<String> = used(&lab).union(&retained(&lab)).cloned().collect();
        for object in lab.world.images.values() {
            if let Ok(image) = object.spec.source_image.parse::<Image>() {
                prop_assert_eq!(object.spec.expires_at.is_none(), needed.contains(&image.to_string()), "{}", image);
                prop_assert!(object.spec.expires_at.as_ref().is_none_or(|at| *at > time(lab.now)));
            }
        }
    }

    #[test]
    fn nothing_is_deleted_or_dropped_while_a_watch_fails(pods in pods(), objects in objects(), held in held()) {
        let mut lab = lab(&pods, &objects, &held);
        lab.world.watches_work = false;
        let before = present(&lab);
        let mut lab = lab.settle();
        prop_assert!(present(&lab).is_superset(&before));
        prop_assert!(["n1", "n2", "n3"].iter().all(|node| lab.desired(node).drop.is_empty()));
    }
}
