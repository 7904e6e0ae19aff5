//! A blob is fetched once, read by all who wait while it comes, and never served wrong.

use crate::support::agent::TestAgent;
use crate::support::client::{read_at_least, read_to_break, same_bytes};
use crate::support::images::{self, Blob, EMPTY, digest_of, noise, sha512_of};
use crate::support::registry::{FakeRegistry, Fault, Gate, On};
use crate::support::scene::Scene;
use crate::support::wait::{soon, until};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_miss_is_fetched_and_a_hit_needs_no_upstream() {
    let mut scene = Scene::new(&[MIB]).await;
    scene.manifest().await;
    let got = scene.get_layer().await;
    assert_eq!(got.header("content-length"), Some(MIB.to_string().as_str()));
    assert_eq!(got.header("docker-content-digest"), Some(scene.layer().digest.to_string().as_str()));
    assert_eq!(got.header("content-type"), Some("application/octet-stream"));
    assert_eq!(scene.upstream.sent_bytes(&scene.on_layer()), MIB as u64);
    scene.agent.committed(&scene.layer().digest).await;
    scene.upstream.stop().await;
    for _ in 0..3 {
        scene.get_layer().await;
    }
    assert_eq!(scene.upstream.count(&scene.on_layer()), 1);
    same_bytes(&std::fs::read(scene.agent.blob_file(&scene.layer().digest)).unwrap(), &scene.layer().bytes);
}

#[tokio::test]
async fn blobs_of_every_small_size_are_served() {
    let upstream = FakeRegistry::start();
    let agent = TestAgent::start(&upstream).await;
    let app = upstream.repository("app");
    for size in [0, 1, 2, 4095, 4096, 65_535, 65_536, 65_537, 262_144, 262_145] {
        let bytes = noise(7, size);
        let digest = upstream.add_blob("app", bytes.clone());
        for _cold_then_warm in 0..2 {
            agent.get(&app.blob(&digest)).await.expect(200).expect_bytes(&bytes);
            let head = agent.head(&app.blob(&digest)).await.expect(200);
            assert_eq!(head.header("content-length"), Some(size.to_string().as_str()));
        }
    }
}

#[tokio::test]
async fn a_sha512_digest_is_verified_too() {
    let upstream = FakeRegistry::start();
    let agent = TestAgent::start(&upstream).await;
    let app = upstream.repository("app");
    let bytes = noise(8, 300_000);
    let digest = sha512_of(&bytes);
    upstream.add_blob_as("app", digest, bytes.clone());
    upstream.fault_times(1, On::blob(&digest).get(), Fault::FlipFirst);
    agent.try_get(&app.blob(&digest)).await.expect_err("wrong bytes must not end well");
    agent.get(&app.blob(&digest)).await.expect(200).expect_bytes(&bytes);
    agent.committed(&digest).await;
    same_bytes(&std::fs::read(agent.blob_file(&digest)).unwrap(), &bytes);
}

#[tokio::test]
async fn the_last_bytes_are_withheld_until_the_digest_is_verified() {
    let scene = Scene::new(&[MIB]).await;
    scene.manifest().await;
    let gate = Gate::new();
    scene.upstream.fault_times(1, scene.on_layer(), Fault::HoldBody(MIB - 1, gate.clone()));
    scene.upstream.fault_times(1, scene.on_layer(), Fault::FlipLast);
    let mut response = scene.agent.open(&scene.layer_path()).await;
    let begin = read_at_least(&mut response, MIB / 2).await.len();
    gate.reached().await;
    gate.open();
    let got = begin + read_to_break(&mut response).await;
    assert!(got < MIB, "{got} bytes of a wrong blob were served");
    assert!(!scene.agent.blob_file(&scene.layer().digest).exists());
    scene.get_layer().await;
}

#[tokio::test]
async fn wrong_content_breaks_off_is_not_kept_and_a_good_retry_works() {
    let faults = [Fault::FlipFirst, Fault::FlipLast, Fault::CutLast(10), Fault::Append(10)];
    for size in [100_usize, MIB] {
        let scene = Scene::new(&[size]).await;
        scene.manifest().await;
        for fault in &faults {
            for chunked in [false, true] {
                scene.upstream.fault(scene.on_layer(), fault.clone());
                if chunked {
                    scene.upstream.fault(scene.on_layer(), Fault::NoLength);
                }
                if let Ok(got) = scene.agent.try_get(&scene.layer_path()).await {
                    assert!(got.status >= 500, "{size} {fault:?} {chunked}: {}", got.status);
                }
                assert!(!scene.agent.blob_file(&scene.layer().digest).exists(), "{fault:?}");
                until("the temporary file is gone", || scene.agent.files("tmp").is_empty()).await;
                scene.upstream.behave();
            }
        }
        assert!(scene.agent.metric("kuik_agent_upstream_errors_total", &[]).await > 0.5);
        scene.get_layer().await;
    }
}

#[tokio::test]
async fn a_length_that_upstream_does_not_say_is_no_obstacle() {
    let scene = Scene::new(&[MIB]).await;
    scene.upstream.fault(On::blobs(), Fault::NoLength);
    scene.pull().await;
    // Nor when no manifest says it either.
    let bytes = noise(9, MIB);
    let digest = scene.upstream.add_blob("app", bytes.clone());
    for _cold_then_warm in 0..2 {
        scene.agent.get(&scene.app.blob(&digest)).await.expect(200).expect_bytes(&bytes);
    }
    assert_eq!(scene.upstream.count(&On::blob(&digest).get()), 1);
}

#[tokio::test]
async fn a_blob_is_served_only_under_a_repository_that_references_it() {
    let mut scene = Scene::new(&[MIB]).await;
    scene.pull().await;
    let digest = scene.layer().digest;
    // Upstream says no for this one,
    scene.upstream.add_blob("stranger", b"something else".to_vec());
    let stranger = scene.upstream.repository("stranger");
    assert_eq!(scene.agent.get(&stranger.blob(&digest)).await.expect(404).error_code(), "BLOB_UNKNOWN");
    scene.agent.head(&stranger.blob(&digest)).await.expect(404);
    scene.agent.get_range(&stranger.blob(&digest), "bytes=0-9").await.expect(404);
    // yes for this one,
    scene.upstream.add_blob("friend", scene.layer().bytes.clone());
    let friend = scene.upstream.repository("friend");
    scene.agent.get(&friend.blob(&digest)).await.expect(200).expect_bytes(&scene.layer().bytes);
    // and a manifest of this one does.
    scene.image.push(&scene.upstream, "sibling", "1");
    let sibling = scene.upstream.repository("sibling");
    scene.agent.get(&sibling.manifest("1")).await.expect(200);
    scene.upstream.stop().await;
    for allowed in [&friend, &sibling] {
        scene.agent.get(&allowed.blob(&digest)).await.expect(200).expect_bytes(&scene.layer().bytes);
    }
    let got = scene.agent.get(&stranger.blob(&digest)).await;
    assert!(got.status >= 400, "{}", got.status);
    assert_eq!(scene.upstream.sent_bytes(&scene.on_layer()), MIB as u64 + refusals(&scene));
}

/// Bytes of the error bodies that upstream sent.
fn refusals(scene: &Scene) -> u64 {
    scene.upstream.seen(&scene.on_layer()).iter().filter(|seen| seen.status() >= 400).map(crate::support::registry::Seen::sent_bytes).sum()
}

#[tokio::test]
async fn a_blob_that_grows_is_not_handed_to_strangers_either() {
    let scene = Scene::new(&[MIB]).await;
    scene.manifest().await;
    scene.upstream.add_blob("stranger", b"something else".to_vec());
    let gate = Gate::new();
    scene.upstream.fault_times(1, scene.on_layer(), Fault::HoldBody(MIB / 2, gate.clone()));
    let mut open = scene.agent.open(&scene.layer_path()).await;
    read_at_least(&mut open, 1).await;
    let stranger = scene.upstream.repository("stranger");
    scene.agent.get(&stranger.blob(&scene.layer().digest)).await.expect(404);
    gate.open();
    soon("the rest", open.bytes()).await.unwrap();
}

#[tokio::test]
async fn a_refusal_for_one_repository_is_none_for_another() {
    let scene = Scene::new(&[MIB]).await;
    scene.manifest().await;
    let gate = Gate::new();
    scene.upstream.add_blob("stranger", b"something else".to_vec());
    let stranger = scene.upstream.repository("stranger");
    scene.upstream.fault_times(1, On::repository("stranger"), Fault::HoldHead(gate.clone()));
    let refused_path = stranger.blob(&scene.layer().digest);
    let (refused, (), ()) = tokio::join!(
        scene.agent.get(&refused_path),
        async {
            scene.get_layer().await;
        },
        async {
            gate.reached().await;
            gate.open();
        }
    );
    refused.expect(404);
}

#[tokio::test]
async fn head_of_a_blob_that_is_not_here_fetches_nothing() {
    let scene = Scene::new(&[MIB]).await;
    scene.manifest().await;
    let head = scene.agent.head(&scene.layer_path()).await.expect(200);
    assert_eq!(head.header("content-length"), Some(MIB.to_string().as_str()));
    assert_eq!(head.header("docker-content-digest"), Some(scene.layer().digest.to_string().as_str()));
    assert_eq!((scene.upstream.count(&scene.on_layer().head()), scene.upstream.count(&scene.on_layer().get())), (1, 0));
    scene.get_layer().await;
    scene.upstream.forget();
    scene.agent.head(&scene.layer_path()).await.expect(200);
    assert_eq!(scene.upstream.count(&On::any()), 0);
}

#[tokio::test]
async fn unknown_blobs_are_unknown_until_they_exist() {
    let scene = Scene::new(&[10]).await;
    let blob = Blob::new(EMPTY, b"later".to_vec());
    let path = scene.app.blob(&blob.digest);
    assert_eq!(scene.agent.get(&path).await.expect(404).error_code(), "BLOB_UNKNOWN");
    scene.agent.head(&path).await.expect(404);
    scene.upstream.add_blob("app", blob.bytes.clone());
    scene.agent.get(&path).await.expect(200).expect_bytes(&blob.bytes);
}

#[tokio::test]
async fn failures_before_the_first_byte_have_a_status() {
    let scene = Scene::new(&[MIB]).await;
    scene.manifest().await;
    for (fault, wanted) in [(Fault::Status(500), 500..=504), (Fault::Status(403), 401..=403), (Fault::BreakHead, 500..=504)] {
        scene.upstream.fault(scene.on_layer(), fault.clone());
        let got = scene.agent.get(&scene.layer_path()).await;
        assert!(wanted.contains(&got.status), "{fault:?}: {}", got.status);
        got.error_code();
        scene.upstream.behave();
    }
    scene.get_layer().await;
}

#[tokio::test]
async fn the_same_bytes_in_two_registries_are_stored_once() {
    let other = FakeRegistry::start();
    let scene = Scene::with(images::simple(1, &[MIB]), TestAgent::builder().plain_http(&other)).await;
    scene.image.push(&other, "app", "1");
    scene.pull().await;
    let app = other.repository("app");
    scene.agent.get(&app.manifest("1")).await.expect(200);
    scene.agent.get(&app.blob(&scene.layer().digest)).await.expect(200).expect_bytes(&scene.layer().bytes);
    assert_eq!(other.count(&scene.on_layer().get()), 0);
    assert_eq!(digest_of(&scene.layer().bytes), scene.layer().digest);
}

#[tokio::test]
async fn the_head_of_a_blob_of_unknown_size_claims_none() {
    let scene = Scene::new(&[1000]).await;
    scene.upstream.fault(scene.on_layer(), Fault::NoLength);
    let got = scene.agent.head(&scene.layer_path()).await.expect(200);
    assert_eq!(got.header("content-length"), None);
    // What the manifest says of it is good enough.
    scene.manifest().await;
    let got = scene.agent.head(&scene.layer_path()).await.expect(200);
    assert_eq!(got.header("content-length"), Some("1000"));
}
