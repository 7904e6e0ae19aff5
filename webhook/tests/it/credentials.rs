//! Pull secrets over HTTP: who gets them, in which form, and how often.

use http::Method;
use kuik_crd::control::CREDENTIALS_REQUEST_MAX_BYTES;
use serde_json::{Value, json};

use crate::support::kubernetes::Fault;
use crate::support::pki::Ca;
use crate::support::scene::{Answer, HOST, Scene, request};

/// A pod of the namespace `team` on `node1`, with a pull secret for `registry.test`.
fn inhabit(scene: &Scene) {
    let spec =
        json!({ "nodeName": "node1", "containers": [], "serviceAccountName": "runner", "imagePullSecrets": [{ "name": "regcred" }] });
    let pod = json!({ "metadata": { "name": "app" }, "spec": spec, "status": { "phase": "Pending" } });
    scene.api.object("pods", json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod] }));
    scene.api.object("serviceaccounts/runner", json!({ "metadata": { "name": "runner" } }));
    // {"auths":{"registry.test":{"username":"u","password":"hunter2"}}}
    let data = "eyJhdXRocyI6eyJyZWdpc3RyeS50ZXN0Ijp7InVzZXJuYW1lIjoidSIsInBhc3N3b3JkIjoiaHVudGVyMiJ9fX0=";
    let kind = "kubernetes.io/dockerconfigjson";
    scene.api.object("secrets/regcred", json!({ "metadata": { "name": "regcred" }, "type": kind, "data": { ".dockerconfigjson": data } }));
}

fn question(namespace: &str, repository: &str) -> String {
    json!({ "namespace": namespace, "repository": repository }).to_string()
}

async fn send(scene: &Scene, body: impl Into<axum::body::Body>) -> Answer {
    scene.send(request(Method::POST, "/v1/credentials", &[("content-type", "application/json")], body)).await
}

fn given() -> Value {
    let login = json!({ "from": "Secret regcred", "username": "u", "password": "hunter2" });
    json!({ "credentials": [login], "tried": ["regcred"], "problems": [] })
}

#[tokio::test(start_paused = true)]
async fn a_node_with_a_pod_of_the_namespace_gets_its_pull_secrets() {
    let scene = Scene::leading();
    inhabit(&scene);
    let answer = send(&scene, question("team", "registry.test/app")).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, given()));
    assert_eq!((answer.header("content-type"), answer.header("cache-control")), (Some("application/json"), Some("no-store")));
    assert_eq!(scene.api.asked(), ["review one", "team/pods", "team/serviceaccounts/runner", "team/secrets/regcred"]);
    assert_eq!(scene.metric("credentials_requests_total{result=\"answered\"}"), Some(1));
    assert_eq!(scene.metric("control_requests_total{call=\"credentials\",status=\"2xx\"}"), Some(1));
}

#[tokio::test(start_paused = true)]
async fn another_nodes_token_gets_nothing() {
    let scene = Scene::leading();
    inhabit(&scene);
    scene.api.agent("two", "node2");
    let headers = [("authorization", "Bearer two"), ("content-type", "application/json")];
    let foreign = http::Request::post("/v1/credentials");
    let foreign = headers.iter().fold(foreign, |request, (name, value)| request.header(*name, *value));
    let answer = scene.send(foreign.body(question("team", "registry.test/app").into()).unwrap()).await;
    answer.refused(403, "the namespace team has no pod on the node node2");
    assert_eq!(scene.api.asked(), ["review two", "team/pods"], "no Secret is looked at");
    assert_eq!(scene.metric("credentials_requests_total{result=\"forbidden\"}"), Some(1));

    let nobody = http::Request::post("/v1/credentials").body(question("team", "registry.test/app").into()).unwrap();
    scene.send(nobody).await.refused(401, "no bearer token");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_question_is_refused_before_anything_is_asked() {
    let scene = Scene::leading();
    send(&scene, "").await.refused(400, "not a request for pull secrets");
    send(&scene, "{}").await.refused(400, "namespace: expected a DNS label");
    send(&scene, question("team/../other", "registry.test/app")).await.refused(400, "namespace: expected a DNS label");
    send(&scene, question("team", "app")).await.refused(400, "repository: expected HOST[:PORT]/NAME");
    send(&scene, "x".repeat(CREDENTIALS_REQUEST_MAX_BYTES + 1)).await.refused(413, "larger than 16384 bytes");
    scene.send(request(Method::POST, "/v1/credentials", &[], "{}")).await.refused(415, "application/json");
    scene.send(request(Method::GET, "/v1/credentials", &[], "")).await.refused(405, "POST for reports and credentials");
    assert_eq!(scene.api.asked(), ["review one"]);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_is_a_reason_to_come_back() {
    let scene = Scene::leading();
    inhabit(&scene);
    send(&scene, question("team", "registry.test/app")).await;
    scene.api.fail(Some(Fault::Status(500)));
    send(&scene, question("team", "registry.test/other")).await.refused(503, "the API server did not say").later();
    assert_eq!(scene.metric("credentials_requests_total{result=\"failed\"}"), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_and_a_node_that_ask_without_end_are_told_to_wait_and_the_node_can_still_report() {
    let scene = Scene::leading();
    inhabit(&scene);
    let mut refused = None;
    for _ in 0..500 {
        let answer = send(&scene, question("team", "registry.test/app")).await;
        if answer.status.as_u16() != 200 {
            refused = Some(answer);
            break;
        }
    }
    refused.expect("one of the calls must be refused").refused(429, "this namespace asks for pull secrets on this node too often").later();
    // The node may ask in the name of others.
    for _ in 0..40 {
        send(&scene, "").await.refused(400, "not a request for pull secrets");
    }
    let mut refused = None;
    for _ in 0..500 {
        let answer = send(&scene, "").await;
        if answer.status.as_u16() != 400 {
            refused = Some(answer);
            break;
        }
    }
    refused.expect("one of the calls must be refused").refused(429, "this node asks for pull secrets too often").later();
    assert_eq!(scene.report("one", &crate::support::scene::full(1, &[])).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_follower_passes_the_question_on() {
    let ca = Ca::new();
    let leader = Scene::leading();
    inhabit(&leader);
    let served = leader.serve(&ca, HOST);
    let follower = Scene::following(&served, &ca);
    let answer = send(&follower, question("team", "registry.test/app")).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, given()));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(follower.api.asked().is_empty(), "the leader looks");
}
