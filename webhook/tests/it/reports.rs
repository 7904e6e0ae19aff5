//! What reports are taken, what of them is kept, and what is refused.

use std::time::Duration;

use http::Method;
use kuik_crd::control::{Disk, Finding, Held, HeldBack, Pressure, REPORT_MAX_BYTES, REPORT_MAX_IMAGES, Refused, Report};
use kuik_webhook::board::Leadership;
use serde_json::{Value, json};
use tokio::time::advance;

use crate::support::scene::{Answer, Scene, full, request};

const SECOND: Duration = Duration::from_secs(1);

/// Sends any body as JSON, a second after the last one.
async fn send(scene: &Scene, body: impl Into<axum::body::Body>) -> Answer {
    advance(3 * SECOND).await;
    scene.send(request(Method::POST, "/v1/report", &[("content-type", "application/json")], body)).await
}

fn held(scene: &Scene) -> Vec<String> {
    scene.board.nodes_now()["node1"].images.keys().cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn a_full_report_and_deltas_reach_the_board() {
    let scene = Scene::leading();
    let answer = scene.report("one", &full(1, &["nginx", "redis"])).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "fullWanted": false })));
    assert_eq!(held(&scene), ["nginx", "redis"]);
    advance(SECOND).await;
    let delta = Report { full: false, removed: vec!["nginx".to_owned()], ..full(2, &["alpine"]) };
    assert_eq!(scene.report("one", &delta).await.json(), json!({ "fullWanted": false }));
    assert_eq!(held(&scene), ["alpine", "redis"]);
    assert!(scene.metric("control_report_bytes_total").unwrap() > 100);
}

#[tokio::test(start_paused = true)]
async fn a_delta_that_builds_on_nothing_known_asks_for_a_full_report() {
    let scene = Scene::leading();
    let delta = |sequence| Report { full: false, ..full(sequence, &["alpine"]) };
    let wanted = json!({ "fullWanted": true });
    assert_eq!(scene.report("one", &delta(7)).await.json(), wanted, "no report before");
    advance(SECOND).await;
    scene.report("one", &full(8, &["nginx"])).await;
    advance(SECOND).await;
    assert_eq!(scene.report("one", &delta(10)).await.json(), wanted, "one was lost");
    advance(SECOND).await;
    let other = Report { boot: "other".to_owned(), ..delta(9) };
    assert_eq!(scene.report("one", &other).await.json(), wanted, "the agent started anew");
    assert_eq!(held(&scene), ["nginx"]);
}

#[tokio::test(start_paused = true)]
async fn reports_are_a_second_apart() {
    let scene = Scene::leading();
    assert_eq!(scene.report("one", &full(1, &[])).await.status.as_u16(), 200);
    advance(SECOND / 2).await;
    scene.report("one", &full(2, &[])).await.refused(429, "10 s apart").later();
    advance(SECOND / 2).await;
    assert_eq!(scene.report("one", &full(2, &[])).await.status.as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn only_json_is_taken() {
    let scene = Scene::leading();
    let report = serde_json::to_vec(&full(1, &[])).unwrap();
    for headers in [&[][..], &[("content-type", "text/plain")], &[("content-type", "application/x-www-form-urlencoded")]] {
        advance(SECOND).await;
        scene.send(request(Method::POST, "/v1/report", headers, report.clone())).await.refused(415, "application/json");
    }
    advance(SECOND).await;
    let headers = [("content-type", "Application/JSON; charset=utf-8")];
    assert_eq!(scene.send(request(Method::POST, "/v1/report", &headers, report)).await.status.as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_report_is_refused_with_the_place() {
    let scene = Scene::leading();
    send(&scene, "").await.refused(400, "not a report");
    send(&scene, "{\"boot\": \"b\"} trailing").await.refused(400, "not a report");
    send(&scene, "{\"boot\": \"b\", \"images\": [{\"image\": \"a\"}, {\"sizeBytes\": -1}]}").await.refused(400, "images[1].sizeBytes");
    let with = |field: &str, value: Value| {
        let mut report = json!({ "boot": "b", "sequence": 1, "full": true });
        report[field] = value;
        report.to_string()
    };
    let long = |chars: usize| "x".repeat(chars);
    send(&scene, with("boot", json!(""))).await.refused(400, "boot: empty");
    send(&scene, with("boot", json!(long(129)))).await.refused(400, "boot: 129 characters: at most 128");
    send(&scene, with("agentVersion", json!(long(129)))).await.refused(400, "agentVersion");
    send(&scene, with("images", json!([{ "image": "a" }, { "image": long(1025) }]))).await.refused(400, "images[1].image: 1025");
    send(&scene, with("images", json!([{ "image": "" }]))).await.refused(400, "images[0].image: empty");
    send(&scene, with("images", json!([{ "image": "a", "digest": long(161) }]))).await.refused(400, "images[0].digest");
    send(&scene, with("removed", json!([long(1025)]))).await.refused(400, "removed[0]");
    send(&scene, with("findings", json!([{ "image": long(1025) }]))).await.refused(400, "findings[0].image");
    assert!(scene.board.nodes_now().is_empty());
}

#[tokio::test(start_paused = true)]
async fn fields_of_a_newer_agent_are_ignored_and_those_of_an_older_one_have_defaults() {
    let scene = Scene::leading();
    let body = json!({ "boot": "b", "sequence": 1, "full": true, "colour": "red", "images": [{ "image": "nginx", "upstream": "onFire" }] });
    assert_eq!(send(&scene, body.to_string()).await.status.as_u16(), 200);
    assert_eq!(held(&scene), ["nginx"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_error_is_kept_in_part() {
    let scene = Scene::leading();
    let finding = Finding { image: "nginx".to_owned(), at: 1, error: Some("é".repeat(2000)) };
    assert_eq!(scene.report("one", &Report { findings: vec![finding], ..full(1, &[]) }).await.status.as_u16(), 200);
    assert_eq!(scene.board.nodes_now()["node1"].findings["nginx"].error.as_deref(), Some(&*"é".repeat(1024)));
}

#[tokio::test(start_paused = true)]
async fn refusals_are_kept_in_part_and_proven_namespaces_too() {
    let scene = Scene::leading();
    let refused = |at| Refused {
        image: format!("image-{at}"),
        namespace: "team".to_owned(),
        at,
        reason: "denied".to_owned(),
        message: "é".repeat(2000),
    };
    let mut report = Report { refusals: (0..150).map(refused).collect(), ..full(1, &["nginx"]) };
    report.images[0].proven = (0..30).map(|nth| format!("n{nth}")).collect();
    assert_eq!(scene.report("one", &report).await.status.as_u16(), 200);
    let state = scene.board.nodes_now()["node1"].clone();
    assert_eq!((state.refusals.len(), state.refusals.values().map(|one| one.at).min()), (100, Some(50)), "the latest");
    assert!(state.refusals.values().all(|refused| refused.message == "é".repeat(1024)));
    assert_eq!(state.images["nginx"].proven.len(), 20);
    let long = Report { refusals: vec![Refused { namespace: "n".repeat(64), ..refused(1) }], ..full(2, &[]) };
    advance(3 * SECOND).await;
    scene.report("one", &long).await.refused(400, "refusals[0].namespace: 64 characters: at most 63");
}

#[tokio::test(start_paused = true)]
async fn what_is_said_about_a_disk_is_kept_in_part() {
    let scene = Scene::leading();
    let held = (0..1000).map(|nth| HeldBack { reason: format!("{nth}{}", "é".repeat(100)), images: 1, bytes: 1 }).collect();
    let pressure = Some(Pressure { since: 1, missing_bytes: 2, held });
    let disk = Disk { pressure, last_quarantined: Some("é".repeat(2000)), ..Disk::default() };
    assert_eq!(scene.report("one", &Report { disk, ..full(1, &[]) }).await.status.as_u16(), 200);
    let disk = scene.board.nodes_now()["node1"].disk.clone();
    assert_eq!(disk.last_quarantined, Some("é".repeat(1024)));
    let held = disk.pressure.unwrap().held;
    assert_eq!((held.len(), held[7].reason.clone()), (8, format!("7{}", "é".repeat(39))));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_refused() {
    let scene = Scene::leading();
    let entries = |count: usize| (0..count).map(|nth| format!("image-{nth}")).collect::<Vec<_>>();
    let most = entries(REPORT_MAX_IMAGES + 1);
    let report = Report { removed: most.clone(), ..full(1, &[]) };
    scene.report("one", &report).await.refused(413, "removed: 10001 entries: at most 10000");
    advance(SECOND).await;
    let images = most.iter().map(|image| Held { image: image.clone(), ..Held::default() }).collect();
    scene.report("one", &Report { images, ..full(1, &[]) }).await.refused(413, "images: 10001");
    let body = vec![b' '; REPORT_MAX_BYTES + 1];
    send(&scene, body.clone()).await.refused(413, "8388608 bytes");
    let unsized_body = axum::body::Body::from_stream(futures_util::stream::iter(
        body.chunks(1 << 20).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>(),
    ));
    send(&scene, unsized_body).await.refused(413, "8388608 bytes");
    assert!(scene.board.nodes_now().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_largest_report_is_taken_and_deltas_cannot_make_it_larger() {
    let scene = Scene::leading();
    let images: Vec<String> = (0..REPORT_MAX_IMAGES).map(|nth| format!("image-{nth}")).collect();
    let largest = full(1, &images.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(scene.report("one", &largest).await.json(), json!({ "fullWanted": false }));
    advance(SECOND).await;
    let more = Report { full: false, ..full(2, &["one-more"]) };
    assert_eq!(scene.report("one", &more).await.json(), json!({ "fullWanted": true }));
    assert_eq!(scene.board.nodes_now()["node1"].images.len(), REPORT_MAX_IMAGES);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let scene = Scene::leading();
    let started = tokio::time::Instant::now();
    let never = axum::body::Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let request = request(Method::POST, "/v1/report", &[("content-type", "application/json")], never);
    scene.send(request).await.refused(503, "did not arrive").later();
    assert_eq!(started.elapsed(), 10 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn bodies_wait_for_room_and_each_other() {
    let scene = Scene::leading();
    for node in 2..8 {
        scene.api.agent(&format!("token{node}"), &format!("node{node}"));
    }
    let hanging = |node: usize| {
        let never = axum::body::Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let mut request = request(Method::POST, "/v1/report", &[("content-type", "application/json")], never);
        request.headers_mut().insert("authorization", format!("Bearer token{node}").parse().unwrap());
        scene.send(request)
    };
    // Four bodies of unknown size take all the room; the report waits until they have timed out, which is when it does too.
    let (a, b, c, d, waiting) = tokio::join!(hanging(2), hanging(3), hanging(4), hanging(5), async {
        advance(SECOND).await;
        scene.report("one", &full(1, &["nginx"])).await
    });
    for answer in [a, b, c, d] {
        answer.refused(503, "did not arrive");
    }
    assert_eq!(waiting.status.as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_report_that_was_read_while_the_lead_was_lost_is_not_taken() {
    let scene = Scene::leading();
    let body = serde_json::to_vec(&full(1, &["nginx"])).unwrap();
    let board = scene.board.clone();
    let late = futures_util::stream::once(async move {
        board.lead(Leadership::Unknown);
        Ok::<_, std::io::Error>(body)
    });
    send(&scene, axum::body::Body::from_stream(late)).await.refused(503, "does not lead any more").later();
    assert!(scene.board.nodes_now().is_empty());
}
