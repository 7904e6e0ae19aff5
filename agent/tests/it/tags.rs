//! A tag is fresh, confirmed, moved, or served as it was: what upstream does never keeps a known image from starting.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use crate::support::agent::{Builder, TestAgent};
use crate::support::client::Got;
use crate::support::images::{self, Image};
use crate::support::registry::{FakeRegistry, Fault, Gate, On};
use crate::support::scene::{Scene, pull, pull_by_digest};
use crate::support::wait::until_some;

const STALE_ANSWERS: &str = "kuik_agent_stale_answers_total";

/// An agent that asks upstream about every tag every time.
fn always_asking() -> Builder {
    TestAgent::builder().args(["--tag-fresh-for", "0s"])
}

async fn always_asking_scene() -> Scene {
    let scene = Scene::with(images::simple(1, &[1000]), always_asking()).await;
    scene.pull().await;
    scene.settled().await;
    scene
}

/// Waits until `app:1` is confirmed by asking upstream: just fetched, it is answered from memory until it is stored.
async fn confirmed(agent: &TestAgent, upstream: &FakeRegistry) {
    let path = upstream.repository("app").manifest("1");
    until_some("the tag is stored", async || {
        agent.get(&path).await.expect(200);
        (upstream.count(&On::manifests().head()) > 0).then_some(())
    })
    .await;
}

fn check_stale(got: Got, image: &Image) {
    let got = got.expect(200).expect_bytes(&image.bytes);
    let warning = got.header("warning").unwrap_or_else(|| panic!("no Warning in {:?}", got.headers));
    assert!(warning.starts_with("110 ") || warning.starts_with("111 "), "{warning}");
}

fn check_confirmed(got: Got, image: &Image) {
    let got = got.expect(200).expect_bytes(&image.bytes);
    assert_eq!(got.header("warning"), None);
}

#[tokio::test]
async fn a_fresh_tag_is_answered_without_upstream() {
    let mut scene = Scene::new(&[1000]).await;
    scene.pull().await;
    scene.upstream.forget();
    for _ in 0..5 {
        scene.pull().await;
    }
    assert_eq!(scene.upstream.count(&On::any()), 0);
    scene.upstream.stop().await;
    check_confirmed(scene.manifest().await, &scene.image);
    assert!(scene.agent.metric(STALE_ANSWERS, &[]).await < 0.5);
}

#[tokio::test]
async fn a_tag_that_is_not_fresh_is_confirmed_by_one_head() {
    let scene = always_asking_scene().await;
    check_confirmed(scene.manifest().await, &scene.image);
    assert_eq!((scene.upstream.count(&On::manifests().head()), scene.upstream.count(&On::any())), (1, 1));
    scene.agent.head(&scene.app.manifest("1")).await.expect(200);
    assert_eq!((scene.upstream.count(&On::manifests().head()), scene.upstream.count(&On::any())), (2, 2));
}

#[tokio::test]
async fn all_who_ask_share_one_confirmation() {
    let tags = json!({ "freshFor": "3s", "revalidateTimeout": "60s" });
    let scene = Scene::configured(&[10], json!({ "tags": tags })).await;
    scene.pull().await;
    // Freshness is a matter of the clock, and nothing else tells that it is over.
    tokio::time::sleep(Duration::from_millis(3200)).await;
    scene.upstream.forget();
    let gate = Gate::new();
    scene.upstream.fault(On::manifests(), Fault::HoldHead(gate.clone()));
    let path = scene.app.manifest("1");
    let opening = async {
        gate.reached().await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(join_all((0..32).map(|_| scene.agent.get(&path))), opening);
    for got in answers {
        check_confirmed(got, &scene.image);
    }
    assert_eq!((scene.upstream.count(&On::manifests().head()), scene.upstream.count(&On::any())), (1, 1));
}

#[tokio::test]
async fn a_tag_that_moved_is_served_as_it_is_now() {
    let scene = always_asking_scene().await;
    let newer = images::simple(2, &[2000]);
    newer.push(&scene.upstream, "app", "1");
    let got = scene.agent.get(&scene.app.manifest("1")).await;
    check_confirmed(got, &newer);
    assert_eq!((scene.upstream.count(&On::manifests().head()), scene.upstream.count(&On::manifests().get())), (1, 1));
    pull(&scene.agent, &scene.app, "1", &newer).await;
    pull_by_digest(&scene.agent, &scene.app, &scene.image).await;
}

#[tokio::test]
async fn a_tag_is_served_as_it_was_when_upstream_fails() {
    let refusals = [401, 403, 404, 429, 500, 502, 503].map(Fault::Status);
    let retry_later = Fault::StatusWith(429, "retry-after", "30".to_owned());
    let faults: Vec<Fault> =
        refusals.into_iter().chain([retry_later, Fault::BreakHead, Fault::Body("text/html", "<p>".to_owned())]).collect();
    let upstreams: Vec<FakeRegistry> = faults.iter().map(|_| FakeRegistry::start()).collect();
    let agent = upstreams.iter().fold(always_asking(), Builder::plain_http).start().await;
    let image = images::simple(1, &[1000]);
    for (upstream, fault) in upstreams.iter().zip(faults) {
        let app = upstream.repository("app");
        image.push(upstream, "app", "1");
        pull(&agent, &app, "1", &image).await;
        confirmed(&agent, upstream).await;
        upstream.fault(On::any(), fault.clone());
        let before = agent.metric(STALE_ANSWERS, &[]).await;
        check_stale(agent.get(&app.manifest("1")).await, &image);
        let head = agent.head(&app.manifest("1")).await.expect(200);
        assert!(head.header("warning").is_some(), "{fault:?}");
        assert!((agent.metric(STALE_ANSWERS, &[]).await - before - 2.0).abs() < 0.1, "{fault:?}");
        pull(&agent, &app, "1", &image).await;
    }
}

#[tokio::test]
async fn a_stale_answer_is_counted_by_its_reason() {
    for (status, reason) in [(404, "not_found"), (429, "rate_limited"), (403, "denied"), (500, "unavailable")] {
        let scene = always_asking_scene().await;
        scene.upstream.fault(On::any(), Fault::Status(status));
        check_stale(scene.manifest().await, &scene.image);
        assert!(scene.agent.metric(STALE_ANSWERS, &[("reason", reason)]).await > 0.5, "{reason}");
    }
}

#[tokio::test]
async fn a_tag_is_served_as_it_was_when_upstream_is_down() {
    let mut scene = always_asking_scene().await;
    scene.upstream.stop().await;
    check_stale(scene.manifest().await, &scene.image);
    scene.pull().await;
}

#[tokio::test]
async fn a_tag_and_a_repository_that_upstream_deleted_still_start() {
    let mut scene = always_asking_scene().await;
    scene.upstream.untag("app", "1");
    check_stale(scene.manifest().await, &scene.image);
    scene.pull().await;
    scene.upstream.delete_repository("app");
    check_stale(scene.manifest().await, &scene.image);
    scene.agent.crash().await;
    check_stale(scene.manifest().await, &scene.image);
    scene.pull().await;
}

#[tokio::test]
async fn a_tag_that_comes_back_is_confirmed_again() {
    let scene = always_asking_scene().await;
    scene.upstream.untag("app", "1");
    check_stale(scene.manifest().await, &scene.image);
    scene.upstream.tag("app", "1", scene.image.digest);
    check_confirmed(scene.manifest().await, &scene.image);
    scene.upstream.untag("app", "1");
    check_stale(scene.manifest().await, &scene.image);
    let newer = images::simple(2, &[10]);
    newer.push(&scene.upstream, "app", "1");
    check_confirmed(scene.agent.get(&scene.app.manifest("1")).await, &newer);
}

#[tokio::test]
async fn a_confirmation_is_waited_for_no_longer_than_its_time_out() {
    let config = json!({ "tags": { "freshFor": "0s", "revalidateTimeout": "300ms" } });
    let scene = Scene::configured(&[10], config).await;
    scene.pull().await;
    scene.settled().await;
    scene.upstream.fault(On::any(), Fault::Hang);
    let began = Instant::now();
    for _ in 0..10 {
        check_stale(scene.manifest().await, &scene.image);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_move_that_cannot_be_followed_leaves_the_tag_where_it_was() {
    let scene = always_asking_scene().await;
    images::simple(2, &[10]).push(&scene.upstream, "app", "1");
    scene.upstream.fault(On::manifests().get(), Fault::Status(500));
    check_stale(scene.manifest().await, &scene.image);
}

#[tokio::test]
async fn an_upstream_that_does_not_tell_digests_is_asked_for_the_manifest() {
    let scene = always_asking_scene().await;
    scene.upstream.fault(On::manifests(), Fault::NoDigest);
    check_confirmed(scene.manifest().await, &scene.image);
    let newer = images::simple(2, &[10]);
    newer.push(&scene.upstream, "app", "1");
    // What was just fetched is the answer until it is stored.
    let got = until_some("the tag has moved", async || {
        let got = scene.agent.get(&scene.app.manifest("1")).await;
        (got.body == newer.bytes).then_some(got)
    });
    check_confirmed(got.await, &newer);
}

#[tokio::test]
async fn an_upstream_without_head_is_asked_by_get() {
    let scene = always_asking_scene().await;
    scene.upstream.fault(On::any().head(), Fault::Status(405));
    check_confirmed(scene.manifest().await, &scene.image);
    let newer = images::simple(2, &[10]);
    newer.push(&scene.upstream, "app", "1");
    check_confirmed(scene.agent.get(&scene.app.manifest("1")).await, &newer);
}

#[tokio::test]
async fn a_tag_by_one_name_says_nothing_about_another() {
    let scene = always_asking_scene().await;
    scene.upstream.fault(On::any(), Fault::Status(503));
    let other = scene.upstream.repository("other");
    let got = scene.agent.get(&other.manifest("1")).await;
    assert!(got.status >= 500, "{}", got.status);
    let got = scene.agent.get(&scene.app.manifest("2")).await;
    assert!(got.status >= 500, "{}", got.status);
    check_stale(scene.manifest().await, &scene.image);
}

#[tokio::test]
async fn a_proxy_s_json_replaces_no_tag() {
    let mut scene = always_asking_scene().await;
    let login = Fault::Body("application/json", r#"{"error":"please log in to the proxy"}"#.to_owned());
    scene.upstream.fault(On::manifest("app", "1"), login);
    check_stale(scene.agent.get(&scene.app.manifest("1")).await, &scene.image);
    scene.upstream.stop().await;
    check_stale(scene.agent.get(&scene.app.manifest("1")).await, &scene.image);
}

#[tokio::test]
async fn one_repository_s_trouble_keeps_no_other_from_being_confirmed() {
    let scene = always_asking_scene().await;
    let other = images::simple(2, &[1000]);
    other.push(&scene.upstream, "other", "1");
    let other_path = scene.upstream.repository("other").manifest("1");
    scene.agent.get(&other_path).await.expect(200);
    scene.upstream.fault(On::manifest("app", "1"), Fault::Status(500));
    check_stale(scene.agent.get(&scene.app.manifest("1")).await, &scene.image);
    check_confirmed(scene.agent.get(&other_path).await, &other);
}
