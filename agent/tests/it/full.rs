//! A disk that is full or read-only keeps no pull from succeeding. These tests mount file systems, which takes root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::agent::{Builder, TestAgent};
use crate::support::client::{read_at_least, same_bytes};
use crate::support::images::{self, noise};
use crate::support::registry::{FakeRegistry, Fault, Gate, On};
use crate::support::scene::{Scene, pull};
use crate::support::wait::{soon, until};

const MIB: usize = 1 << 20;

/// A small file system in memory, unmounted when it is dropped.
struct Mount {
    dir: tempfile::TempDir,
}

impl Mount {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "kuik-test"], dir.path());
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// An agent that keeps its data here, and leaves as much free as it does by itself.
    fn agent(&self) -> Builder {
        TestAgent::builder().data_dir(&self.path().join("data")).env("KUIK_CACHE_MIN_FREE", "10%")
    }

    fn remount(&self, options: &str) {
        mount(&["-o", &format!("remount,{options}")], self.path());
    }

    /// Takes all that is free.
    fn fill_up(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
        path
    }
}

fn mount(args: &[&str], at: &Path) {
    let output = Command::new("mount").args(args).arg(at).output().expect("mount must be installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "these tests mount a tmpfs, which takes root (CAP_SYS_ADMIN): {said}");
}

impl Drop for Mount {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(self.path()).status().ok();
    }
}

#[tokio::test]
async fn what_does_not_fit_streams_through() {
    let disk = Mount::new("2m");
    let image = images::simple(1, &[6 * MIB, 50_000]);
    let scene = Scene::with(image, disk.agent()).await;
    for _ in 0..2 {
        scene.pull().await;
    }
    assert!(!scene.agent.blob_file(&scene.layer().digest).exists());
    until("nothing is left of it", || scene.agent.files("tmp").is_empty()).await;
    assert!(scene.agent.metric("kuik_agent_pass_through_pulls_total", &[]).await > 0.5);
    // What fits is kept.
    let small = &scene.image.blobs[2];
    scene.agent.committed(&small.digest).await;
}

#[tokio::test]
async fn a_disk_that_fills_up_during_a_download_interrupts_nobody() {
    let disk = Mount::new("8m");
    let scene = Scene::with(images::simple(1, &[6 * MIB]), disk.agent()).await;
    scene.manifest().await;
    let gate = Gate::new();
    scene.upstream.fault_times(1, scene.on_layer(), Fault::HoldBody(MIB, gate.clone()));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut response = scene.agent.open(&scene.layer_path()).await;
        let begin = read_at_least(&mut response, 1000).await;
        clients.push((begin, response));
    }
    let filler = disk.fill_up();
    gate.open();
    for (mut got, response) in clients {
        got.extend_from_slice(&soon("the rest", response.bytes()).await.unwrap());
        same_bytes(&got, &scene.layer().bytes);
    }
    std::fs::remove_file(filler).unwrap();
    scene.pull().await;
    scene.agent.committed(&scene.layer().digest).await;
}

#[tokio::test]
async fn wrong_bytes_are_not_served_through_a_full_disk_either() {
    let disk = Mount::new("2m");
    let scene = Scene::with(images::simple(1, &[6 * MIB]), disk.agent()).await;
    scene.manifest().await;
    scene.upstream.fault(scene.on_layer(), Fault::FlipFirst);
    let got = scene.agent.try_get(&scene.layer_path()).await;
    assert!(got.as_ref().map_or(true, |got| got.status >= 500), "{got:?}");
    scene.upstream.behave();
    scene.upstream.fault_times(1, scene.on_layer(), Fault::BreakAfter(4 * MIB));
    scene.get_layer().await;
}

#[tokio::test]
async fn an_agent_on_a_full_disk_pulls_and_restarts() {
    let disk = Mount::new("8m");
    let upstream = FakeRegistry::start();
    let old = images::simple(1, &[100_000]);
    old.push(&upstream, "app", "old");
    let mut agent = disk.agent().plain_http(&upstream).start().await;
    let app = upstream.repository("app");
    pull(&agent, &app, "old", &old).await;
    agent.committed(&old.layer().digest).await;
    until("nothing is being written", || agent.files("tmp").is_empty()).await;
    let filler = disk.fill_up();
    for round in 0..3_u64 {
        let image = images::multi_platform(100 + round, 200_000);
        image.push(&upstream, "app", &round.to_string());
        pull(&agent, &app, &round.to_string(), &image).await;
        pull(&agent, &app, "old", &old).await;
        if round == 0 {
            agent.crash().await;
        } else {
            agent.terminate();
            assert!(agent.exit().await.success());
            agent.start_again().await;
        }
    }
    std::fs::remove_file(filler).unwrap();
    let image = images::simple(7, &[100_000]);
    image.push(&upstream, "app", "new");
    pull(&agent, &app, "new", &image).await;
    agent.committed(&image.layer().digest).await;
}

#[tokio::test]
async fn an_agent_that_starts_on_a_full_disk_pulls() {
    let disk = Mount::new("4m");
    disk.fill_up();
    let scene = Scene::with(images::simple(1, &[MIB]), disk.agent()).await;
    scene.pull().await;
    scene.pull().await;
}

#[tokio::test]
async fn a_disk_that_became_read_only_serves_what_it_holds_and_the_rest_streams_through() {
    let disk = Mount::new("16m");
    let mut scene = Scene::with(images::simple(1, &[MIB]), disk.agent()).await;
    scene.pull().await;
    scene.agent.committed(&scene.layer().digest).await;
    scene.agent.terminate();
    assert!(scene.agent.exit().await.success());
    disk.remount("ro");
    scene.agent.start_again().await;
    let other = images::simple(2, &[MIB]);
    other.push(&scene.upstream, "app", "other");
    for _ in 0..2 {
        pull(&scene.agent, &scene.app, "other", &other).await;
    }
    scene.upstream.stop().await;
    scene.pull().await;
    disk.remount("rw");
    scene.upstream.start_again();
}

#[tokio::test]
async fn no_file_left_to_make_is_a_full_disk_too() {
    let disk = Mount::new("16m");
    disk.remount("nr_inodes=60");
    let scene = Scene::with(images::simple(1, &[MIB]), disk.agent()).await;
    for i in 0..100 {
        if std::fs::write(disk.path().join(format!("filler{i}")), b"").is_err() {
            break;
        }
    }
    scene.pull().await;
    let bytes = noise(9, 300_000);
    let digest = scene.upstream.add_blob("app", bytes.clone());
    scene.agent.get(&scene.app.blob(&digest)).await.expect(200).expect_bytes(&bytes);
    assert!(scene.upstream.count(&On::any()) > 0);
}

#[tokio::test]
async fn what_others_write_makes_the_cache_smaller_and_it_grows_again() {
    let disk = Mount::new("64m");
    let upstream = FakeRegistry::start();
    let args = ["--cache-min-free=16Mi", "--cache-scrub-interval=0s"];
    let agent = disk.agent().plain_http(&upstream).args(args).start().await;
    let app = upstream.repository("app");
    let images: Vec<_> = (0..30).map(|number| images::simple(number, &[MIB])).collect();
    for (number, image) in images.iter().enumerate() {
        image.push(&upstream, "app", &number.to_string());
    }
    let free = || {
        let stat = rustix::fs::statvfs(disk.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    for (number, image) in images.iter().enumerate() {
        pull(&agent, &app, &number.to_string(), image).await;
    }
    assert!(free() >= 16 << 20);
    let others = disk.path().join("others");
    std::fs::write(&others, vec![1; 30 * MIB]).unwrap();
    until("what is to stay free is free", || free() >= 16 << 20).await;
    std::fs::remove_file(others).unwrap();
    pull(&agent, &app, "0", &images[0]).await;
    agent.committed(&images[0].layer().digest).await;
    pull(&agent, &app, "29", &images[29]).await;
}

/// A client gets a layer while the disk fills up behind it; it asks with these headers.
async fn fill_up_during(scene: &Scene, disk: &Mount, headers: &[(&'static str, &str)]) -> Vec<u8> {
    let gate = Gate::new();
    scene.upstream.fault_times(1, scene.on_layer(), Fault::HoldBody(MIB, gate.clone()));
    let path = scene.layer_path();
    let got = scene.agent.get_with(&path, headers);
    let fill = async {
        gate.reached_by(1).await;
        until("the first bytes are on disk", || {
            scene.agent.files("tmp").iter().any(|file| file.metadata().is_ok_and(|meta| meta.len() > 0))
        })
        .await;
        let filler = disk.fill_up();
        gate.open();
        filler
    };
    let (got, filler) = tokio::join!(got, fill);
    std::fs::remove_file(filler).unwrap();
    got.body.to_vec()
}

#[tokio::test]
async fn a_range_that_was_almost_done_when_the_disk_filled_up_is_whole() {
    let disk = Mount::new("8m");
    let scene = Scene::with(images::simple(1, &[6 * MIB]), disk.agent()).await;
    scene.manifest().await;
    for range in [0..MIB - 1000, 0..MIB, 100_000..MIB + 70_000, MIB..5 * MIB, MIB - 70_000..6 * MIB] {
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let got = fill_up_during(&scene, &disk, &[("range", &header)]).await;
        same_bytes(&got, &scene.layer().bytes[range]);
    }
}

#[tokio::test]
async fn a_blob_of_unknown_size_misses_nothing_when_the_disk_fills_up() {
    let disk = Mount::new("8m");
    let scene = Scene::with(images::simple(1, &[6 * MIB]), disk.agent()).await;
    scene.upstream.fault(scene.on_layer(), Fault::NoLength);
    let got = fill_up_during(&scene, &disk, &[]).await;
    same_bytes(&got, &scene.layer().bytes);
}

#[tokio::test]
async fn what_a_crash_left_is_deleted_even_on_a_full_disk() {
    let disk = Mount::new("8m");
    let mut scene = Scene::with(images::simple(1, &[6 * MIB]), disk.agent()).await;
    scene.manifest().await;
    let gate = Gate::new();
    scene.upstream.fault(scene.on_layer(), Fault::HoldBody(4 * MIB, gate.clone()));
    let mut response = scene.agent.open(&scene.layer_path()).await;
    read_at_least(&mut response, 3 * MIB).await;
    scene.agent.kill9();
    assert!(!scene.agent.files("tmp").is_empty(), "the test must leave something to delete");
    disk.fill_up();
    scene.agent.start_again().await;
    assert!(scene.agent.files("tmp").is_empty());
    scene.upstream.behave();
    scene.pull().await;
}
