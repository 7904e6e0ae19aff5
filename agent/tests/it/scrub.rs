//! What rots on disk is found by itself, put aside and fetched again, before anybody asks for it.

use kuik_crd::Digest;

use crate::support::agent::TestAgent;
use crate::support::images::{self, Image};
use crate::support::registry::{FakeRegistry, On};
use crate::support::scene::pull;
use crate::support::wait::{until, until_some};

fn flip(agent: &TestAgent, digest: &Digest) {
    let file = agent.blob_file(digest);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&file, bytes).unwrap();
}

async fn start(args: &[&str]) -> (FakeRegistry, TestAgent, Image) {
    let upstream = FakeRegistry::start();
    let image = images::simple(1, &[300_000, 200_000]);
    image.push(&upstream, "app", "1");
    let agent = TestAgent::builder().plain_http(&upstream).args(args.iter().copied()).start().await;
    pull(&agent, &upstream.repository("app"), "1", &image).await;
    for digest in image.blobs.iter().map(|blob| blob.digest).chain([image.digest]) {
        agent.committed(&digest).await;
    }
    (upstream, agent, image)
}

fn is_good(agent: &TestAgent, digest: &Digest, bytes: &[u8]) -> bool {
    std::fs::read(agent.blob_file(digest)).is_ok_and(|found| found == bytes)
}

#[tokio::test]
async fn a_layer_and_a_manifest_that_rotted_are_fetched_again() {
    let (upstream, agent, image) = start(&["--cache-scrub-interval=1s", "--cache-scrub-rate=1Gi"]).await;
    upstream.forget();
    let layer = image.layer();
    flip(&agent, &layer.digest);
    flip(&agent, &image.digest);
    until("both are as they were", || is_good(&agent, &layer.digest, &layer.bytes) && is_good(&agent, &image.digest, &image.bytes)).await;
    assert_eq!(agent.files("quarantine").len(), 2);
    assert!((agent.metric("kuik_agent_quarantined_blobs_total", &[]).await - 2.0).abs() < 0.1);
    assert_eq!(upstream.count(&On::blob(&layer.digest)), 1, "and only what was wrong is fetched");
    until_some("a round is counted", async || (agent.metric("kuik_agent_scrub_rounds_total", &[]).await > 0.5).then_some(())).await;
    assert!(agent.metric("kuik_agent_scrubbed_bytes_total", &[]).await > 500_000.0);
}

#[tokio::test]
async fn what_cannot_be_fetched_again_now_is_fetched_when_it_is_asked_for() {
    let (mut upstream, agent, image) = start(&["--cache-scrub-interval=1s", "--cache-scrub-rate=1Gi"]).await;
    upstream.stop().await;
    flip(&agent, &image.layer().digest);
    until("it is put aside", || !agent.blob_file(&image.layer().digest).exists()).await;
    until("that is said", || agent.log().contains("cannot be fetched again now")).await;
    upstream.start_again();
    pull(&agent, &upstream.repository("app"), "1", &image).await;
}

#[tokio::test]
async fn without_an_interval_nothing_is_hashed() {
    let (_upstream, agent, image) = start(&["--cache-scrub-interval=0s"]).await;
    flip(&agent, &image.layer().digest);
    // The loop has looked at its settings by the time that gc is answered; nothing it would do is left to wait for.
    agent.metrics().await;
    assert!(agent.metric("kuik_agent_scrubbed_bytes_total", &[]).await < 0.5);
}

#[tokio::test]
async fn hashing_goes_no_faster_than_it_may() {
    // Half a MB at half a MB a second.
    let (_upstream, agent, _image) = start(&["--cache-scrub-interval=1s", "--cache-scrub-rate=500k"]).await;
    let hashed = async || agent.metric("kuik_agent_scrubbed_bytes_total", &[]).await;
    let before = until_some("hashing has begun", async || Some(hashed().await).filter(|bytes| *bytes > 1000.0)).await;
    let began = tokio::time::Instant::now();
    until_some("as much again was hashed", async || (hashed().await > before + 500_000.0).then_some(())).await;
    assert!(began.elapsed().as_millis() > 500, "{:?}", began.elapsed());
}
