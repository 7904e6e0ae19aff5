//! Bytes that changed on disk are found, put aside and fetched again. They are never served.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::agent::{TestAgent, ended, program};
use crate::support::client::{read_at_least, read_to_break};
use crate::support::scene::Scene;
use crate::support::wait::until;

const MIB: usize = 1 << 20;
const QUARANTINED: &str = "kuik_agent_quarantined_blobs_total";

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

async fn verify(agent: &TestAgent) -> Output {
    let admin = agent.admin_address().to_string();
    tokio::task::spawn_blocking(move || ended(program().args(["verify", "--output", "json", "--admin", &admin]))).await.unwrap()
}

/// The scene after everything of its image is on disk.
async fn stored(size: usize) -> Scene {
    let scene = Scene::new(&[size]).await;
    scene.pull().await;
    for blob in &scene.image.blobs {
        scene.agent.committed(&blob.digest).await;
    }
    scene.agent.committed(&scene.image.digest).await;
    until("nothing is being written", || scene.agent.files("tmp").is_empty()).await;
    scene
}

#[tokio::test]
async fn verify_finds_nothing_where_nothing_is_wrong() {
    let scene = stored(MIB).await;
    let output = verify(&scene.agent).await;
    assert!(output.status.success(), "{output:?}");
    let last: Value = serde_json::from_slice(output.stdout.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!((last["checked"].as_u64(), last["quarantined"].as_u64()), (Some(3), Some(0)), "{last}");
    assert!(scene.agent.metric(QUARANTINED, &[]).await < 0.5);
}

#[tokio::test]
async fn verify_quarantines_what_rotted_and_it_is_fetched_again() {
    for at in [0, MIB / 2, MIB - 1] {
        let mut scene = stored(MIB).await;
        let digest = scene.layer().digest;
        flip(&scene.agent.blob_file(&digest), at);
        let output = verify(&scene.agent).await;
        assert!(!output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(&digest.to_string()), "{output:?}");
        assert!(!scene.agent.blob_file(&digest).exists());
        assert!((scene.agent.metric(QUARANTINED, &[]).await - 1.0).abs() < 0.1);
        scene.upstream.stop().await;
        let got = scene.agent.get(&scene.layer_path()).await;
        assert!(got.status >= 500, "{}", got.status);
        scene.upstream.start_again();
        scene.get_layer().await;
        scene.agent.committed(&digest).await;
        assert!(verify(&scene.agent).await.status.success());
    }
}

#[tokio::test]
async fn a_manifest_that_rotted_is_quarantined_and_fetched_again() {
    let scene = stored(1000).await;
    flip(&scene.agent.blob_file(&scene.image.digest), 100);
    assert!(!verify(&scene.agent).await.status.success());
    scene.pull().await;
}

#[tokio::test]
async fn a_blob_of_the_wrong_size_is_fetched_again_and_never_served() {
    for size in [MIB - 1, MIB / 2, 0, MIB + 1] {
        let mut scene = stored(MIB).await;
        let file = scene.agent.blob_file(&scene.layer().digest);
        std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(u64::try_from(size).unwrap()).unwrap();
        scene.upstream.stop().await;
        let got = scene.agent.try_get(&scene.layer_path()).await;
        assert!(got.as_ref().map_or(true, |got| got.status >= 500), "{size}: {got:?}");
        scene.upstream.start_again();
        scene.get_layer().await;
        scene.agent.get_range(&scene.layer_path(), "bytes=-10").await.expect(206).expect_bytes(&scene.layer().bytes[MIB - 10..]);
        assert!(scene.agent.metric(QUARANTINED, &[]).await > 0.5, "{size}");
    }
}

#[tokio::test]
async fn a_file_that_ends_while_it_is_read_breaks_the_answer_off_and_is_fetched_again() {
    // More than what sockets and buffers hold, so that the end is read after the file was cut.
    let size = 48 * MIB;
    let scene = stored(size).await;
    let digest = scene.layer().digest;
    let mut slow = scene.agent.open(&scene.layer_path()).await;
    let begin = read_at_least(&mut slow, 1).await.len();
    std::fs::OpenOptions::new().write(true).open(scene.agent.blob_file(&digest)).unwrap().set_len(1000).unwrap();
    let got = begin + read_to_break(&mut slow).await;
    assert!(got < size, "{got}");
    until("it is put aside", || !scene.agent.blob_file(&digest).exists() && scene.agent.files("quarantine").len() == 1).await;
    assert!((scene.agent.metric(QUARANTINED, &[]).await - 1.0).abs() < 0.1);
    scene.get_layer().await;
    scene.agent.committed(&digest).await;
    assert_eq!(scene.upstream.count(&scene.on_layer()), 2);
    assert!(verify(&scene.agent).await.status.success());
}

#[tokio::test]
async fn a_blob_of_the_wrong_size_is_found_without_the_index_too() {
    for index in [true, false] {
        let mut scene = stored(MIB).await;
        scene.agent.kill9();
        let file = scene.agent.blob_file(&scene.layer().digest);
        std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(700_000).unwrap();
        if !index {
            std::fs::remove_dir_all(scene.agent.data_dir().join("index")).unwrap();
        }
        scene.agent.start_again().await;
        scene.pull().await;
    }
}

#[tokio::test]
async fn a_blob_that_vanished_is_fetched_again() {
    let scene = stored(MIB).await;
    for digest in [scene.layer().digest, scene.image.digest, scene.image.blobs[0].digest] {
        std::fs::remove_file(scene.agent.blob_file(&digest)).unwrap();
    }
    scene.pull().await;
    assert!(verify(&scene.agent).await.status.success());
}

#[tokio::test]
async fn small_blobs_and_manifests_that_rotted_are_not_served_even_unverified() {
    let mut scene = stored(1000).await;
    scene.agent.terminate();
    scene.agent.exit().await;
    for digest in [scene.layer().digest, scene.image.digest, scene.image.blobs[0].digest] {
        flip(&scene.agent.blob_file(&digest), 10);
    }
    scene.agent.start_again().await;
    scene.pull().await;
}

#[tokio::test]
async fn what_is_no_file_where_a_blob_should_be_keeps_nobody_waiting() {
    let scene = stored(MIB).await;
    let file = scene.agent.blob_file(&scene.layer().digest);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    for _ in 0..2 {
        scene.get_layer().await;
    }
    verify(&scene.agent).await;
    scene.get_layer().await;
}

#[tokio::test]
async fn a_layer_that_is_asked_for_as_a_manifest_stays_a_layer() {
    for size in [1000, 17 * MIB] {
        let mut scene = stored(size).await;
        scene.upstream.stop().await;
        let got = scene.agent.get(&scene.app.manifest(scene.layer().digest)).await;
        assert_ne!(got.status, 200, "{size}");
        assert!(scene.agent.metric(QUARANTINED, &[]).await < 0.5, "{size}");
        scene.get_layer().await;
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_no_reason_to_fail() {
    let scene = stored(MIB).await;
    let file = scene.agent.blob_file(&scene.layer().digest);
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&file, &file).unwrap();
    scene.get_layer().await;
}
