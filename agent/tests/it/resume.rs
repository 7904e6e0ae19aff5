//! A download that breaks, stalls or is refused a range goes on at its frontier; what cannot go on ends, and in time.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use crate::support::agent::{TestAgent, impatient};
use crate::support::client::{read_at_least, read_to_break, same_bytes};
use crate::support::images;
use crate::support::registry::{FakeRegistry, Fault, Gate, On};
use crate::support::scene::Scene;
use crate::support::wait::{soon, until};

const MIB: usize = 1 << 20;

async fn scene(size: usize) -> Scene {
    let scene = Scene::configured(&[size], json!({ "upstream": impatient() })).await;
    scene.manifest().await;
    scene
}

/// The ranges that upstream was asked for, in order; `-` for the whole.
fn ranges(scene: &Scene) -> Vec<String> {
    scene.upstream.seen(&scene.on_layer().get()).iter().map(|seen| seen.range().unwrap_or("-").to_owned()).collect()
}

#[tokio::test]
async fn a_broken_download_is_resumed_at_its_frontier() {
    let scene = scene(MIB).await;
    scene.upstream.fault_times(1, scene.on_layer(), Fault::BreakAfter(300_000));
    scene.get_layer().await;
    assert_eq!(ranges(&scene), ["-", "bytes=300000-"]);
    assert_eq!(scene.upstream.sent_bytes(&scene.on_layer()), MIB as u64);
}

#[tokio::test]
async fn a_stalled_download_is_resumed_at_its_frontier() {
    let scene = scene(MIB).await;
    scene.upstream.fault_times(1, scene.on_layer(), Fault::StallAfter(300_000));
    scene.get_layer().await;
    assert_eq!(ranges(&scene), ["-", "bytes=300000-"]);
    assert_eq!(scene.upstream.sent_bytes(&scene.on_layer()), MIB as u64);
}

#[tokio::test]
async fn as_long_as_it_gets_on_it_goes_on() {
    let scene = scene(MIB).await;
    scene.upstream.fault_times(8, scene.on_layer(), Fault::BreakAfter(100_000));
    scene.get_layer().await;
    let want: Vec<String> = (0..9).map(|i| if i == 0 { "-".to_owned() } else { format!("bytes={}-", i * 100_000) }).collect();
    assert_eq!(ranges(&scene), want);
}

#[tokio::test]
async fn a_break_after_the_last_byte_but_one_costs_one_byte() {
    let scene = scene(MIB).await;
    scene.upstream.fault_times(1, scene.on_layer(), Fault::BreakAfter(MIB - 1));
    scene.get_layer().await;
    assert_eq!(scene.upstream.sent_bytes(&scene.on_layer()), MIB as u64);
}

#[tokio::test]
async fn without_range_support_the_download_begins_again_unnoticed() {
    let scene = scene(MIB).await;
    scene.upstream.fault(scene.on_layer(), Fault::NoRange);
    scene.upstream.fault_times(1, scene.on_layer(), Fault::BreakAfter(300_000));
    scene.get_layer().await;
    assert_eq!(ranges(&scene), ["-", "bytes=300000-"]);
}

#[tokio::test]
async fn without_a_length_a_break_is_a_break() {
    let scene = scene(MIB).await;
    scene.upstream.fault(scene.on_layer(), Fault::NoLength);
    scene.upstream.fault_times(1, scene.on_layer(), Fault::BreakAfter(300_000));
    scene.get_layer().await;
}

#[tokio::test]
async fn a_range_that_was_not_asked_for_is_not_taken() {
    let scene = scene(MIB).await;
    for fault in [Fault::ShiftRange(1), Fault::Header("content-range", "garbage".to_owned())] {
        scene.upstream.fault_times(1, scene.on_layer(), Fault::BreakAfter(300_000));
        scene.upstream.fault(scene.on_layer(), fault);
        if let Ok(got) = scene.agent.try_get(&scene.layer_path()).await {
            assert!(got.status >= 500 || got.body == scene.layer().bytes, "{}", got.status);
        }
        scene.upstream.behave();
        scene.get_layer().await;
        scene.agent.committed(&scene.layer().digest).await;
        std::fs::remove_file(scene.agent.blob_file(&scene.layer().digest)).unwrap();
    }
}

#[tokio::test]
async fn a_blob_that_changed_under_a_resume_is_not_kept() {
    let scene = scene(MIB).await;
    scene.upstream.fault_times(1, scene.on_layer(), Fault::BreakAfter(300_000));
    scene.upstream.fault(scene.on_layer(), Fault::FlipLast);
    scene.agent.try_get(&scene.layer_path()).await.expect_err("the answer must break off");
    assert!(!scene.agent.blob_file(&scene.layer().digest).exists());
    scene.upstream.behave();
    scene.get_layer().await;
}

#[tokio::test]
async fn a_slow_but_steady_upstream_is_no_stall() {
    let scene = scene(1000).await;
    scene.upstream.fault(scene.on_layer(), Fault::Trickle(100, Duration::from_millis(100)));
    scene.get_layer().await;
    assert_eq!(ranges(&scene), ["-"]);
}

#[tokio::test]
async fn a_download_that_gets_nowhere_ends_and_leaves_nothing() {
    join_all([Fault::BreakAfter(0), Fault::StallAfter(0), Fault::Status(500), Fault::Hang].map(async |fault| {
        let scene = scene(MIB).await;
        let gate = Gate::new();
        scene.upstream.fault_times(1, scene.on_layer(), Fault::HoldBody(300_000, gate.clone()));
        scene.upstream.fault_times(1, scene.on_layer(), Fault::BreakAfter(300_000));
        let mut response = scene.agent.open(&scene.layer_path()).await;
        read_at_least(&mut response, 200_000).await;
        gate.reached().await;
        scene.upstream.fault(scene.on_layer(), fault.clone());
        gate.open();
        let began = Instant::now();
        read_to_break(&mut response).await;
        assert!(began.elapsed() < Duration::from_secs(20), "{fault:?}: {:?}", began.elapsed());
        until("the temporary file is gone", || scene.agent.files("tmp").is_empty()).await;
        scene.upstream.behave();
        scene.get_layer().await;
    }))
    .await;
}

#[tokio::test]
async fn an_upstream_that_hangs_before_its_answer_is_given_up() {
    let scene = scene(MIB).await;
    scene.upstream.fault(scene.on_layer(), Fault::Hang);
    let got = scene.agent.get(&scene.layer_path()).await;
    assert!((502..=504).contains(&got.status), "{}", got.status);
    scene.upstream.behave();
    scene.get_layer().await;
}

#[tokio::test]
async fn a_registry_that_restarts_during_a_download_is_found_again() {
    let mut scene = scene(MIB).await;
    scene.upstream.fault_times(1, scene.on_layer(), Fault::StallAfter(500_000));
    let mut response = scene.agent.open(&scene.layer_path()).await;
    let mut got = read_at_least(&mut response, 400_000).await;
    scene.upstream.stop().await;
    scene.upstream.start_again();
    got.extend_from_slice(&soon("the rest", response.bytes()).await.unwrap());
    same_bytes(&got, &scene.layer().bytes);
    assert_eq!(ranges(&scene), ["-", "bytes=500000-"]);
}

#[tokio::test]
async fn redirects_are_followed_and_resumed() {
    let cdn = FakeRegistry::builder().host([127, 0, 0, 2]).start();
    let scene = Scene::with(images::simple(1, &[MIB]), TestAgent::builder()).await;
    cdn.add_blob("any", scene.layer().bytes.clone());
    scene.manifest().await;
    scene.upstream.fault(scene.on_layer(), Fault::Redirect(cdn.cdn_url(&scene.layer().digest)));
    cdn.fault_times(1, On::cdn(), Fault::BreakAfter(300_000));
    scene.get_layer().await;
    let ranges: Vec<_> = cdn.seen(&On::cdn()).iter().map(|seen| seen.range().map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=300000-".to_owned())]);
    assert_eq!(cdn.sent_bytes(&On::cdn()), MIB as u64);
}

#[tokio::test]
async fn redirects_that_lead_nowhere_end() {
    let scene = scene(1000).await;
    let own = format!("{}/v2/app/blobs/{}", scene.upstream.url(), scene.layer().digest);
    let targets = [own, "http://127.0.0.1:1/x".to_owned(), "file:///etc/passwd".to_owned(), "not a path".to_owned(), String::new()];
    for to in targets {
        scene.upstream.fault(scene.on_layer(), Fault::Redirect(to.clone()));
        let got = scene.agent.get(&scene.layer_path()).await;
        // What is no URL of its own is a path below the registry, where nothing is.
        assert!(got.status == 404 && to == "not a path" || (500..=504).contains(&got.status), "{to}: {}", got.status);
        scene.upstream.behave();
    }
    scene.get_layer().await;
}
