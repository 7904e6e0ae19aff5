//! Whose token is taken, how often the API server is asked, and what happens while it is away.

use std::time::Duration;

use futures_util::future::join_all;
use http::{Method, Request};
use tokio::time::{advance, timeout};

use crate::support::kubernetes::{AGENT, BoundTo, FakeApi, Fault};
use crate::support::scene::{Scene, request};

const PATH: &str = "/v1/desired";

/// The status of a call with `token`, and what it says.
async fn ask(scene: &Scene, token: &str) -> u16 {
    scene.get(PATH, token, None).await.status.as_u16()
}

fn reviews(api: &FakeApi) -> usize {
    api.asked().iter().filter(|asked| asked.starts_with("review ")).count()
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_answered() {
    let scene = Scene::leading();
    assert_eq!(ask(&scene, "one").await, 200);
    assert_eq!(scene.api.asked(), ["review one"]);
}

#[tokio::test(start_paused = true)]
async fn who_shows_no_token_is_told_which_one_to_send() {
    let scene = Scene::leading();
    for header in [None, Some("Basic b25l"), Some("Bearer "), Some("one")] {
        let request = Request::get(PATH);
        let request = header.into_iter().fold(request, |request, value| request.header("authorization", value));
        let answer = scene.send(request.body(axum::body::Body::empty()).unwrap()).await;
        answer.refused(401, "audience kuik");
        assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
    }
    assert!(scene.api.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn tokens_of_others_are_refused_with_the_reason() {
    let scene = Scene::leading();
    let bound = BoundTo { pod: "agent", uid: "1", node: Some("node1") };
    scene.api.token("audience", AGENT, &["https://kubernetes.default.svc"], Some(&bound));
    scene.api.token("stranger", "system:serviceaccount:kuik-system:default", &["kuik"], Some(&bound));
    scene.api.token("namespace", "system:serviceaccount:elsewhere:kube-image-keeper-agent", &["kuik"], Some(&bound));
    scene.api.token("unbound", AGENT, &["kuik"], None);
    scene.get(PATH, "audience", None).await.refused(401, "not valid for the audience kuik");
    scene.get(PATH, "expired", None).await.refused(401, "invalid bearer token");
    scene.get(PATH, "stranger", None).await.refused(403, "system:serviceaccount:kuik-system:default");
    scene.get(PATH, "namespace", None).await.refused(403, AGENT);
    scene.get(PATH, "unbound", None).await.refused(403, "bound to no pod");
    scene.get(PATH, &"x".repeat(20_000), None).await.refused(401, "too long");
    assert_eq!(reviews(&scene.api), 5);
    assert_eq!(scene.metric("control_token_reviews_total{result=\"denied\"}"), Some(5));
    assert_eq!(scene.metric("control_requests_total{call=\"desired\",status=\"4xx\"}"), Some(6));
}

#[tokio::test(start_paused = true)]
async fn on_older_clusters_the_pod_that_the_token_is_bound_to_says_the_node() {
    let scene = Scene::leading();
    scene.board.wish(Some(crate::support::scene::wish("nginx")));
    let bound = |pod| BoundTo { pod, uid: "1", node: None };
    for pod in ["there", "other", "gone", "pending"] {
        scene.api.token(pod, AGENT, &["kuik"], Some(&bound(pod)));
    }
    scene.api.pod("there", "1", Some("node1"));
    scene.api.pod("other", "2", Some("node1"));
    scene.api.pod("pending", "1", None);
    assert_eq!(scene.get(PATH, "there", None).await.json()["keep"][0], "nginx");
    scene.get(PATH, "other", None).await.refused(403, "pod other");
    scene.get(PATH, "gone", None).await.refused(403, "pod gone");
    scene.get(PATH, "pending", None).await.refused(403, "pod pending");
    assert_eq!(scene.api.asked()[..2], ["review there", "pod there"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_speaks_for_itself_alone() {
    let scene = Scene::leading();
    scene.board.wish(Some(crate::support::scene::wish("nginx")));
    scene.api.agent("two", "node2");
    assert_eq!(scene.get(PATH, "one", None).await.json()["keep"][0], "nginx");
    assert_eq!(scene.get(PATH, "two", None).await.json()["keep"], serde_json::json!([]));
    scene.report("two", &crate::support::scene::full(1, &["redis"])).await;
    assert_eq!(scene.board.nodes_now().keys().collect::<Vec<_>>(), ["node2"]);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_believed_for_a_while() {
    let scene = Scene::leading();
    for _ in 0..10 {
        assert_eq!((ask(&scene, "one").await, ask(&scene, "bad").await), (200, 401));
    }
    assert_eq!(reviews(&scene.api), 2);
    advance(Duration::from_secs(5)).await;
    assert_eq!((ask(&scene, "one").await, ask(&scene, "bad").await), (200, 401));
    assert_eq!(reviews(&scene.api), 3, "a refusal must be asked about again after 5 s");
    scene.api.revoke("one");
    advance(Duration::from_secs(54)).await;
    assert_eq!(ask(&scene, "one").await, 200);
    advance(Duration::from_secs(1)).await;
    assert_eq!(ask(&scene, "one").await, 401, "a token must be asked about again after 60 s");
}

#[tokio::test(start_paused = true)]
async fn of_those_who_show_a_token_at_once_one_asks() {
    let scene = Scene::leading();
    scene.api.close();
    let asking = join_all((0..20).map(|_| ask(&scene, "one")));
    let opening = async {
        scene.api.inside(1).await;
        scene.api.open();
    };
    let (statuses, ()) = tokio::join!(asking, opening);
    assert_eq!(statuses, [200; 20]);
    assert_eq!(scene.api.asked(), ["review one"]);
}

#[tokio::test(start_paused = true)]
async fn the_api_server_is_asked_a_bounded_number_of_things_at_once() {
    let scene = Scene::leading();
    scene.api.close();
    let tokens: Vec<String> = (0..40).map(|nth| format!("token-{nth}")).collect();
    let asking = join_all(tokens.iter().map(|token| ask(&scene, token)));
    let watching = async {
        scene.api.inside(16).await;
        timeout(Duration::from_secs(1), scene.api.inside(17)).await.expect_err("no further request may arrive");
        scene.api.open();
    };
    let (statuses, ()) = tokio::join!(asking, watching);
    assert_eq!(statuses, [401; 40]);
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_known_tokens_are_taken_and_unknown_ones_are_to_come_back() {
    for fault in [Fault::Down, Fault::Status(500), Fault::Status(403)] {
        let scene = Scene::leading();
        scene.api.agent("two", "node2");
        assert_eq!(ask(&scene, "one").await, 200);
        scene.api.fail(Some(fault));
        advance(Duration::from_secs(300)).await;
        assert_eq!(ask(&scene, "one").await, 200, "{fault:?}");
        scene.get(PATH, "two", None).await.refused(503, "API server").later();
        advance(Duration::from_secs(300)).await;
        scene.get(PATH, "one", None).await.refused(503, "API server").later();
        scene.api.fail(None);
        advance(Duration::from_secs(2)).await;
        assert_eq!((ask(&scene, "one").await, ask(&scene, "two").await), (200, 200), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_not_made_worse_by_asking_at_each_call() {
    let scene = Scene::leading();
    assert_eq!(ask(&scene, "one").await, 200);
    scene.api.fail(Some(Fault::Down));
    advance(Duration::from_secs(60)).await;
    for _ in 0..10 {
        assert_eq!((ask(&scene, "one").await, ask(&scene, "two").await), (200, 503));
    }
    assert_eq!(reviews(&scene.api), 3);
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_denies_is_not_taken_in_its_next_outage() {
    let scene = Scene::leading();
    assert_eq!(ask(&scene, "one").await, 200);
    scene.api.revoke("one");
    advance(Duration::from_secs(60)).await;
    assert_eq!(ask(&scene, "one").await, 401);
    scene.api.fail(Some(Fault::Down));
    advance(Duration::from_secs(10)).await;
    assert_eq!(ask(&scene, "one").await, 503);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_not_waited_for() {
    let scene = Scene::leading();
    scene.api.close();
    let started = tokio::time::Instant::now();
    scene.get(PATH, "one", None).await.refused(503, "API server").later();
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    assert_eq!(scene.metric("control_token_reviews_total{result=\"failed\"}"), Some(1));
}

#[tokio::test(start_paused = true)]
async fn paths_and_methods_that_are_none_are_refused_as_json() {
    let scene = Scene::leading();
    scene.send(request(Method::GET, "/v1/nodes", &[], "")).await.refused(404, "/v1/desired");
    scene.send(request(Method::POST, "/v1/agents", &[], "")).await.refused(405, "GET");
    scene.send(request(Method::GET, "/v1/report", &[], "")).await.refused(405, "POST");
    assert_eq!(scene.metric("control_requests_total{call=\"other\",status=\"4xx\"}"), Some(1));
}
