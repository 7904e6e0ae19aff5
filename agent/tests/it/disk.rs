//! A budget that holds: what is evicted, what stays, and what passes through.

use std::os::unix::fs::MetadataExt as _;
use std::process::Output;

use kuik_crd::Digest;
use serde_json::{Value, json};

use crate::support::agent::{TestAgent, ended, program};
use crate::support::client::{read_at_least, same_bytes};
use crate::support::images::{self, Image, noise};
use crate::support::registry::{FakeRegistry, Fault, Gate, LocalPath, On};
use crate::support::scene::pull;
use crate::support::wait::{soon, until, until_some};

const MIB: usize = 1 << 20;

/// An upstream with images `app:0`, `app:1`, …, each with a layer of a MiB, and an agent before it.
struct Disk {
    upstream: FakeRegistry,
    agent: TestAgent,
    app: LocalPath,
    images: Vec<Image>,
}

impl Disk {
    async fn start(count: u64, args: &[&str]) -> Self {
        let upstream = FakeRegistry::start();
        let images: Vec<Image> = (0..count).map(|number| images::simple(number, &[MIB])).collect();
        for (number, image) in images.iter().enumerate() {
            image.push(&upstream, "app", &number.to_string());
        }
        let agent = TestAgent::builder().plain_http(&upstream).args(args.iter().copied()).start().await;
        let app = upstream.repository("app");
        Self { upstream, agent, app, images }
    }

    async fn pull(&self, number: usize) {
        pull(&self.agent, &self.app, &number.to_string(), &self.images[number]).await;
    }

    /// Pulls it, and waits until it is stored. Of images used in the same second any may go first, so it may have gone again.
    async fn store(&self, number: usize) {
        self.pull(number).await;
        let image = format!("\"image\":\"{}\"", self.name(number));
        let has_gone = || self.agent.log().lines().any(|line| line.contains("evicted an image") && line.contains(&image));
        until("it is stored, or was", || self.has(number) || has_gone()).await;
    }

    fn has(&self, number: usize) -> bool {
        self.agent.blob_file(&self.images[number].layer().digest).exists()
    }

    fn name(&self, number: usize) -> String {
        format!("{}/app:{number}", self.upstream.host())
    }

    async fn used(&self) -> u64 {
        whole(self.agent.metric("kuik_agent_cache_used_bytes", &[]).await)
    }

    async fn passed_through(&self) -> u64 {
        whole(self.agent.metric("kuik_agent_pass_through_pulls_total", &[("reason", "no_room")]).await)
    }

    /// What a command of the running agent says.
    fn ask(&self, words: &[&str]) -> Output {
        ended(program().args(words).args(["--admin", &self.agent.admin_address().to_string()]))
    }

    fn gc(&self, dry_run: bool) -> Value {
        let words = if dry_run { &["gc", "--output", "json", "--dry-run"][..] } else { &["gc", "--output", "json"] };
        let output = self.ask(words);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn pin(&self, word: &str, number: usize) {
        let output = self.ask(&[word, &self.name(number)]);
        assert!(output.status.success(), "{output:?}");
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of bytes that a metric shows")]
fn whole(value: f64) -> u64 {
    value as u64
}

/// What files below these parts of the data directory take on the disk.
fn on_disk(agent: &TestAgent, parts: &[&str]) -> u64 {
    parts.iter().flat_map(|part| agent.files(part)).filter_map(|file| file.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
}

#[tokio::test]
async fn the_budget_holds_and_the_longest_unused_goes_first() {
    let disk = Disk::start(24, &["--cache-max-size=8Mi"]).await;
    for number in 0..24 {
        if number == 23 {
            // Last use is counted in seconds: the last image is to be the one used last.
            let second = kuik_agent::store::now_seconds();
            until("the next second", || kuik_agent::store::now_seconds() > second).await;
        }
        disk.store(number).await;
        assert!(disk.used().await <= 8 << 20, "after image {number}: {}", disk.used().await);
    }
    assert_eq!(disk.passed_through().await, 0);
    assert!(disk.has(23) && !disk.has(0));
    assert!(disk.agent.metric("kuik_agent_evicted_images_total", &[("reason", "unused")]).await > 10.0);
    assert!(disk.agent.metric("kuik_agent_evicted_bytes_total", &[("reason", "unused")]).await > 10e6);
    disk.pull(0).await;
}

#[tokio::test]
async fn many_at_once_are_promised_no_more_than_there_is() {
    let disk = Disk::start(16, &["--cache-max-size=6Mi", "--cache-high-watermark=1", "--cache-low-watermark=0.9"]).await;
    let gate = Gate::new();
    for image in &disk.images {
        disk.upstream.fault_times(1, On::blob(&image.layer().digest), Fault::HoldBody(1000, gate.clone()));
    }
    let pulls = futures_util::future::join_all((0..16).map(|number| disk.pull(number)));
    let watch = async {
        gate.reached_by(16).await;
        let metrics = disk.agent.metrics().await;
        let sum = metrics.value("kuik_agent_cache_used_bytes", &[]) + metrics.value("kuik_agent_cache_reserved_bytes", &[]);
        assert!(whole(sum) <= 6 << 20, "used and promised: {sum}");
        gate.open();
    };
    tokio::join!(pulls, watch);
    assert!(disk.used().await <= 6 << 20);
    assert!(disk.passed_through().await > 5, "not all of them fit");
}

#[tokio::test]
async fn what_is_larger_than_the_budget_passes_through() {
    let disk = Disk::start(1, &["--cache-max-size=512Ki"]).await;
    for _ in 0..2 {
        disk.pull(0).await;
    }
    assert!(!disk.has(0));
    assert!(disk.passed_through().await >= 2);
    let small = &disk.images[0].blobs[0];
    disk.agent.committed(&small.digest).await;
}

#[tokio::test]
async fn a_size_that_nobody_said_is_no_way_around_the_budget() {
    let disk = Disk::start(2, &["--cache-max-size=1500Ki"]).await;
    disk.upstream.fault(On::blobs(), Fault::NoLength);
    disk.store(0).await;
    disk.pull(1).await;
    until_some("the budget holds", async || (disk.used().await <= 1500 << 10).then_some(())).await;
}

#[tokio::test]
async fn who_reads_an_image_goes_on_reading_when_it_is_evicted() {
    let upstream = FakeRegistry::start();
    let large = images::simple(100, &[12 * MIB]);
    large.push(&upstream, "app", "large");
    let agent = TestAgent::builder().plain_http(&upstream).args(["--cache-max-size=16Mi"]).start().await;
    let app = upstream.repository("app");
    pull(&agent, &app, "large", &large).await;
    agent.committed(&large.layer().digest).await;
    let mut response = agent.open(&app.blob(&large.layer().digest)).await;
    let mut got = read_at_least(&mut response, 1000).await;
    let other = images::simple(101, &[10 * MIB]);
    other.push(&upstream, "app", "other");
    pull(&agent, &app, "other", &other).await;
    let file = agent.blob_file(&large.layer().digest);
    until("the first image has gone", || !file.exists()).await;
    got.extend_from_slice(&soon("the rest", response.bytes()).await.unwrap());
    same_bytes(&got, &large.layer().bytes);
}

#[tokio::test]
async fn what_is_pinned_stays_and_the_rest_passes_through_until_it_is_let_go() {
    let mut disk = Disk::start(8, &["--cache-max-size=4Mi"]).await;
    for number in 0..3 {
        disk.store(number).await;
        disk.pin("pin", number);
    }
    for number in 3..8 {
        disk.pull(number).await;
        assert!(disk.used().await <= (4 << 20) + (1 << 20), "manifests may pass it by a little");
    }
    assert!((0..3).all(|number| disk.has(number)));
    assert!(disk.passed_through().await > 0);
    let plan = disk.gc(true);
    let reasons: Vec<&str> = plan["images"].as_array().unwrap().iter().map(|image| image["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == "pinned").count(), 3, "{plan}");
    disk.agent.crash().await;
    assert_eq!(disk.gc(true)["images"].as_array().unwrap().iter().filter(|image| image["reason"] == "pinned").count(), 3);
    (0..3).for_each(|number| disk.pin("unpin", number));
    disk.store(7).await;
    assert!(disk.used().await <= 4 << 20);
}

#[tokio::test]
async fn gc_says_what_would_go_and_then_does_it() {
    let disk = Disk::start(8, &["--cache-max-size=10Mi", "--cache-high-watermark=1", "--cache-low-watermark=0.5"]).await;
    for number in 0..8 {
        disk.store(number).await;
    }
    disk.pin("pin", 0);
    let plan = disk.gc(true);
    let evicted = |plan: &Value| -> Vec<String> {
        let images = plan["images"].as_array().unwrap().iter().filter(|image| image["action"] == "evict");
        images.map(|image| image["reference"].as_str().unwrap().to_owned()).collect()
    };
    let would_go = evicted(&plan);
    assert!(would_go.len() >= 3 && !would_go.contains(&disk.name(0)), "{plan}");
    assert_eq!(plan["images"].as_array().unwrap().len(), 8);
    assert!((0..8).all(|number| disk.has(number)), "a dry run changes nothing");
    let done = disk.gc(false);
    assert_eq!(evicted(&done), would_go);
    for number in 0..8 {
        assert_eq!(disk.has(number), !would_go.contains(&disk.name(number)), "image {number}");
    }
    assert!(done["usedBytes"].as_u64() <= done["targetBytes"].as_u64(), "{done}");
    let output = disk.ask(&["ls"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("PINNED"));
}

#[tokio::test]
async fn blobs_that_no_manifest_references_go_after_their_grace_period() {
    let disk = Disk::start(1, &["--cache-orphan-grace=0s"]).await;
    let digest = disk.upstream.add_blob("app", noise(77, 300_000));
    disk.agent.get(&disk.app.blob(&digest)).await.expect(200);
    disk.agent.committed(&digest).await;
    disk.store(0).await;
    let said = disk.gc(false);
    assert_eq!(said["orphans"], json!({ "blobs": 1, "bytes": 300_000 }));
    assert!(!disk.agent.blob_file(&digest).exists() && disk.has(0));
    disk.agent.get(&disk.app.blob(&digest)).await.expect(200);
}

#[tokio::test]
async fn blobs_without_a_manifest_have_their_grace_period() {
    let disk = Disk::start(0, &["--cache-max-size=2Mi", "--cache-high-watermark=0.5", "--cache-low-watermark=0.4"]).await;
    let digest = disk.upstream.add_blob("app", noise(77, 600_000));
    disk.agent.get(&disk.app.blob(&digest)).await.expect(200);
    disk.agent.committed(&digest).await;
    assert_eq!(disk.gc(false)["orphans"]["blobs"], 0);
    assert!(disk.agent.blob_file(&digest).exists());
}

#[tokio::test]
async fn a_file_with_other_limits_takes_effect_without_a_restart() {
    let upstream = FakeRegistry::start();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("config.yaml");
    std::fs::write(&file, "cache: {maxSize: 20Mi}").unwrap();
    let agent = TestAgent::builder().plain_http(&upstream).args(["--config", file.to_str().unwrap()]).start().await;
    let app = upstream.repository("app");
    for number in 0..6 {
        let image = images::simple(number, &[MIB]);
        image.push(&upstream, "app", &number.to_string());
        pull(&agent, &app, &number.to_string(), &image).await;
        agent.committed(&image.layer().digest).await;
    }
    std::fs::write(&file, "cache: {maxSize: 3Mi").unwrap();
    until("the mistake is said", || agent.log().contains("the settings stay as they were")).await;
    assert_eq!(whole(agent.metric("kuik_agent_cache_budget_bytes", &[]).await), 20 << 20);
    std::fs::write(&file, "cache: {maxSize: 3Mi}").unwrap();
    until_some("the budget has changed and holds", async || {
        let metrics = agent.metrics().await;
        let small = whole(metrics.value("kuik_agent_cache_budget_bytes", &[])) == 3 << 20;
        (small && whole(metrics.value("kuik_agent_cache_used_bytes", &[])) <= 3 << 20).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_accounted_is_what_the_disk_says_after_a_crash_too() {
    let mut disk = Disk::start(12, &["--cache-max-size=8Mi"]).await;
    let odd: Vec<Digest> =
        (0..20).map(|number| disk.upstream.add_blob("app", noise(900 + number, 1 + 700 * usize::try_from(number).unwrap()))).collect();
    for digest in &odd {
        disk.agent.get(&disk.app.blob(digest)).await.expect(200);
        disk.agent.committed(digest).await;
    }
    for number in 0..12 {
        disk.store(number).await;
    }
    for life in ["first", "after a crash", "after an orderly end"] {
        let parts = ["blobs", "tmp", "refs", "quarantine", "control", "index"];
        until_some("the accounts are right", async || {
            // The index is measured every ten seconds; gc measures it now.
            disk.gc(true);
            (disk.used().await == on_disk(&disk.agent, &parts)).then_some(())
        })
        .await;
        let blobs = whole(disk.agent.metric("kuik_agent_store_blobs", &[]).await);
        assert_eq!(blobs, disk.agent.files("blobs").len() as u64, "{life}");
        if life == "first" {
            disk.agent.crash().await;
        } else {
            disk.agent.terminate();
            assert!(disk.agent.exit().await.success());
            disk.agent.start_again().await;
        }
    }
}

#[tokio::test]
async fn an_index_of_several_platforms_goes_with_all_that_it_has() {
    let upstream = FakeRegistry::start();
    let agent = TestAgent::builder().plain_http(&upstream).args(["--cache-max-size=4Mi"]).start().await;
    let app = upstream.repository("app");
    let mut digests = Vec::new();
    for number in 0..6_u64 {
        let image = images::multi_platform(number * 10, MIB / 2);
        image.push(&upstream, "app", &number.to_string());
        pull(&agent, &app, &number.to_string(), &image).await;
        digests.push(image.digest);
    }
    until("the first index has gone", || !agent.blob_file(&digests[0]).exists()).await;
    // Of what went, nothing is left.
    let records = agent.files("refs").into_iter().filter(|file| file.to_string_lossy().contains(&digests[0].hex()));
    assert_eq!(records.count(), 0);
    let said = client_verify(&agent);
    assert!(said.contains(": 0 quarantined"), "{said}");
}

fn client_verify(agent: &TestAgent) -> String {
    let output = ended(program().args(["verify", "--admin", &agent.admin_address().to_string()]));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_kill_in_the_middle_of_an_eviction_leaves_a_sound_store() {
    let mut disk = Disk::start(40, &["--cache-max-size=60Mi", "--cache-high-watermark=1", "--cache-low-watermark=0.1"]).await;
    for number in 0..40 {
        disk.store(number).await;
    }
    for _ in 0..6 {
        let small = disk.agent.files("blobs").len();
        let evicting = std::thread::spawn({
            let address = disk.agent.admin_address().to_string();
            move || ended(program().args(["gc", "--admin", &address]))
        });
        until("some have gone, or all", || evicting.is_finished() || disk.agent.files("blobs").len() < small).await;
        disk.agent.crash().await;
        evicting.join().unwrap();
        let verified = client_verify(&disk.agent);
        assert!(verified.contains(": 0 quarantined"), "{verified}");
        assert!(disk.agent.files("tmp").is_empty());
        for number in 0..40 {
            disk.pull(number).await;
        }
    }
}
