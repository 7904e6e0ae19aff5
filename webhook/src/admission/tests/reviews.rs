//! Reviews, well formed and not.

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{mutate, rules, simple};
use crate::admission::review::{Malformed, Reviewed, review};
use crate::admission::{Outcome, chain};

/// A review as an API server sends it.
pub(super) fn mk_review(operation: &str, object: Value, old: Value) -> Value {
    let mut review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "0a1b", "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "requestKind": { "group": "", "version": "v1", "kind": "Pod" }, "name": "p", "namespace": "default", "operation": operation,
            "userInfo": { "username": "admin", "groups": ["system:masters"] }, "dryRun": false,
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    });
    review["request"]["object"] = object;
    review["request"]["oldObject"] = old;
    review
}

fn ask(review_: &Value) -> Result<Reviewed, Malformed> {
    review(review_.to_string().as_bytes(), |pod, old| mutate(pod, old, &rules()))
}

fn answer(review: &Value) -> Value {
    serde_json::to_value(ask(review).unwrap().answer).unwrap()
}

fn error(body: &[u8]) -> String {
    chain(&review(body, |_, _| Outcome::default()).unwrap_err())
}

#[test]
fn a_creation_is_answered_with_a_patch() {
    let mut answer = answer(&mk_review("CREATE", simple("nginx:1.25"), Value::Null));
    let patch: k8s_openapi::ByteString = serde_json::from_value(answer["response"]["patch"].take()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch.0).unwrap();
    assert_eq!(patch, mutate(&serde_json::from_value(simple("nginx:1.25")).unwrap(), None, &rules()).patch);
    insta::assert_snapshot!(answer, @r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"allowed":true,"patch":null,"patchType":"JSONPatch","uid":"0a1b"}}"#);
}

#[test]
fn warnings_are_passed_on_and_there_is_no_empty_patch() {
    let answer = answer(&mk_review("CREATE", simple("NGINX"), Value::Null));
    assert_eq!(answer["response"]["allowed"], true);
    assert_eq!(answer["response"].get("patch"), None);
    assert_eq!(answer["response"].get("patchType"), None);
    assert!(answer["response"]["warnings"][0].as_str().unwrap().contains("\"NGINX\""));
}

#[test]
fn deletions_and_connections_are_let_through_unread() {
    for operation in ["DELETE", "CONNECT"] {
        let answer = answer(&mk_review(operation, json!("no pod at all"), Value::Null));
        assert_eq!(answer["response"], json!({ "uid": "0a1b", "allowed": true }), "{operation}");
    }
}

#[test]
fn an_update_is_compared_with_the_old_object() {
    let mut pod = simple("nginx:2");
    pod["metadata"]["labels"] = json!({ "kuik.enix.io/managed": "true" });
    let reviewed = ask(&mk_review("UPDATE", pod.clone(), simple("nginx:1"))).unwrap();
    assert_eq!(reviewed.outcome.unwrap().changes.len(), 1);
    let reviewed = ask(&mk_review("UPDATE", pod, simple("nginx:2"))).unwrap();
    assert_eq!(reviewed.outcome.unwrap().changes.len(), 0);
}

#[test]
fn ephemeral_containers_are_a_subresource() {
    let mut review = mk_review("UPDATE", simple("nginx:1"), simple("nginx:1"));
    review["request"]["subResource"] = json!("ephemeralcontainers");
    assert_eq!(answer(&review)["response"]["allowed"], true);
}

#[test]
fn a_panic_admits_the_pod_with_a_warning() {
    let body = mk_review("CREATE", simple("nginx:1"), Value::Null).to_string();
    let reviewed = review(body.as_bytes(), |_: &Pod, _| panic!("on purpose")).unwrap();
    assert!(reviewed.outcome.is_none());
    let answer = serde_json::to_value(reviewed.answer).unwrap();
    assert_eq!(answer["response"]["allowed"], true);
    assert_eq!(answer["response"].get("patch"), None);
    assert!(answer["response"]["warnings"][0].as_str().unwrap().contains("not cached"), "{answer}");
}

#[test]
fn what_is_wrong_is_said() {
    let changed = |change: fn(&mut Value)| {
        let mut review = mk_review("UPDATE", simple("nginx"), simple("nginx"));
        change(&mut review);
        error(review.to_string().as_bytes())
    };
    let errors = [
        error(b""),
        error(b"hello"),
        error(b"[]"),
        error(b"{} {}"),
        error(b"\xff\xfe"),
        error(br#"{"kind":"Pod","apiVersion":"v1"}"#),
        error(br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}"#),
        changed(|review| review["apiVersion"] = json!("admission.k8s.io/v1beta1")),
        changed(|review| review["kind"] = json!(7)),
        changed(|review| review["request"] = json!("x")),
        changed(|review| review["request"]["uid"] = json!(null)),
        changed(|review| review["request"]["operation"] = json!("PATCH")),
        changed(|review| review["request"]["resource"] = json!({ "group": "apps", "version": "v1", "resource": "deployments" })),
        changed(|review| review["request"]["subResource"] = json!("status")),
        changed(|review| review["request"]["object"] = json!(null)),
        changed(|review| review["request"]["oldObject"] = json!(null)),
        changed(|review| review["request"]["object"]["spec"]["containers"][0]["image"] = json!(["nginx"])),
        changed(|review| review["request"]["oldObject"]["metadata"]["labels"] = json!({ "a": 1 })),
        changed(|review| review["request"]["object"] = json!({ "kind": "Service", "apiVersion": "v1" })),
    ];
    insta::assert_snapshot!("errors", errors.join("\n"));
}

#[test]
fn deep_nesting_exhausts_nothing() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(error(deep.as_bytes()).contains("no AdmissionReview"));
    let with = |place: fn(&mut Value) -> &mut Value| {
        let mut pod = simple("nginx");
        *place(&mut pod) = json!("DEEP");
        let body = mk_review("CREATE", pod, Value::Null).to_string().replace("\"DEEP\"", &deep);
        review(body.as_bytes(), |pod, old| mutate(pod, old, &rules()))
    };
    assert_eq!(with(|pod| &mut pod["unknown"]).unwrap().outcome.unwrap().changes.len(), 1);
    let error = with(|pod| {
        pod["metadata"]["managedFields"] = json!([{ "fieldsV1": null }]);
        &mut pod["metadata"]["managedFields"][0]["fieldsV1"]
    });
    assert!(chain(&error.unwrap_err()).contains("recursion limit"));
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        let key =
            prop_oneof!["metadata", "spec", "containers", "image", "name", "annotations", "labels", "request", "object", "[a-z]{1,4}"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..5).prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(review(&body, |pod, old| mutate(pod, old, &rules())).is_err());
    }

    #[test]
    fn no_object_panics(object in json_value(), old in json_value(), update in any::<bool>()) {
        let review = mk_review(if update { "UPDATE" } else { "CREATE" }, object, old);
        if let Ok(reviewed) = ask(&review) {
            prop_assert!(reviewed.outcome.is_some(), "mutate must not panic");
        }
    }

    #[test]
    fn no_damage_panics(at in 0_usize..2000, with in any::<u8>(), cut in any::<bool>()) {
        let mut body = mk_review("UPDATE", simple("quay.io/a/b:1"), simple("nginx")).to_string().into_bytes();
        let at = at % body.len();
        if cut { body.truncate(at) } else { body[at] = with }
        if let Ok(reviewed) = review(&body, |pod, old| mutate(pod, old, &rules())) {
            prop_assert!(reviewed.outcome.is_some(), "mutate must not panic");
        }
    }
}
