//! Tables of pods.

use serde_json::{Value, json};

use super::{mk_pod, mutate, patterns, rules, shown, simple, table, without_tokens};
use crate::admission::Rules;
use crate::config::Settings;

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn created(cases: Vec<(&'static str, Value)>) -> String {
    let cases: Vec<_> = cases.into_iter().map(|(name, pod)| (name, pod, None)).collect();
    table(&rules(), &cases)
}

/// `pod` with these annotations and labels.
fn with(mut pod: Value, annotations: Value, labels: Value) -> Value {
    pod["metadata"]["annotations"] = annotations;
    pod["metadata"]["labels"] = labels;
    pod
}

/// A pod whose image may need its secret.
fn secretive(annotations: Value) -> Value {
    let mut pod = with(simple("nginx"), annotations, Value::Null);
    pod["spec"]["imagePullSecrets"] = json!([{ "name": "registry" }]);
    pod
}

#[test]
fn references_of_every_form() {
    let text = created(vec![
        ("a bare name", simple("nginx")),
        ("a name with a tag", simple("nginx:1.25")),
        ("an organisation", simple("bitnami/redis:7")),
        ("another registry", simple("quay.io/enix/kube-image-keeper:1.14.0")),
        ("a registry with a port", simple("registry.local:5000/team/app:1")),
        ("an IPv6 registry", simple("[2001:db8::1]:5000/app:1")),
        ("a digest", simple(&format!("nginx@{DIGEST}"))),
        ("a tag and a digest", simple(&format!("quay.io/enix/app:1@{DIGEST}"))),
        ("Docker Hub's other names", simple("index.docker.io/library/nginx:1")),
    ]);
    insta::assert_snapshot!("references", text);
}

#[test]
fn pods_of_every_shape() {
    let long = "a-container-with-a-name-of-sixty-three-characters-which-is-most";
    assert_eq!(long.len(), 63);
    let text = created(vec![
        (
            "several containers, an init container and a native sidecar",
            json!({ "metadata": { "generateName": "web-5d4f-", "labels": { "app": "web" }, "annotations": { "a/b": "c" },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f", "uid": "u" }] },
                "spec": {
                    "initContainers": [
                        { "name": "migrate", "image": "migrate:2" },
                        { "name": "proxy", "image": "envoy:1", "restartPolicy": "Always" },
                    ],
                    "containers": [{ "name": "app", "image": "app:1" }, { "name": "metrics", "image": "quay.io/prom/exporter:0.9" }],
                } }),
        ),
        (
            "an operator's pod with arguments that look like images",
            json!({ "metadata": { "name": "db-0", "labels": {} }, "spec": { "containers": [{
                "name": "postgres", "image": "ghcr.io/zalando/spilo-15:3.0", "args": ["--image=nginx:1", "localhost:7439/x"],
                "env": [{ "name": "IMAGE", "value": "nginx" }], "aFieldOfTheFuture": { "image": "nginx" },
            }] } }),
        ),
        (
            "containers with one name in two lists",
            json!({ "metadata": { "name": "p" }, "spec": {
                "initContainers": [{ "name": "same", "image": "a:1" }], "containers": [{ "name": "same", "image": "b:1" }] } }),
        ),
        (
            "a long container name",
            json!({ "metadata": { "name": "p" }, "spec": {
            "initContainers": [{ "name": long, "image": "a:1" }], "containers": [{ "name": long, "image": "b:1" }] } }),
        ),
        ("annotations that are null", with(simple("nginx:1"), Value::Null, Value::Null)),
        ("annotations that are empty", with(simple("nginx:1"), json!({}), json!({}))),
        ("labels of others, and ours with a wrong value", with(simple("nginx:1"), json!({}), json!({ "kuik.enix.io/managed": "no" }))),
        ("a container without an image", json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "app" }] } })),
        ("no containers", json!({ "metadata": { "name": "p" }, "spec": { "containers": [] } })),
        ("no spec", json!({ "metadata": { "name": "p" } })),
    ]);
    insta::assert_snapshot!("shapes", text);
}

#[test]
fn images_that_stay() {
    let container = |image: &str, policy: &str| json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "app", "image": image, "imagePullPolicy": policy }] } });
    let text = created(vec![
        ("policy Never", container("nginx:1", "Never")),
        (
            "policy Never, next to one that is pulled",
            json!({ "metadata": { "name": "p" }, "spec": { "containers": [
            { "name": "a", "image": "a:1", "imagePullPolicy": "Never" }, { "name": "b", "image": "b:1", "imagePullPolicy": "Always" }] } }),
        ),
        ("a static pod's mirror", with(simple("nginx"), json!({ "kubernetes.io/config.mirror": "x" }), Value::Null)),
        ("opted out by label", with(simple("nginx"), Value::Null, json!({ "kube-image-keeper.enix.io/image-caching-policy": "ignore" }))),
        (
            "another policy in the label",
            with(simple("nginx"), Value::Null, json!({ "kube-image-keeper.enix.io/image-caching-policy": "x" })),
        ),
        ("opted out by annotation", with(simple("nginx"), json!({ "kuik.enix.io/rewrite-images": "false" }), Value::Null)),
        (
            "a network plugin of the node",
            json!({ "metadata": { "name": "p" }, "spec": { "priorityClassName": "system-node-critical", "containers": [{ "name": "app", "image": "nginx" }] } }),
        ),
        (
            "for Windows, by its selector",
            json!({ "metadata": { "name": "p" }, "spec": { "nodeSelector": { "kubernetes.io/os": "windows" }, "containers": [{ "name": "app", "image": "nginx" }] } }),
        ),
        (
            "for Windows, by its own word",
            json!({ "metadata": { "name": "p" }, "spec": { "os": { "name": "windows" }, "containers": [{ "name": "app", "image": "nginx" }] } }),
        ),
        ("a mirror on the node in the agent's form", simple("localhost:5000/quay.io/team/app:1")),
        ("a registry on the node", simple("localhost:5000/team/app:1")),
        ("an image built on the node", simple("localhost/app:1")),
        ("a registry on the node, by address", simple("127.0.0.1:5000/app")),
        ("a registry on the node, by IPv6 address", simple("[::1]:5000/app")),
        ("an image's ID", simple(DIGEST)),
        ("an image's ID without its algorithm", simple(&DIGEST[7..])),
        ("a placeholder of Istio's", simple("auto")),
        ("upper case", simple("Nginx:1")),
        ("a space", simple("nginx :1")),
        ("a digest that is none", simple("nginx@sha256:abc")),
        ("too long for a path", simple(&format!("quay.io/{}a:1", "abcdefgh/".repeat(27)))),
        ("too long with the agent's address", simple(&format!("quay.io/{}a:1", "abcdefgh/".repeat(26)))),
        (
            "unparsable, next to one that is not",
            json!({ "metadata": { "name": "p" }, "spec": { "containers": [
            { "name": "a", "image": "A" }, { "name": "b", "image": "b:1" }] } }),
        ),
    ]);
    insta::assert_snapshot!("stay", text);
}

#[test]
fn images_that_were_rewritten_before() {
    let marked = |image: &str, original: &str| {
        let annotations = json!({ "original-image-app": original, "kuik.enix.io/rewrite-images": "true" });
        with(simple(image), annotations, json!({ "kuik.enix.io/managed": "true" }))
    };
    let text = created(vec![
        ("by us", marked("localhost:7439/docker.io/library/nginx:1", "nginx:1")),
        ("by us, without any mark", simple("localhost:7439/docker.io/library/nginx:1")),
        ("by us, with the annotation of another image", marked("localhost:7439/docker.io/library/nginx:2", "nginx:1")),
        ("by a release with another port", marked("localhost:30439/docker.io/library/nginx:1", "nginx:1")),
        ("by a release with another port, without any mark", simple("localhost:30439/quay.io/enix/app:1")),
        ("by v1, a registry with a port", marked("localhost:7439/registry.local-5000/app:1", "registry.local:5000/app:1")),
        ("by v1, a registry with a port and one label", marked("localhost:7439/registry-5000/app:1", "registry:5000/app:1")),
        ("by v1, without any mark", simple("localhost:7439/registry.local-5000/app:1")),
        ("by v1 with another port, without any mark", simple("localhost:30439/registry.local-5000/app:1")),
        (
            "by v1.0",
            with(
                simple("localhost:7439/nginx:1"),
                json!({ "original-image-app": "nginx:1" }),
                json!({
            "kuik.enix.io/images-rewritten": "true" }),
            ),
        ),
        (
            "by v1.0 with another port",
            with(
                simple("localhost:30439/nginx:1"),
                json!({ "original-image-app": "nginx:1" }),
                json!({
            "kuik.enix.io/images-rewritten": "true" }),
            ),
        ),
        (
            "not: a registry on the node of a managed pod",
            json!({
            "metadata": { "name": "p", "labels": { "kuik.enix.io/managed": "true" } },
            "spec": { "containers": [{ "name": "a", "image": "a:1" }, { "name": "b", "image": "localhost:5000/b:1" }] } }),
        ),
    ]);
    insta::assert_snapshot!("rewritten_before", text);
}

#[test]
fn updates() {
    let mk = |managed: bool, containers: Value, ephemeral: Value| {
        let labels = if managed { json!({ "kuik.enix.io/managed": "true" }) } else { json!({ "app": "web" }) };
        let annotations = if managed { json!({ "original-image-a": "a:1", "kuik.enix.io/rewrite-images": "true" }) } else { json!({}) };
        let spec = json!({ "containers": containers, "ephemeralContainers": ephemeral });
        json!({ "metadata": { "name": "p", "labels": labels, "annotations": annotations }, "spec": spec })
    };
    let a = |image: &str| json!([{ "name": "a", "image": image }, { "name": "b", "image": "b:1" }]);
    let debug = json!([{ "name": "debugger", "image": "busybox", "targetContainerName": "a" }]);
    let ours = "localhost:7439/docker.io/library/a:1";
    let stripped = json!({ "metadata": { "name": "p" }, "spec": { "containers": a(ours) } });
    let text = table(
        &rules(),
        &[
            ("nothing changes", mk(true, a(ours), json!([])), Some(mk(true, a(ours), json!([])))),
            ("one image changes, the other was never rewritten", mk(true, a("a:2"), json!([])), Some(mk(true, a(ours), json!([])))),
            ("the original is applied again", mk(true, a("a:1"), json!([])), Some(mk(true, a(ours), json!([])))),
            ("a pod from before the webhook", mk(false, a("a:2"), json!([])), Some(mk(false, a("a:1"), json!([])))),
            (
                "a pod from before the webhook, that asks for it now",
                {
                    let mut pod = mk(false, a("a:2"), json!([]));
                    pod["metadata"]["annotations"] = json!({ "kuik.enix.io/rewrite-images": "true" });
                    pod
                },
                Some(mk(false, a("a:1"), json!([]))),
            ),
            (
                "a pod that does not want it any more",
                {
                    let mut pod = mk(true, a("a:2"), json!([]));
                    pod["metadata"]["annotations"] = json!({ "kuik.enix.io/rewrite-images": "false" });
                    pod
                },
                Some(mk(true, a(ours), json!([]))),
            ),
            ("kubectl debug", mk(true, a(ours), debug.clone()), Some(mk(true, a(ours), json!([])))),
            ("kubectl debug of a pod from before the webhook", mk(false, a("a:1"), debug), Some(mk(false, a("a:1"), json!([])))),
            ("label and annotations were replaced", stripped, Some(mk(true, a(ours), json!([])))),
        ],
    );
    insta::assert_snapshot!("updates", text);
}

#[test]
fn filters_of_the_values() {
    let cases = [
        ("nginx", simple("nginx"), None),
        ("nginx:1.25", simple("nginx:1.25"), None),
        ("quay.io/enix/app:1", simple("quay.io/enix/app:1"), None),
        ("quay.io/enix/app by digest", simple(&format!("quay.io/enix/app@{DIGEST}")), None),
        (
            "Always",
            json!({ "metadata": { "name": "p" }, "spec": { "containers": [
            { "name": "a", "image": "nginx:1.25", "imagePullPolicy": "Always" },
            { "name": "b", "image": "nginx", "imagePullPolicy": "IfNotPresent" }] } }),
            None,
        ),
        ("rewritten before", simple("localhost:30439/docker.io/library/nginx:1.25"), None),
        ("with a pull secret", secretive(Value::Null), None),
    ];
    let mut text = String::new();
    for (name, settings) in [
        ("ignorePullPolicyAlways", Settings { ignore_pull_policy_always: true, ..Settings::default() }),
        ("ignoredImages ^docker.io/library/", Settings { ignored_images: patterns(&["^docker.io/library/"]), ..Settings::default() }),
        ("acceptedImages ^quay.io/ :1.25$", Settings { accepted_images: patterns(&["^quay.io/", ":1.25$"]), ..Settings::default() }),
        ("auth.mode none", without_tokens()),
        ("auth.mode none, agentsHaveCredentials", Settings { agents_have_credentials: true, ..without_tokens() }),
        ("agentAddress 127.0.0.1:5000", Settings { agent_address: "127.0.0.1:5000".to_owned(), ..Settings::default() }),
    ] {
        text.push_str(&format!("=== {name}\n{}\n", table(&Rules::new(&settings), &cases)));
    }
    insta::assert_snapshot!("filters", text);
}

#[test]
fn pull_secrets() {
    let secrets = |image: &str, secrets: Value| {
        let mut pod = simple(image);
        pod["spec"]["imagePullSecrets"] = secrets;
        pod
    };
    let rewritten = "localhost:7439/docker.io/library/nginx:1";
    let asked = secretive(json!({ "kuik.enix.io/rewrite-images": "true" }));
    let managed = |pod: Value| with(pod, json!({ "kuik.enix.io/rewrite-images": "true" }), json!({ "kuik.enix.io/managed": "true" }));
    let cases = [
        ("none", simple("nginx"), None),
        ("null", secrets("nginx", Value::Null), None),
        ("an empty list", secrets("nginx", json!([])), None),
        ("others", secrets("nginx", json!([{ "name": "registry" }, { "name": "of-the-service-account" }])), None),
        ("ours among others", secrets("nginx", json!([{ "name": "kuik-pull" }, { "name": "registry" }])), None),
        ("ours alone", secrets("nginx", json!([{ "name": "kuik-pull" }])), None),
        ("others, and asked for all the same", asked, None),
        ("rewritten already", secrets(rewritten, json!([{ "name": "registry" }])), None),
        ("of an image that stays", secrets("localhost:5000/a", json!([{ "name": "registry" }])), None),
        ("opted out", with(secretive(Value::Null), json!({ "kuik.enix.io/rewrite-images": "false" }), Value::Null), None),
        ("an update, which may not change them", managed(simple("nginx:2")), Some(managed(simple("nginx:1")))),
    ];
    let text = format!("=== namespace\n{}\n=== none\n{}", table(&rules(), &cases), table(&Rules::new(&without_tokens()), &cases));
    insta::assert_snapshot!("pull_secrets", text);
}

#[test]
fn annotations_that_leave_no_room() {
    let full = "x".repeat((256 << 10) - 20);
    let pod = with(simple("nginx:1"), json!({ "big": full }), Value::Null);
    let outcome = mutate(&mk_pod(&pod), None, &rules());
    insta::assert_snapshot!(shown(&outcome), @r"
    (no patch)
    skipped: annotations_full
    warning: the images of this pod are not cached: its annotations leave no room to note the original images
    ");
    assert!(outcome.changes.is_empty());
}

#[test]
fn warnings_are_few_and_short() {
    let containers: Vec<_> = (0..50).map(|n| json!({ "name": format!("c{n}"), "image": "é".repeat(5000) })).collect();
    let outcome = mutate(&mk_pod(&json!({ "metadata": {}, "spec": { "containers": containers } })), None, &rules());
    assert_eq!(outcome.warnings.len(), 8);
    assert_eq!(outcome.warnings[7], "43 more images are not cached");
    assert!(outcome.warnings.iter().all(|warning| warning.chars().count() <= 256), "{:?}", outcome.warnings[0]);
}
