//! Whatever ends the agent, what it had stays right, and what it had half is gone.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::agent::{TestAgent, ended};
use crate::support::client::{read_at_least, read_to_break, same_bytes};
use crate::support::images::{self, Image, digest_of};
use crate::support::registry::{FakeRegistry, Fault, Gate, On};
use crate::support::scene::{Scene, pull};
use crate::support::wait::{soon, until, until_some, within};

const MIB: usize = 1 << 20;

/// Every committed file must have the digest that it is named by.
fn check_blobs(agent: &TestAgent) {
    for file in agent.files("blobs") {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(digest_of(&std::fs::read(&file).unwrap()).hex(), name, "{}", file.display());
    }
}

/// Waits until everything of the image is committed and recorded: answers do not wait for the disk.
async fn all_committed(scene: &Scene) {
    let mut images = vec![&scene.image];
    while let Some(image) = images.pop() {
        for digest in image.blobs.iter().map(|blob| &blob.digest).chain([&image.digest]) {
            scene.agent.committed(digest).await;
        }
        recorded(scene, &format!("_manifests/sha256-{}", image.digest.hex())).await;
        images.extend(&image.children);
    }
    recorded(scene, "_tags/1").await;
}

async fn recorded(scene: &Scene, name: &str) {
    until("a reference is recorded", || scene.agent.files("refs").iter().any(|file| file.ends_with(name))).await;
}

#[tokio::test]
async fn a_kill_during_a_download_leaves_nothing_of_it() {
    for at in [0, 1, MIB / 2, MIB - 1] {
        let mut scene = Scene::new(&[MIB]).await;
        scene.manifest().await;
        let gate = Gate::new();
        scene.upstream.fault_times(1, scene.on_layer(), Fault::HoldBody(at, gate.clone()));
        let mut response = scene.agent.open(&scene.layer_path()).await;
        gate.reached().await;
        if at >= MIB / 2 {
            read_at_least(&mut response, MIB / 4).await;
            until("there is a temporary file, so that this test means something", || !scene.agent.files("tmp").is_empty()).await;
        }
        scene.agent.kill9();
        read_to_break(&mut response).await;
        scene.agent.start_again().await;
        assert_eq!(scene.agent.files("tmp"), Vec::<std::path::PathBuf>::new());
        assert!(!scene.agent.blob_file(&scene.layer().digest).exists());
        scene.pull().await;
        check_blobs(&scene.agent);
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_no_wrong_blob() {
    let upstream = FakeRegistry::start();
    let mut agent = TestAgent::start(&upstream).await;
    let app = upstream.repository("app");
    for round in 0..8_u64 {
        let image = images::simple(round, &[200_000, 50_000, 300_000, 1000]);
        image.push(&upstream, "app", &round.to_string());
        let manifest = agent.get(&app.manifest(round)).await.expect(200);
        same_bytes(&manifest.body, &image.bytes);
        let paths: Vec<String> = image.blobs.iter().map(|blob| app.blob(&blob.digest)).collect();
        let mut responses = Vec::new();
        for path in &paths {
            responses.push(agent.open(path).await);
        }
        // Each round some further ahead: before, during and after the commit of one blob or another.
        for response in responses.iter_mut().take(usize::try_from(round).unwrap() / 2) {
            while let Ok(Some(_)) = response.chunk().await {}
        }
        agent.kill9();
        check_blobs(&agent);
        agent.start_again().await;
        assert_eq!(agent.files("tmp"), Vec::<std::path::PathBuf>::new());
    }
    for round in 0..8_u64 {
        pull(&agent, &app, &round.to_string(), &images::simple(round, &[200_000, 50_000, 300_000, 1000])).await;
    }
    check_blobs(&agent);
}

#[tokio::test]
async fn tags_and_images_survive_a_kill_without_upstream() {
    let mut scene = Scene::with(images::multi_platform(1, 100_000), TestAgent::builder()).await;
    scene.pull().await;
    all_committed(&scene).await;
    scene.upstream.stop().await;
    for _ in 0..3 {
        scene.agent.crash().await;
        scene.pull().await;
        scene.manifest().await;
    }
}

#[tokio::test]
async fn an_orderly_restart_keeps_everything_and_walks_nothing() {
    let mut scene = Scene::new(&[100_000]).await;
    scene.pull().await;
    scene.upstream.stop().await;
    for _ in 0..2 {
        scene.agent.terminate();
        assert!(scene.agent.exit().await.success());
        assert_eq!(scene.agent.files("tmp"), Vec::<std::path::PathBuf>::new());
        scene.agent.start_again().await;
        scene.pull().await;
    }
    assert!(scene.agent.metric("kuik_agent_index_rebuilds_total", &[]).await < 0.5);
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Delete,
    Empty,
    Half,
    Noise,
    FlipMiddle,
}

fn copy(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

fn damage(file: &Path, damage: Damage) {
    let mut bytes = std::fs::read(file).unwrap();
    match damage {
        Damage::Delete => return std::fs::remove_file(file).unwrap(),
        Damage::Empty => bytes.clear(),
        Damage::Half => bytes.truncate(bytes.len() / 2),
        Damage::Noise => bytes = images::noise(3, bytes.len().max(100)),
        Damage::FlipMiddle => {
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 0xff;
            }
        }
    }
    std::fs::write(file, bytes).unwrap();
}

/// Images in three repositories, of one and of several platforms.
async fn library() -> (FakeRegistry, TestAgent, Vec<(&'static str, Image)>) {
    let upstream = FakeRegistry::start();
    let mut agent = TestAgent::start(&upstream).await;
    let images =
        vec![("app", images::simple(1, &[100_000])), ("team/app", images::nested(2, 20_000)), ("other", images::docker_list(3, 5000))];
    for (repository, image) in &images {
        image.push(&upstream, repository, "1");
        pull(&agent, &upstream.repository(repository), "1", image).await;
    }
    agent.terminate();
    assert!(agent.exit().await.success());
    (upstream, agent, images)
}

async fn check_library(upstream: &FakeRegistry, agent: &TestAgent, images: &[(&'static str, Image)]) {
    find_library(upstream, agent, images).await.unwrap();
}

/// Pulls everything; what is missing, if anything is.
async fn find_library(upstream: &FakeRegistry, agent: &TestAgent, images: &[(&'static str, Image)]) -> Result<(), String> {
    for (name, image) in images {
        let repository = upstream.repository(name);
        let got = agent.get(&repository.manifest("1")).await;
        if got.status != 200 {
            return Err(format!("{name}: {got:?}"));
        }
        pull(agent, &repository, "1", image).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_deleted_index_loses_no_image() {
    let (mut upstream, mut agent, images) = library().await;
    upstream.stop().await;
    std::fs::remove_dir_all(agent.data_dir().join("index")).unwrap();
    agent.start_again().await;
    check_library(&upstream, &agent, &images).await;
    rebuilt(&agent).await;
}

/// Waits until the directory was walked; nobody who asks for an image has to.
async fn rebuilt(agent: &TestAgent) {
    until_some("the index is made anew", async || (agent.metric("kuik_agent_index_rebuilds_total", &[]).await > 0.5).then_some(())).await;
}

#[tokio::test]
async fn an_index_that_is_a_file_loses_no_image() {
    let (mut upstream, mut agent, images) = library().await;
    upstream.stop().await;
    std::fs::remove_dir_all(agent.data_dir().join("index")).unwrap();
    std::fs::write(agent.data_dir().join("index"), b"not a directory").unwrap();
    agent.start_again().await;
    check_library(&upstream, &agent, &images).await;
}

#[tokio::test]
async fn a_corrupt_index_loses_no_image() {
    let (mut upstream, mut agent, images) = library().await;
    upstream.stop().await;
    let whole = tempfile::tempdir().unwrap();
    copy(agent.data_dir(), &whole.path().join("data"));
    let files: Vec<_> = agent.files("index").iter().map(|file| file.strip_prefix(agent.data_dir()).unwrap().to_owned()).collect();
    assert!(!files.is_empty(), "the index must have files for this test to mean anything");
    let (mut losses, mut moved_aside) = (Vec::new(), Vec::new());
    for file in files {
        for kind in [Damage::Delete, Damage::Empty, Damage::Half, Damage::Noise, Damage::FlipMiddle] {
            std::fs::remove_dir_all(agent.data_dir()).unwrap();
            copy(&whole.path().join("data"), agent.data_dir());
            damage(&agent.data_dir().join(&file), kind);
            let what = format!("{} {kind:?}", file.display());
            agent.start_again().await;
            if let Err(loss) = find_library(&upstream, &agent, &images).await {
                losses.push(format!("{what}: {loss}"));
            }
            // What the engine does not take is kept for a person to look at. Other damage it passes over, and the mark of the last end tells.
            if agent.data_dir().join("index.bad").is_dir() {
                rebuilt(&agent).await;
                moved_aside.push(what.clone());
            }
            agent.terminate();
            assert!(agent.exit().await.success(), "{what}");
        }
    }
    assert!(losses.is_empty(), "{losses:#?}");
    assert!(!moved_aside.is_empty(), "no damage was one that the engine refuses");
}

#[tokio::test]
async fn a_damaged_reference_record_loses_nothing_that_is_intact() {
    let (mut upstream, mut agent, images) = library().await;
    upstream.stop().await;
    // The index has what the record had.
    for file in agent.files("refs") {
        damage(&file, Damage::Half);
    }
    agent.start_again().await;
    check_library(&upstream, &agent, &images).await;
}

#[tokio::test]
async fn strange_files_are_no_obstacle() {
    let (mut upstream, mut agent, images) = library().await;
    upstream.stop().await;
    let data = agent.data_dir().to_owned();
    for path in ["lost+found/x", "tmp/x", "blobs/x", "blobs/sha256/x", "blobs/sha256/ab/x", "blobs/md5/ab/abc", "refs/x"] {
        std::fs::create_dir_all(data.join(path).parent().unwrap()).unwrap();
        std::fs::write(data.join(path), b"x").unwrap();
    }
    for path in ["refs/a b/c/_tags/x", "refs/a.b/c/_tags/-x", "refs/a.b/c/_manifests/x", "refs/a.b/_other/x"] {
        std::fs::create_dir_all(data.join(path).parent().unwrap()).unwrap();
        std::fs::write(data.join(path), b"\xff\x00").unwrap();
    }
    std::os::unix::fs::symlink("/nowhere", data.join("blobs/sha256/ab/link")).unwrap();
    std::fs::remove_dir_all(data.join("index")).unwrap();
    agent.start_again().await;
    check_library(&upstream, &agent, &images).await;
    assert_eq!(agent.files("tmp"), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_manifests_media_type_survives_the_index() {
    let mut scene = Scene::with(images::simple(1, &[1000]), TestAgent::builder()).await;
    let odd = "application/vnd.example.odd+json";
    let digest = scene.upstream.add_manifest("app", odd, &b"{\"schemaVersion\": 2}"[..]);
    scene.upstream.tag("app", "odd", digest);
    scene.agent.get(&scene.app.manifest("odd")).await.expect(200);
    scene.agent.terminate();
    scene.agent.exit().await;
    scene.upstream.stop().await;
    std::fs::remove_dir_all(scene.agent.data_dir().join("index")).unwrap();
    scene.agent.start_again().await;
    let got = scene.agent.get(&scene.app.manifest("odd")).await.expect(200);
    assert_eq!(got.header("content-type"), Some(odd));
}

#[tokio::test]
async fn a_data_directory_has_one_owner() {
    let scene = Scene::new(&[1000]).await;
    let second = tokio::task::spawn_blocking({
        let dir = scene.agent.data_dir().to_owned();
        move || ended(&mut serve(&dir))
    });
    let output = soon("the second agent to end", second).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(said.contains(&scene.agent.pid().to_string()), "{said}");
    assert!(said.contains(scene.agent.data_dir().to_str().unwrap()), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    scene.pull().await;
}

fn serve(data_dir: &Path) -> std::process::Command {
    let mut command = crate::support::agent::program();
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
    command
}

#[tokio::test]
async fn a_directory_of_a_newer_agent_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    for version in ["99\n", "2.0-beta", ""] {
        std::fs::write(dir.path().join("VERSION"), version).unwrap();
        let output = ended(&mut serve(dir.path()));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{version:?}");
        assert!(said.contains(dir.path().to_str().unwrap()) && said.contains("version"), "{said}");
        assert_eq!(std::fs::read_to_string(dir.path().join("VERSION")).unwrap(), version);
    }
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for path in [file.clone(), file.join("below")] {
        let output = ended(&mut serve(&path));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(said.contains(file.to_str().unwrap()), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }
}

#[tokio::test]
async fn a_termination_lets_answers_finish() {
    let mut scene = Scene::new(&[MIB]).await;
    scene.manifest().await;
    let gate = Gate::new();
    scene.upstream.fault(scene.on_layer(), Fault::HoldBody(MIB / 2, gate.clone()));
    let mut response = scene.agent.open(&scene.layer_path()).await;
    let mut got = read_at_least(&mut response, 1000).await;
    gate.reached().await;
    scene.agent.terminate();
    let address = scene.agent.registry_address();
    until("no connection is accepted any more", || std::net::TcpStream::connect(address).is_err()).await;
    gate.open();
    got.extend_from_slice(&soon("the rest", response.bytes()).await.unwrap());
    same_bytes(&got, &scene.layer().bytes);
    assert_eq!(scene.agent.exit().await.code(), Some(0));
    scene.upstream.stop().await;
    scene.agent.start_again().await;
    scene.get_layer().await;
}

#[tokio::test]
async fn a_termination_waits_no_longer_than_it_may() {
    let mut scene = Scene::with(images::simple(1, &[MIB]), TestAgent::builder().args(["--drain-timeout", "300ms"])).await;
    scene.manifest().await;
    scene.upstream.fault(scene.on_layer(), Fault::StallAfter(MIB / 2));
    let mut response = scene.agent.open(&scene.layer_path()).await;
    read_at_least(&mut response, 1000).await;
    let began = Instant::now();
    scene.agent.terminate();
    read_to_break(&mut response).await;
    let status = within(Duration::from_secs(15), "the end", scene.agent.exit()).await;
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    scene.agent.start_again().await;
    assert_eq!(scene.agent.files("tmp"), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_a_termination() {
    let mut scene = Scene::configured(&[1000], json!({ "limits": { "headerTimeout": "60s" } })).await;
    let mut idle = Vec::new();
    for request in ["", "GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut raw = crate::support::raw::Raw::connect(scene.agent.registry_address()).await;
        raw.send(request).await;
        if !request.is_empty() {
            raw.read_until("{}").await;
        }
        idle.push(raw);
    }
    scene.agent.terminate();
    let status = within(Duration::from_secs(10), "the end", scene.agent.exit()).await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(scene.upstream.count(&On::any()), 0);
}
