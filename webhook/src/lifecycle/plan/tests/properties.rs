//! What holds whatever the cluster looks like.

use super::*;
use crate::lifecycle::holders::HEARD_SECONDS;
use kuik_crd::control::PinReason;
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

/// What a node does with an image: node, which image, which of two digests, as a whole (or in part, or not at all), and whether the leader
/// hears of nothing else for as long as a choice takes to be known.
fn moves() -> impl Strategy<Value = Vec<(usize, usize, bool, Option<bool>, bool)>> {
    proptest::collection::vec((1_usize..5, 0_usize..3, any::<bool>(), proptest::option::weighted(0.7, any::<bool>()), any::<bool>()), 1..30)
}

/// The nodes that have an image as a whole, and those of them that hold on to it, by reference and digest.
fn holders(lab: &mut Lab) -> BTreeMap<(String, String), (BTreeSet<String>, BTreeSet<String>)> {
    let desired = lab.plan().wishes.expect("there must be wishes").desired;
    let mut holders = BTreeMap::<_, (BTreeSet<String>, BTreeSet<String>)>::new();
    for (node, state) in &lab.world.states {
        for held in state.images.values().filter(|held| held.complete) {
            let (has, holds) = holders.entry((held.image.clone(), held.digest.clone())).or_default();
            has.insert(node.clone());
            let is_last = |pin: &kuik_crd::control::Pin| pin.image == held.image && pin.reasons.contains(&PinReason::LastCopy);
            holds.extend(desired[node].pins.iter().any(is_last).then(|| node.clone()));
        }
    }
    holders
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

    /// Used by tag, used by digest, retained, gone upstream: whoever gains or loses a copy, never may all let go.
    #[test]
    fn one_node_holds_on_to_a_needed_image_and_stays_the_same_while_it_has_it(moves in moves()) {
        let sources = [NGINX, "quay.io/a/kept:1", "quay.io/a/gone:1"];
        let digests = [DIGEST.to_owned(), format!("sha256:{}", "1".repeat(64))];
        let mut lab = Lab::new(4).pod("a/1", "n1", &[NGINX]).image(sources[1]).image(sources[2]);
        lab = lab.pod("a/2", "", &[&format!("quay.io/a/gone@{DIGEST}")]).change(sources[1], |object| object.spec.retain = true).settle();
        let mut chosen: BTreeMap<(String, String), String> = BTreeMap::new();
        for (node, source, digest, copy, waits) in moves {
            lab = lab.state(&format!("n{node}"), |state| {
                let image = sources[source];
                let upstream = if source == 2 { UpstreamState::NotFound } else { UpstreamState::Available };
                let held = copy.map(|complete| Held { digest: digests[usize::from(digest)].clone(), complete, upstream, ..whole(image) });
                match held {
                    Some(held) => drop(state.images.insert(image.to_owned(), held)),
                    None => drop(state.images.remove(image)),
                }
            });
            for is_known in [false, true] {
                if is_known && !waits {
                    break;
                }
                if is_known {
                    lab = lab.after(HEARD_SECONDS);
                }
                let holders = holders(&mut lab);
                chosen.retain(|key, node| holders.get(key).is_some_and(|(has, _)| has.contains(node)));
                for (key, (has, holds)) in holders {
                    prop_assert!(!holds.is_empty() && holds.is_subset(&has), "{:?}: {:?} of {:?}", key, holds, has);
                    let before = chosen.get(&key).cloned();
                    prop_assert!(before.iter().all(|node| holds.contains(node)), "{:?}: {:?} instead of {:?}", key, holds, before);
                    prop_assert!(!is_known || holds.len() == 1, "{:?}: {:?}", key, holds);
                    chosen.extend(holds.into_iter().next().filter(|_| is_known).map(|node| (key, node)));
                }
            }
        }
    }
}
