//! A replica that does not lead passes calls on to the one that does, over TLS, once.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::Method;
use kuik_webhook::board::Leadership;
use serde_json::json;

use crate::support::pki::Ca;
use crate::support::scene::{Answer, HOST, Scene, full, request, wish};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Waits until so many polls are open at a replica.
async fn polls(replica: &Scene, count: u64) {
    let there = async {
        while replica.metric("control_polls") != Some(count) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), there).await.unwrap_or_else(|_| panic!("there must be {count} polls in time"));
}

/// The first answer that says "too often", of calls one right after the other; a slow machine may need several. Until then they are
/// answered with `status`.
async fn too_often(status: u16, mut call: impl AsyncFnMut() -> Answer) -> Answer {
    for _ in 0..20 {
        let answer = call().await;
        if answer.status.as_u16() == 429 {
            return answer;
        }
        assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    }
    panic!("one of the calls must be refused");
}

#[tokio::test]
async fn calls_reach_the_leader_with_the_callers_own_token() {
    let ca = Ca::new();
    let leader = Scene::leading();
    leader.board.wish(Some(wish("nginx")));
    let served = leader.serve(&ca, HOST);
    let follower = Scene::following(&served, &ca);

    let answer = follower.get("/v1/desired", "one", None).await;
    assert_eq!(answer.json()["keep"][0], "nginx");
    assert_eq!(answer.etag(), leader.get("/v1/desired", "one", None).await.etag());
    assert_eq!(follower.get("/v1/agents", "one", None).await.json()["agents"][0]["node"], "node1");
    assert_eq!(follower.report("one", &full(1, &["redis"])).await.json(), json!({ "fullWanted": false }));
    assert!(leader.board.nodes_now()["node1"].images.contains_key("redis"));
    assert!(follower.board.nodes_now().is_empty());
    assert!(follower.api.asked().is_empty(), "the leader looks at tokens");
    assert_eq!(follower.metric("control_forwarded_total{result=\"answered\"}"), Some(3));
}

#[tokio::test]
async fn the_leaders_refusals_are_passed_on() {
    let ca = Ca::new();
    let leader = Scene::leading();
    let served = leader.serve(&ca, HOST);
    let follower = Scene::following(&served, &ca);
    let answer = follower.get("/v1/desired", "unknown", None).await;
    answer.refused(401, "invalid bearer token");
    assert!(answer.header("www-authenticate").is_some());
    assert_eq!(follower.report("one", &full(1, &[])).await.status.as_u16(), 200);
    too_often(200, async || follower.report("one", &full(2, &[])).await).await.refused(429, "10 s apart").later();
    let text = async || follower.send(request(Method::POST, "/v1/report", &[("content-type", "text/plain")], "")).await;
    too_often(415, text).await.refused(429, "10 s apart");
}

#[tokio::test]
async fn a_poll_through_a_follower_is_answered_when_the_leader_has_news() {
    let ca = Ca::new();
    let leader = Scene::leading();
    let served = leader.serve(&ca, HOST);
    let follower = Scene::following(&served, &ca);
    let etag = follower.get("/v1/desired", "one", None).await.etag();
    let news = async {
        polls(&leader, 1).await;
        leader.board.wish(Some(wish("nginx")));
    };
    let (answer, ()) = tokio::join!(follower.get("/v1/desired", "one", Some(&etag)), news);
    assert_eq!(answer.json()["keep"][0], "nginx");
    assert_ne!(answer.etag(), etag);
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_its_poll_at_the_leader() {
    let ca = Ca::new();
    let leader = Scene::leading();
    let served = leader.serve(&ca, HOST);
    let follower = Scene::following(&served, &ca);
    let etag = follower.get("/v1/desired", "one", None).await.etag();
    tokio::select! {
        answer = follower.get("/v1/desired", "one", Some(&etag)) => panic!("the poll must wait: {answer:?}"),
        () = polls(&leader, 1) => {}
    }
    polls(&leader, 0).await;
}

#[tokio::test]
async fn a_change_of_leader_ends_a_poll_on_either_side() {
    let ca = Ca::new();
    let leader = Scene::leading();
    let served = leader.serve(&ca, HOST);
    let follower = Scene::following(&served, &ca);
    let etag = follower.get("/v1/desired", "one", None).await.etag();
    let seen_by_the_follower = async {
        polls(&leader, 1).await;
        follower.board.lead(Leadership::Unknown);
    };
    let (answer, ()) = tokio::join!(follower.get("/v1/desired", "one", Some(&etag)), seen_by_the_follower);
    answer.refused(503, "leader has changed").later();
    assert_eq!(follower.metric("control_forwarded_total{result=\"given_up\"}"), Some(1));

    follower.board.lead(Leadership::Other(LOCAL));
    polls(&leader, 0).await;
    let seen_by_the_leader = async {
        polls(&leader, 1).await;
        leader.board.lead(Leadership::Unknown);
    };
    let (answer, ()) = tokio::join!(follower.get("/v1/desired", "one", Some(&etag)), seen_by_the_leader);
    answer.refused(503, "leader has changed").later();
}

#[tokio::test]
async fn a_follower_that_ends_lets_go_of_polls() {
    let ca = Ca::new();
    let leader = Scene::leading();
    let served = leader.serve(&ca, HOST);
    let follower = Scene::following(&served, &ca);
    let etag = follower.get("/v1/desired", "one", None).await.etag();
    follower.stop.cancel();
    follower.get("/v1/desired", "one", Some(&etag)).await.refused(503, "ends").later();
    assert_eq!(follower.report("one", &full(1, &[])).await.status.as_u16(), 200, "a report is still passed on");
}

#[tokio::test]
async fn a_call_is_passed_on_once() {
    let ca = Ca::new();
    // Each takes the other for the leader.
    let first = Scene::new(1);
    let served = first.serve(&ca, HOST);
    first.board.lead(Leadership::Other(LOCAL));
    let second = Scene::following(&served, &ca);
    second.get("/v1/desired", "one", None).await.refused(503, "does not lead").later();
    let headers = [("x-kuik-forwarded", "1")];
    second.send(request(Method::GET, "/v1/desired", &headers, "")).await.refused(503, "does not lead").later();
    assert_eq!(first.metric("control_forwarded_total{result=\"failed\"}"), None);
}

#[tokio::test]
async fn who_shows_no_token_does_not_reach_the_leader() {
    let ca = Ca::new();
    let leader = Scene::leading();
    let served = leader.serve(&ca, HOST);
    let follower = Scene::following(&served, &ca);
    let mut request = request(Method::GET, "/v1/desired", &[], "");
    request.headers_mut().remove("authorization");
    follower.send(request).await.refused(401, "audience kuik");
    assert_eq!(leader.metric("control_requests_total{call=\"desired\",status=\"4xx\"}"), None);
}

#[tokio::test]
async fn only_the_leader_with_the_right_certificate_is_talked_to() {
    let (ca, other) = (Ca::new(), Ca::new());
    let leader = Scene::leading();
    let check = async |host: &str, authority: Option<&Ca>, part: &str| {
        let served = leader.serve(&ca, host);
        let follower = Scene::following(&served, &ca);
        follower.authority.send_replace(authority.map(Ca::pem));
        follower.get("/v1/desired", "one", None).await.refused(503, part).later();
        assert_eq!(follower.metric("control_forwarded_total{result=\"failed\"}"), Some(1));
    };
    check("another.kuik-system.svc", Some(&ca), "did not answer").await;
    check(HOST, Some(&other), "did not answer").await;
    check(HOST, None, "not known yet").await;
    assert!(leader.api.asked().is_empty());
}

#[tokio::test]
async fn a_new_authority_is_taken_up() {
    let (old, new) = (Ca::new(), Ca::new());
    let leader = Scene::leading();
    let served = leader.serve(&new, HOST);
    let follower = Scene::following(&served, &old);
    follower.get("/v1/desired", "one", None).await.refused(503, "did not answer");
    follower.authority.send_replace(Some([old.pem(), new.pem()].concat().into()));
    assert_eq!(follower.get("/v1/desired", "one", None).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_leader_that_is_gone_is_told_of() {
    let ca = Ca::new();
    let gone = Scene::leading().serve(&ca, HOST);
    let address = gone.address;
    drop(gone);
    let follower = Scene::new(address.port());
    follower.authority.send_replace(Some(ca.pem()));
    // An address of loopback where nothing listens.
    follower.board.lead(Leadership::Other(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77))));
    follower.get("/v1/desired", "one", None).await.refused(503, "127.0.0.77").later();
}

#[tokio::test]
async fn what_is_too_large_is_not_passed_on() {
    let ca = Ca::new();
    let leader = Scene::leading();
    let served = leader.serve(&ca, HOST);
    let follower = Scene::following(&served, &ca);
    let headers = [("content-type", "application/json")];
    let body = vec![b' '; kuik_crd::control::REPORT_MAX_BYTES + 1];
    follower.send(request(Method::POST, "/v1/report", &headers, body)).await.refused(413, "8388608 bytes");
    assert!(leader.api.asked().is_empty());
}
