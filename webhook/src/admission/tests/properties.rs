//! What holds for every pod.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{mk_pod, mutate, patched, rules, without_tokens};
use crate::admission::{Rules, Skip};
use crate::pod_images::{originals, slots};

const ADDRESS: &str = "localhost:7439";

fn image() -> impl Strategy<Value = String> {
    let host = prop_oneof!["[a-z]{1,5}", "[a-z]{1,5}\\.[a-z]{1,5}", "[a-z]{1,4}(\\.[a-z]{1,4})?-[0-9]{1,5}", Just("localhost".to_owned())];
    let host = (host, option::of("(:|-|__)[0-9]{1,5}")).prop_map(|(host, port)| host + &port.unwrap_or_default());
    let path = vec("[a-z0-9]{1,6}", 1..4).prop_map(|parts| parts.join("/"));
    let suffix = prop_oneof![
        4 => "(:[a-z0-9.]{1,6})?",
        1 => "[0-9a-f]{64}".prop_map(|hex| format!("@sha256:{hex}")),
        1 => "[0-9a-f]{64}".prop_map(|hex| format!(":1@sha256:{hex}")),
    ];
    let address = prop_oneof![3 => Just(""), 2 => Just("localhost:7439/"), 1 => Just("localhost:30439/"), 1 => Just("localhost:5000/")];
    let whole = (address, option::of(host), path, suffix);
    let whole = whole.prop_map(|(address, host, path, suffix)| {
        format!("{address}{}{path}{suffix}", host.map(|host| format!("{host}/")).unwrap_or_default())
    });
    prop_oneof![20 => whole, 1 => ".{0,20}", 1 => Just("auto".to_owned()), 1 => "[0-9a-f]{64}"]
}

fn containers(names: &'static str, count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Value>> {
    let policy = prop_oneof![4 => Just(None), 1 => Just(Some("Always")), 1 => Just(Some("IfNotPresent")), 1 => Just(Some("Never"))];
    btree_map(names, (image(), policy), count).prop_map(|containers| {
        let container = |(name, (image, policy)): (String, (String, Option<&str>))| match policy {
            Some(policy) => json!({ "name": name, "image": image, "imagePullPolicy": policy, "unknown": { "image": 1 } }),
            None => json!({ "name": name, "image": image }),
        };
        containers.into_iter().map(container).collect()
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let lists = (containers("[a-c]|[a-z]{50,63}", 0..4), containers("[a-c]", 0..3), containers("[a-c]", 0..2));
    let annotation = prop_oneof!["original-image-[a-c]", "original-init-image-[a-c]", "original-ephemeral-image-[a-c]", "x/[a-z]"];
    let annotations = option::of(btree_map(annotation, image(), 0..4));
    let labels = prop_oneof![
        2 => Just(Value::Null),
        1 => Just(json!({})),
        1 => Just(json!({ "kuik.enix.io/managed": "true" })),
        1 => Just(json!({ "kuik.enix.io/managed": "false", "a/b~c": "d" })),
    ];
    let secret = prop_oneof![Just("registry"), Just("kuik-pull"), Just("other")].prop_map(|name| json!({ "name": name }));
    let secrets = prop_oneof![Just(Value::Null), vec(secret, 0..3).prop_map(Value::Array)];
    (lists, annotations, labels, secrets).prop_map(|((plain, init, ephemeral), annotations, labels, secrets)| {
        let mut spec = json!({ "containers": plain, "initContainers": init, "ephemeralContainers": ephemeral, "unknown": [1, 2] });
        spec["imagePullSecrets"] = secrets;
        json!({ "metadata": { "name": "p", "annotations": annotations, "labels": labels }, "spec": spec })
    })
}

/// Whether namespaces have tokens or not.
fn either() -> impl Strategy<Value = Rules> {
    any::<bool>().prop_map(|tokens| if tokens { rules() } else { Rules::new(&without_tokens()) })
}

/// The names of a pod's pull secrets.
fn secrets(pod: &Value) -> Vec<&str> {
    pod["spec"]["imagePullSecrets"].as_array().into_iter().flatten().map(|secret| secret["name"].as_str().unwrap()).collect()
}

/// Without our own, and in one form for none at all.
fn without_ours(pod: &mut Value) {
    let others: Vec<Value> = secrets(pod).into_iter().filter(|name| *name != "kuik-pull").map(|name| json!({ "name": name })).collect();
    pod["spec"]["imagePullSecrets"] = Value::Array(others);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn mutating_twice_equals_once(pod in pod(), old in option::of(pod()), rules in either()) {
        let old = old.as_ref().map(mk_pod);
        let outcome = mutate(&mk_pod(&pod), old.as_ref(), &rules);
        let after = patched(&pod, &outcome);
        let again = mutate(&mk_pod(&after), old.as_ref(), &rules);
        prop_assert_eq!(again.patch.0, vec![], "after {:?}", outcome.patch);
        prop_assert_eq!(&again.warnings, &outcome.warnings);
    }

    #[test]
    fn the_original_can_be_restored(pod in pod()) {
        let before = mk_pod(&pod);
        let outcome = mutate(&before, None, &rules());
        let after = mk_pod(&patched(&pod, &outcome));
        let restored = originals(&after, ADDRESS);
        for (was, is) in slots(&before).iter().zip(slots(&after)) {
            if was.image == is.image {
                continue;
            }
            prop_assert!(is.image.starts_with("localhost:7439/"), "{}", is.image);
            let found = restored.iter().find(|original| (original.kind, original.container.as_str()) == (is.kind, is.name)).unwrap();
            let note = after.metadata.annotations.iter().flatten().find(|(key, _)| **key == is.kind.annotation_key(is.name));
            if was.image.starts_with("localhost:") {
                // It was a rewritten one: what it stood for, it stands for still.
                let meant = originals(&before, ADDRESS).into_iter().find(|original| (original.kind, original.container.as_str()) == (is.kind, is.name));
                let meant = meant.map(|meant| meant.image);
                prop_assert_eq!(Some(&found.image), meant.as_ref());
            } else {
                prop_assert_eq!(note.map(|(_, note)| note.as_str()), Some(was.image), "the annotation holds the very text");
                prop_assert_eq!(&found.image, &was.image.parse().unwrap());
                // The path alone says the same, but where a registry's name reads like one of kuik v1's.
                let path = kuik_crd::Image::from_local(ADDRESS, is.image).unwrap();
                prop_assert_eq!(&found.image, &path);
            }
        }
    }

    #[test]
    fn nothing_but_images_and_our_marks_changes(pod in pod(), old in option::of(pod())) {
        let old = old.as_ref().map(mk_pod);
        let outcome = mutate(&mk_pod(&pod), old.as_ref(), &rules());
        prop_assert_eq!(outcome.changes.len() + outcome.skips.len(), slots(&mk_pod(&pod)).len());
        let neutral = |mut pod: Value| {
            for list in ["containers", "initContainers", "ephemeralContainers"] {
                pod["spec"][list].as_array_mut().unwrap().iter_mut().for_each(|container| container["image"] = Value::Null);
            }
            for map in ["labels", "annotations"] {
                let kept = pod["metadata"][map].as_object().cloned().unwrap_or_default();
                let ours = |key: &str| key.starts_with("original-") || key.starts_with("kuik.enix.io/");
                pod["metadata"][map] = kept.into_iter().filter(|(key, _)| !ours(key)).collect();
            }
            without_ours(&mut pod);
            pod
        };
        prop_assert_eq!(neutral(patched(&pod, &outcome)), neutral(pod));
    }

    #[test]
    fn a_new_pod_with_a_rewritten_image_has_our_pull_secret_behind_those_that_were_there(pod in pod(), is_new in any::<bool>(), rules in either()) {
        let old = (!is_new).then(|| mk_pod(&pod));
        let outcome = mutate(&mk_pod(&pod), old.as_ref(), &rules);
        let after = patched(&pod, &outcome);
        let mut expected = secrets(&pod);
        let is_rewritten = !outcome.changes.is_empty() || outcome.skips.contains(&Skip::Rewritten);
        if is_new && is_rewritten && rules.pods_show_tokens() && !expected.contains(&"kuik-pull") {
            expected.push("kuik-pull");
        }
        prop_assert_eq!(secrets(&after), expected);
    }

    #[test]
    fn an_update_touches_only_what_changed(pod in pod()) {
        let same = mk_pod(&pod);
        let outcome = mutate(&same, Some(&same), &rules());
        prop_assert_eq!(&outcome.changes, &vec![]);
        prop_assert!(outcome.skips.iter().all(|skip| matches!(skip, Skip::Unmanaged | Skip::Unchanged | Skip::Rewritten)), "{:?}", outcome.skips);
    }
}
