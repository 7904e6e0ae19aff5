//! Answers at once, answers when something changes, and `304` when nothing does.

use std::future::Future;
use std::time::Duration;

use kuik_crd::PullKey;
use kuik_crd::control::{Agent, Agents, Desired};
use kuik_webhook::board::{Leadership, Wishes};
use serde_json::json;
use tokio::time::Instant;

use crate::support::scene::{Answer, Scene, wish};

/// Runs `change` once `poll` waits.
async fn meanwhile(poll: impl Future<Output = Answer>, change: impl FnOnce()) -> Answer {
    let mut poll = std::pin::pin!(poll);
    // The clock stands still but for this: it moves only when nothing else can go on.
    tokio::select! {
        answer = &mut poll => panic!("the poll must wait: {answer:?}"),
        () = tokio::time::sleep(Duration::from_secs(3)) => change(),
    }
    poll.await
}

#[tokio::test(start_paused = true)]
async fn who_has_no_answer_yet_gets_it_at_once() {
    let scene = Scene::leading();
    scene.board.wish(Some(wish("nginx")));
    let agents: Agents = serde_json::from_slice(&scene.get("/v1/agents", "one", None).await.body).unwrap();
    assert_eq!(agents, wish("nginx").agents);
    let answer = scene.get("/v1/desired", "one", Some("\"of another time\"")).await;
    assert_eq!(serde_json::from_slice::<Desired>(&answer.body).unwrap().keep, ["nginx"]);
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_nobody_knows_is_told_that_nothing_is_wanted() {
    let scene = Scene::leading();
    scene.api.agent("two", "node2");
    scene.board.wish(Some(wish("nginx")));
    let answer = scene.get("/v1/desired", "two", None).await;
    assert_eq!(serde_json::from_slice::<Desired>(&answer.body).unwrap(), Desired::default());
}

#[tokio::test(start_paused = true)]
async fn etags_are_of_the_content() {
    let scene = Scene::leading();
    let mut seen = Vec::new();
    for image in ["nginx", "redis", "nginx"] {
        scene.board.wish(Some(wish(image)));
        seen.push((scene.get("/v1/desired", "one", None).await.etag(), scene.get("/v1/agents", "one", None).await.etag()));
    }
    assert_ne!(seen[0].0, seen[1].0);
    assert_eq!(seen[0], seen[2]);
    assert_eq!(seen[0].1, seen[1].1, "the agents have not changed");
    assert!(seen[0].0.starts_with('"') && seen[0].0.ends_with('"'));
}

#[tokio::test(start_paused = true)]
async fn a_poll_is_answered_304_when_nothing_changed_in_30_s() {
    let scene = Scene::leading();
    for path in ["/v1/agents", "/v1/desired"] {
        let etag = scene.get(path, "one", None).await.etag();
        let started = Instant::now();
        let answer = scene.get(path, "one", Some(&etag)).await;
        assert_eq!((answer.status.as_u16(), started.elapsed()), (304, Duration::from_secs(30)));
        assert_eq!(answer.etag(), etag);
        assert!(answer.body.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn any_of_several_etags_is_known_weak_or_not() {
    let scene = Scene::leading();
    let etag = scene.get("/v1/desired", "one", None).await.etag();
    let answer = scene.get("/v1/desired", "one", Some(&format!("\"other\", W/{etag}"))).await;
    assert_eq!(answer.status.as_u16(), 304);
}

#[tokio::test(start_paused = true)]
async fn a_poll_is_answered_when_its_own_answer_changes() {
    let scene = Scene::leading();
    let etag = scene.get("/v1/desired", "one", None).await.etag();
    let started = Instant::now();
    let answer = meanwhile(scene.get("/v1/desired", "one", Some(&etag)), || scene.board.wish(Some(wish("nginx")))).await;
    assert_eq!((answer.status.as_u16(), started.elapsed()), (200, Duration::from_secs(3)));
    assert_eq!(answer.json()["keep"][0], "nginx");
    assert_ne!(answer.etag(), etag);
}

#[tokio::test(start_paused = true)]
async fn keys_reach_every_node_at_once_whatever_else_is_known_of_it() {
    let scene = Scene::leading();
    scene.api.agent("two", "node2");
    scene.board.wish(Some(wish("nginx")));
    let key = |id: &str| PullKey { id: id.to_owned(), public_key: "k".to_owned() };
    for (token, keep) in [("one", json!(["nginx"])), ("two", json!([]))] {
        let etag = scene.get("/v1/desired", token, None).await.etag();
        let change = || assert!(scene.board.publish_pull_keys(&[key(token), key("next")]));
        let answer = meanwhile(scene.get("/v1/desired", token, Some(&etag)), change).await.json();
        assert_eq!((&answer["keep"], &answer["pullKeys"][0]["id"], &answer["pullKeys"][1]["id"]), (&keep, &json!(token), &json!("next")));
    }
    // They stay when something else changes, which is no reason to answer a node that it does not concern.
    let etag = scene.get("/v1/desired", "two", None).await.etag();
    let again = || scene.board.wish(Some(wish("other")));
    assert_eq!(meanwhile(scene.get("/v1/desired", "two", Some(&etag)), again).await.status.as_u16(), 304);
}

#[tokio::test(start_paused = true)]
async fn before_the_leader_knows_the_keys_nodes_are_to_go_on_with_those_they_have() {
    let scene = Scene::new(9443);
    scene.board.lead(Leadership::Us);
    scene.board.wish(Some(wish("nginx")));
    scene.get("/v1/desired", "one", None).await.refused(503, "what pull tokens are checked with").later();
    assert_eq!(scene.get("/v1/agents", "one", None).await.status.as_u16(), 200);
    scene.board.publish_pull_keys(&[]);
    assert_eq!(scene.get("/v1/desired", "one", None).await.json()["keep"][0], "nginx");
}

#[tokio::test(start_paused = true)]
async fn a_poll_is_not_answered_because_something_else_changed() {
    let scene = Scene::leading();
    let other = Wishes {
        desired: [("node2".to_owned(), Desired { keep: vec!["nginx".to_owned()], ..Desired::default() })].into(),
        ..Wishes::default()
    };
    for path in ["/v1/agents", "/v1/desired"] {
        scene.board.wish(Some(Wishes::default()));
        let etag = scene.get(path, "one", None).await.etag();
        let started = Instant::now();
        let answer = meanwhile(scene.get(path, "one", Some(&etag)), || scene.board.wish(Some(other.clone()))).await;
        assert_eq!((answer.status.as_u16(), started.elapsed()), (304, Duration::from_secs(30)), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_agents_reaches_all_who_poll_for_it() {
    let scene = Scene::leading();
    scene.api.agent("two", "node2");
    let etag = scene.get("/v1/agents", "one", None).await.etag();
    let agent = Agent { node: "node3".to_owned(), zone: Some("a".to_owned()), address: "10.0.0.3".to_owned() };
    let both = async {
        let (one, two) = tokio::join!(scene.get("/v1/agents", "one", Some(&etag)), scene.get("/v1/agents", "two", Some(&etag)));
        assert_eq!(one.body, two.body);
        one
    };
    let change = || scene.board.wish(Some(Wishes { agents: Agents { agents: vec![agent.clone()] }, ..Wishes::default() }));
    let answer = meanwhile(both, change).await;
    assert_eq!(serde_json::from_slice::<Agents>(&answer.body).unwrap().agents, [agent]);
}

#[tokio::test(start_paused = true)]
async fn before_the_leader_has_seen_the_cluster_agents_are_to_go_on_with_what_they_know() {
    let scene = Scene::new(9443);
    scene.get("/v1/desired", "one", None).await.refused(503, "no replica leads").later();
    scene.board.lead(Leadership::Us);
    for path in ["/v1/agents", "/v1/desired"] {
        scene.get(path, "one", None).await.refused(503, "go on with what you know").later();
    }
}

#[tokio::test(start_paused = true)]
async fn a_poll_ends_when_the_lead_is_lost_and_when_the_replica_ends() {
    let scene = Scene::leading();
    let etag = scene.get("/v1/desired", "one", None).await.etag();
    let answer = meanwhile(scene.get("/v1/desired", "one", Some(&etag)), || scene.board.lead(Leadership::Unknown)).await;
    answer.refused(503, "leader has changed").later();
    scene.board.lead(Leadership::Us);
    scene.board.publish_pull_keys(&[]);
    scene.board.wish(Some(Wishes::default()));
    let answer = meanwhile(scene.get("/v1/desired", "one", Some(&etag)), || scene.stop.cancel()).await;
    answer.refused(503, "ends").later();
}

#[tokio::test(start_paused = true)]
async fn a_node_polls_twice_for_one_thing_at_most_and_a_poll_given_up_makes_room() {
    let scene = Scene::leading();
    let etag = scene.get("/v1/desired", "one", None).await.etag();
    let poll = || scene.get("/v1/desired", "one", Some(&etag));
    let given_up = async {
        let three = async { tokio::join!(poll(), poll(), poll()) };
        tokio::time::timeout(Duration::from_secs(1), three).await.expect_err("two of the three must wait");
    };
    given_up.await;
    let (first, second, third) = tokio::join!(poll(), poll(), poll());
    third.refused(429, "wait for the same news").later();
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (304, 304));
    assert_eq!(scene.metric("control_polls"), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_asks_too_often_is_told_when_to_come_back() {
    let scene = Scene::leading();
    for _ in 0..40 {
        assert_eq!(scene.get("/v1/desired", "one", None).await.status.as_u16(), 200);
    }
    scene.get("/v1/desired", "one", None).await.refused(429, "too often").later();
    scene.api.agent("two", "node2");
    assert_eq!(scene.get("/v1/desired", "two", None).await.status.as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn polls_that_wait_can_go_on_for_ever() {
    let scene = Scene::leading();
    let etag = scene.get("/v1/desired", "one", None).await.etag();
    for _ in 0..100 {
        assert_eq!(scene.get("/v1/desired", "one", Some(&etag)).await.status.as_u16(), 304);
    }
}
