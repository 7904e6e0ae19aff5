//! What the control API wants is done, and what it is told adds up: the agent's parts at a hundred times their pace.

use std::collections::BTreeSet;
use std::time::Duration;

use kuik_agent::requester::Requester;
use kuik_agent::store::now_seconds;
use kuik_crd::control::{Drop as Unwanted, Pin, PinReason, Refresh, UpstreamState};
use tokio::time::Instant;

use crate::support::control::FakeControl;
use crate::support::images::{self, Blob, Image, OCI_LAYER};
use crate::support::inside::{Inside, quick};
use crate::support::registry::{FakeRegistry, Fault, On};
use crate::support::wait::{until, until_some};

/// An upstream, a control API, and an agent's parts between them.
struct Cluster {
    upstream: FakeRegistry,
    control: FakeControl,
    inside: Inside,
}

impl Cluster {
    async fn start() -> Self {
        let (upstream, control) = (FakeRegistry::start(), FakeControl::start());
        let inside = Inside::start(&upstream, &control, quick()).await;
        Self { upstream, control, inside }
    }

    /// Pushes an image, and says how it is called.
    fn push(&self, image: &Image, repository: &str, tag: &str) -> String {
        image.push(&self.upstream, repository, tag);
        format!("{}/{repository}:{tag}", self.upstream.host())
    }

    fn blobs(&self) -> BTreeSet<String> {
        self.inside.store.committed().iter().map(ToString::to_string).collect()
    }

    fn drop(&self, image: &str, unused_since: u64) {
        let image = image.to_owned();
        self.control.desire(|desired| desired.drop = vec![Unwanted { image, unused_since }]);
    }

    async fn until_gone(&self, image: &str) {
        self.control.until("an image is reported as gone", |state| (!state.held.contains_key(image)).then_some(())).await;
    }
}

fn digests(image: &Image) -> BTreeSet<String> {
    let below = image.children.iter().flat_map(digests);
    below.chain(image.blobs.iter().map(|blob| blob.digest.to_string())).chain([image.digest.to_string()]).collect()
}

#[tokio::test]
async fn of_an_image_to_keep_the_node_s_own_platform_is_pulled() {
    let cluster = Cluster::start().await;
    let image = images::multi_platform(1, 1000);
    let name = cluster.push(&image, "app", "1");
    cluster.control.desire(|desired| desired.keep = vec![name.clone(), "not an image".to_owned()]);
    cluster.control.until_complete(&name).await;
    let own = match std::env::consts::ARCH {
        "aarch64" => 1,
        _ => 0,
    };
    let mut expected = digests(&image.children[own]);
    expected.insert(image.digest.to_string());
    until("all of it is stored", || cluster.blobs() == expected).await;
}

#[tokio::test]
async fn what_could_not_be_pulled_is_reported_and_pulled_when_upstream_is_back() {
    let mut cluster = Cluster::start().await;
    let name = cluster.push(&images::simple(1, &[1000]), "app", "1");
    cluster.upstream.stop().await;
    cluster.control.desire(|desired| desired.keep = vec![name.clone()]);
    let finding = cluster.control.until_found(&name, true).await;
    assert!(finding.error.is_some_and(|error| !error.is_empty()));
    cluster.upstream.start_again();
    cluster.control.until_complete(&name).await;
    cluster.control.until_found(&name, false).await;
    let last = cluster.control.state().findings.iter().rfind(|finding| finding.image == name).cloned().unwrap();
    assert_eq!(last.error, None, "the newest word is that it is right again");
}

#[tokio::test]
async fn what_is_kept_and_gets_lost_is_pulled_again() {
    let cluster = Cluster::start().await;
    let image = images::simple(1, &[100_000]);
    let name = cluster.push(&image, "app", "1");
    cluster.control.desire(|desired| desired.keep = vec![name.clone()]);
    cluster.control.until_complete(&name).await;
    let hex = image.layer().digest.hex();
    std::fs::write(cluster.inside.data_dir().join("blobs/sha256").join(&hex[..2]).join(&hex), b"rotten").unwrap();
    cluster.inside.store.verify(&image.layer().digest).await.unwrap();
    cluster.control.until("it is reported as incomplete, or whole again", |state| state.held.get(&name).cloned()).await;
    until_some("it is whole again", async || cluster.inside.holds(&name).await.then_some(())).await;
}

#[tokio::test]
async fn a_client_s_pull_that_failed_upstream_is_a_finding() {
    let cluster = Cluster::start().await;
    let name = format!("{}/none:1", cluster.upstream.host());
    let image: kuik_crd::Image = name.parse().unwrap();
    cluster.inside.cache.manifest(&Requester::Anyone, image.repository(), &image.target()).await.unwrap_err();
    cluster.control.until_found(&name, true).await;
    cluster.push(&images::simple(1, &[10]), "none", "1");
    cluster.inside.cache.manifest(&Requester::Anyone, image.repository(), &image.target()).await.unwrap();
    cluster.control.until_found(&name, false).await;
}

#[tokio::test]
async fn what_is_to_go_goes_and_what_others_share_stays() {
    let cluster = Cluster::start().await;
    let shared = Blob::new(OCI_LAYER, images::noise(77, 5000));
    let (one, two) = (images::with_layers(1, vec![shared.clone()]), images::with_layers(2, vec![shared.clone()]));
    let first = cluster.push(&one, "app", "1");
    let second = cluster.push(&two, "other", "1");
    cluster.inside.pull(&first).await;
    cluster.inside.pull(&second).await;
    cluster.control.until_complete(&first).await;
    cluster.control.until_complete(&second).await;
    cluster.drop(&first, now_seconds());
    cluster.until_gone(&first).await;
    assert_eq!(cluster.blobs(), digests(&two));
    assert!(cluster.inside.holds(&second).await);
    let held = cluster.control.state().held.keys().cloned().collect::<Vec<_>>();
    assert_eq!(held, [second]);
}

#[tokio::test]
async fn what_was_used_since_or_is_kept_does_not_go() {
    let cluster = Cluster::start().await;
    let (used, kept, gone) = (
        cluster.push(&images::simple(1, &[10]), "a", "1"),
        cluster.push(&images::simple(2, &[10]), "b", "1"),
        cluster.push(&images::simple(3, &[10]), "c", "1"),
    );
    for image in [&used, &kept, &gone] {
        cluster.inside.pull(image).await;
        cluster.control.until_complete(image).await;
    }
    let now = now_seconds();
    let unwanted = |image: &String, unused_since| Unwanted { image: image.clone(), unused_since };
    cluster.control.desire(|desired| {
        desired.keep = vec![kept.clone()];
        desired.drop = vec![unwanted(&used, now - 100), unwanted(&kept, now), unwanted(&gone, now)];
    });
    cluster.until_gone(&gone).await;
    assert!(cluster.inside.holds(&used).await && cluster.inside.holds(&kept).await);
}

#[tokio::test]
async fn work_for_the_cluster_is_no_use() {
    let cluster = Cluster::start().await;
    let name = cluster.push(&images::simple(1, &[10]), "app", "1");
    cluster.control.desire(|desired| desired.keep = vec![name.clone()]);
    assert_eq!(cluster.control.until_complete(&name).await.used_at, 0);
    cluster.control.desire(|desired| {
        desired.keep.clear();
        desired.refresh = vec![Refresh { image: name.clone(), since: now_seconds() + 1 }];
    });
    cluster.control.until_found(&name, false).await;
    cluster.drop(&name, 1);
    cluster.until_gone(&name).await;
}

#[tokio::test]
async fn a_tag_that_is_to_be_refreshed_is_asked_for_once_and_followed() {
    let cluster = Cluster::start().await;
    let name = cluster.push(&images::simple(1, &[1000]), "app", "1");
    cluster.inside.pull(&name).await;
    let before = cluster.control.until_complete(&name).await;
    assert_eq!(before.upstream, UpstreamState::Available);
    let newer = images::simple(2, &[2000]);
    newer.push(&cluster.upstream, "app", "1");
    cluster.upstream.forget();
    let since = now_seconds() + 1;
    cluster.control.desire(|desired| desired.refresh = vec![Refresh { image: name.clone(), since }]);
    let moved = |state: &mut crate::support::control::State| {
        state.held.get(&name).filter(|held| held.digest == newer.digest.to_string() && held.complete && held.checked_at >= since).cloned()
    };
    let held = cluster.control.until("the tag has moved, and all of it is here", moved).await;
    assert_eq!(held.used_at, before.used_at, "it has not been used for that");
    cluster.control.until_found(&name, false).await;
    let asked = cluster.upstream.count(&On::manifest("app", "1"));
    assert!(asked <= 4, "asked {asked} times");
    cluster
        .control
        .desire(|desired| (desired.judged, desired.pins) = (true, vec![Pin { image: name.clone(), reasons: vec![PinReason::Retained] }]));
    until_some("the pins have arrived", async || cluster.inside.fate(&name).await.filter(|fate| *fate == ("keep", "retained"))).await;
    assert_eq!(cluster.upstream.count(&On::manifest("app", "1")), asked, "what was asked for since is not asked for again");
}

#[tokio::test]
async fn a_tag_that_upstream_lost_is_reported_as_such_and_stays() {
    let cluster = Cluster::start().await;
    let image = images::simple(1, &[1000]);
    let name = cluster.push(&image, "app", "1");
    cluster.inside.pull(&name).await;
    cluster.control.until_complete(&name).await;
    for (change, state) in [
        (Some(404), UpstreamState::NotFound),
        (Some(403), UpstreamState::Denied),
        (Some(500), UpstreamState::Unavailable),
        (None, UpstreamState::Available),
    ] {
        cluster.upstream.behave();
        if let Some(status) = change {
            cluster.upstream.fault(On::any(), Fault::Status(status));
        }
        let since = now_seconds() + 1;
        cluster.control.desire(|desired| desired.refresh = vec![Refresh { image: name.clone(), since }]);
        let seen = |now: &mut crate::support::control::State| {
            now.held.get(&name).filter(|held| held.upstream == state && held.checked_at >= since).cloned()
        };
        let held = cluster.control.until("upstream's word is reported", seen).await;
        assert!(held.complete && held.digest == image.digest.to_string(), "{held:?}");
    }
}

#[tokio::test]
async fn a_full_report_comes_when_it_is_wanted_and_deltas_add_up() {
    let cluster = Cluster::start().await;
    let mut names = Vec::new();
    for number in 0..6_usize {
        let name = cluster.push(&images::simple(number as u64, &[100]), &format!("app{number}"), "1");
        cluster.inside.pull(&name).await;
        names.push(name);
        if number == 2 {
            cluster.control.state().want_full = true;
        }
        if number == 4 {
            cluster.drop(&names[0], now_seconds());
        }
        cluster.control.until_complete(&names[number]).await;
    }
    cluster.until_gone(&names[0]).await;
    let state = cluster.control.state();
    assert_eq!(state.held.keys().collect::<BTreeSet<_>>(), names[1..].iter().collect());
    let full = state.reports.iter().filter(|(_, report)| report.full).count();
    assert_eq!(full, 2, "the first, and the one that was wanted");
    let sequences: Vec<u64> = state.reports.iter().map(|(_, report)| report.sequence).collect();
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
    for (earlier, later) in state.reports.iter().zip(&state.reports[1..]) {
        assert!(later.0 - earlier.0 > Duration::from_millis(150), "two reports in {:?}", later.0 - earlier.0);
    }
    let disk = &state.reports.last().unwrap().1.disk;
    assert!(disk.capacity_bytes > disk.free_bytes && disk.used_bytes > 0 && disk.blobs == 15, "{disk:?}");
}

#[tokio::test]
async fn a_lost_report_is_made_good() {
    let cluster = Cluster::start().await;
    let first = cluster.push(&images::simple(1, &[100]), "app", "1");
    cluster.inside.pull(&first).await;
    cluster.control.until_complete(&first).await;
    for status in [503, 429, 401] {
        cluster.control.state().refuse = Some(status);
        let name = cluster.push(&images::simple(u64::from(status), &[100]), &format!("app{status}"), "1");
        cluster.inside.pull(&name).await;
        let refused = |state: &mut crate::support::control::State| {
            state.calls.iter().any(|(call, answer)| call.starts_with("POST") && *answer == status).then_some(())
        };
        cluster.control.until("a report is refused", refused).await;
        cluster.control.state().refuse = None;
        cluster.control.until_complete(&name).await;
    }
    assert_eq!(cluster.control.state().reports.iter().filter(|(_, report)| report.full).count(), 1, "nobody needed a second full one");
}

#[tokio::test]
async fn a_node_on_which_nothing_happens_says_so_now_and_then() {
    let cluster = Cluster::start().await;
    let beats = cluster.control.until("there are heartbeats", |state| (state.reports.len() >= 3).then(|| state.reports.clone())).await;
    for (earlier, later) in beats.iter().zip(&beats[1..]) {
        assert!(later.0 - earlier.0 > Duration::from_millis(1300), "{:?}", later.0 - earlier.0);
        assert!(!later.1.full && later.1.images.is_empty());
    }
}

#[tokio::test]
async fn the_first_change_after_a_quiet_time_is_told_at_once() {
    let (upstream, control) = (FakeRegistry::start(), FakeControl::start());
    let mut pace = quick();
    pace.report_interval = Duration::from_secs(1);
    (pace.settle, pace.settle_max) = (Duration::from_secs(1), Duration::from_secs(3));
    // Nothing else would be told within the test.
    pace.heartbeat = Duration::from_secs(3600);
    let settle = pace.settle;
    let inside = Inside::start(&upstream, &control, pace).await;
    control.until("the first report", |state| state.reports.first().cloned()).await;
    // What is to be shown is that a quiet time makes no difference.
    tokio::time::sleep(Duration::from_secs(2)).await;
    images::simple(1, &[1000]).push(&upstream, "app", "1");
    let name = format!("{}/app:1", upstream.host());
    let began = Instant::now();
    inside.pull(&name).await;
    let told = |state: &mut crate::support::control::State| {
        state.held.get(&name).filter(|held| held.complete).map(|_| (state.reports.len(), began.elapsed()))
    };
    let (reports, after) = control.until("the image is reported as complete", told).await;
    // All of it is one change; but on a machine that pauses in the middle of the pull, it may be two.
    assert!(reports == 2 || after >= 2 * settle, "{reports} reports after {after:?}");
}

#[tokio::test]
async fn a_pinned_digest_is_reported_as_far_as_an_image_with_a_tag_contains_it() {
    let cluster = Cluster::start().await;
    let image = images::multi_platform(1, 1000);
    let name = cluster.push(&image, "app", "1");
    let pin = |repository: &str, image: &Image| {
        let image = format!("{}/{repository}@{}", cluster.upstream.host(), image.digest);
        Pin { image, reasons: vec![PinReason::UsedElsewhere] }
    };
    let (own, other) = match std::env::consts::ARCH {
        "aarch64" => (&image.children[1], &image.children[0]),
        _ => (&image.children[0], &image.children[1]),
    };
    let pins = vec![pin("app", own), pin("app", other), pin("elsewhere", own), pin("app", &image)];
    cluster.control.desire(|desired| (desired.keep, desired.pins) = (vec![name.clone()], pins.clone()));
    let held = cluster.control.until_complete(&pins[0].image).await;
    let bytes = own.bytes.len() + own.blobs.iter().map(|blob| blob.bytes.len()).sum::<usize>();
    assert_eq!((held.digest, held.size_bytes, held.used_at), (own.digest.to_string(), bytes as u64, 0));
    let reported = |cluster: &Cluster| cluster.control.state().held.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(reported(&cluster), BTreeSet::from([name.clone(), pins[0].image.clone()]), "only what is here, and has no other name");

    // Its parts come and go as those of any other.
    cluster.inside.pull(&name).await;
    cluster.control.until_complete(&pins[1].image).await;
    let hex = other.layer().digest.hex();
    std::fs::write(cluster.inside.data_dir().join("blobs/sha256").join(&hex[..2]).join(&hex), b"rotten").unwrap();
    cluster.inside.store.verify(&other.layer().digest).await.unwrap();
    let is_partial = |state: &mut crate::support::control::State| state.held.get(&pins[1].image).filter(|held| !held.complete).map(|_| ());
    cluster.control.until("a part of it is missing", is_partial).await;
    assert!(cluster.control.state().held[&pins[0].image].complete);

    cluster.control.desire(|desired| desired.pins.clear());
    cluster.until_gone(&pins[0].image).await;
    assert_eq!(reported(&cluster), BTreeSet::from([name]));
}
