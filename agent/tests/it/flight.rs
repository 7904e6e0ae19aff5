//! One download for all who wait: what it costs upstream, and what each client may expect of the others.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::support::agent::TestAgent;
use crate::support::client::{read_at_least, same_bytes};
use crate::support::images::{self, noise};
use crate::support::registry::{FakeRegistry, Fault, Gate, On};
use crate::support::scene::Scene;
use crate::support::wait::{soon, until, within};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn the_first_byte_arrives_before_the_rest_exists() {
    let scene = Scene::new(&[MIB]).await;
    scene.manifest().await;
    let gate = Gate::new();
    scene.upstream.fault(scene.on_layer(), Fault::HoldBody(1000, gate.clone()));
    let mut response = scene.agent.open(&scene.layer_path()).await;
    let mut got = read_at_least(&mut response, 1000).await;
    assert_eq!(got.len(), 1000);
    gate.open();
    got.extend_from_slice(&soon("the rest", response.bytes()).await.unwrap());
    same_bytes(&got, &scene.layer().bytes);
}

#[tokio::test]
async fn many_clients_cost_upstream_one_transfer() {
    let scene = Scene::new(&[2 * MIB]).await;
    scene.manifest().await;
    let gate = Gate::new();
    scene.upstream.fault(scene.on_layer(), Fault::HoldBody(MIB, gate.clone()));
    let mut responses = Vec::new();
    for _ in 0..32 {
        let mut response = scene.agent.open(&scene.layer_path()).await;
        let begin = read_at_least(&mut response, 1).await;
        responses.push((begin, response));
    }
    gate.open();
    let rest = responses.into_iter().map(|(mut got, response)| async move {
        got.extend_from_slice(&soon("the rest", response.bytes()).await.unwrap());
        got
    });
    for got in join_all(rest).await {
        same_bytes(&got, &scene.layer().bytes);
    }
    assert_eq!(scene.upstream.count(&scene.on_layer()), 1);
    assert_eq!(scene.upstream.sent_bytes(&scene.on_layer()), 2 * MIB as u64);
}

#[tokio::test]
async fn a_fill_goes_on_when_its_clients_have_gone() {
    let scene = Scene::new(&[MIB]).await;
    scene.manifest().await;
    let gate = Gate::new();
    scene.upstream.fault(scene.on_layer(), Fault::HoldBody(MIB / 2, gate.clone()));
    for _ in 0..3 {
        let mut response = scene.agent.open(&scene.layer_path()).await;
        read_at_least(&mut response, 1000).await;
    }
    let path = scene.layer_path();
    tokio::time::timeout(Duration::from_millis(20), scene.agent.try_get(&path)).await.expect_err("the gate is shut");
    gate.open();
    scene.agent.committed(&scene.layer().digest).await;
    scene.get_layer().await;
    assert_eq!(scene.upstream.count(&scene.on_layer()), 1);
}

#[tokio::test]
async fn a_slow_client_holds_nobody_up() {
    let size = 24 * MIB;
    let scene = Scene::new(&[size]).await;
    scene.manifest().await;
    let mut slow = scene.agent.open(&scene.layer_path()).await;
    let mut got = read_at_least(&mut slow, 1).await;
    within(Duration::from_secs(20), "the other client's answer", scene.get_layer()).await;
    assert_eq!(scene.upstream.sent_bytes(&scene.on_layer()), size as u64);
    got.extend_from_slice(&soon("the rest", slow.bytes()).await.unwrap());
    same_bytes(&got, &scene.layer().bytes);
}

#[tokio::test]
async fn fills_beyond_the_limit_wait_for_their_turn() {
    let config = json!({ "upstream": { "maxConcurrentFills": 1, "fillQueueTimeout": "300ms" } });
    let scene = Scene::configured(&[MIB, MIB], config).await;
    scene.manifest().await;
    let gate = Gate::new();
    scene.upstream.fault(scene.on_layer(), Fault::HoldBody(10, gate.clone()));
    let mut first = scene.agent.open(&scene.layer_path()).await;
    read_at_least(&mut first, 10).await;
    let second = &scene.image.blobs[2];
    let path = scene.app.blob(&second.digest);
    let refused = scene.agent.get(&path).await;
    assert!(matches!(refused.status, 429 | 503), "{}", refused.status);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(scene.upstream.count(&On::blob(&second.digest)), 0);
    gate.open();
    soon("the rest", first.bytes()).await.unwrap();
    scene.agent.get(&path).await.expect(200).expect_bytes(&second.bytes);
}

#[tokio::test]
async fn requests_to_one_registry_are_bounded() {
    let upstream = FakeRegistry::start();
    let image = images::simple(1, &[50_000; 8]);
    image.push(&upstream, "app", "1");
    let config = json!({ "registries": { upstream.host(): { "plainHttp": true, "limits": { "maxConnections": 3 } } } });
    let agent = TestAgent::builder().config(config).start().await;
    let app = upstream.repository("app");
    agent.get(&app.manifest("1")).await.expect(200);
    let gate = Gate::new();
    upstream.fault(On::blobs(), Fault::HoldHead(gate.clone()));
    // A quarter, at least one, is kept for manifests.
    let pulls =
        join_all(image.blobs.iter().map(|blob| async { agent.get(&app.blob(&blob.digest)).await.expect(200).expect_bytes(&blob.bytes) }));
    let watch = async {
        gate.reached_by(2).await;
        // The other seven have been sent by the time a request that was sent after them is answered.
        agent.send(Method::GET, "/v2/").await.expect(200);
        let waiting = upstream.count(&On::blobs());
        gate.open();
        waiting
    };
    let (_, waiting) = tokio::join!(pulls, watch);
    assert_eq!(waiting, 2);
}

#[tokio::test]
async fn clients_that_go_away_leave_nothing_behind() {
    let scene = Scene::new(&[4 * MIB]).await;
    scene.pull().await;
    scene.agent.committed(&scene.layer().digest).await;
    let open_files = || std::fs::read_dir(format!("/proc/{}/fd", scene.agent.pid())).unwrap().count();
    let before = open_files();
    let cold = scene.upstream.add_blob("app", noise(77, 4 * MIB));
    let gate = Gate::new();
    scene.upstream.fault(On::blob(&cold), Fault::HoldBody(MIB, gate.clone()));
    for path in [scene.layer_path(), scene.app.blob(&cold)] {
        for _ in 0..20 {
            let mut response = scene.agent.open(&path).await;
            read_at_least(&mut response, 1).await;
        }
    }
    gate.open();
    scene.agent.committed(&cold).await;
    // The client's own idle connections, and one to upstream, may stay.
    until("files and sockets are closed", || open_files() <= before + 3).await;
}

#[tokio::test]
async fn memory_grows_neither_with_clients_nor_with_the_blob() {
    let size = 64 * MIB;
    let scene = Scene::new(&[size]).await;
    scene.manifest().await;
    let resident_mib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", scene.agent.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
    };
    let before = resident_mib();
    let mut idle = Vec::new();
    for _ in 0..24 {
        let mut response = scene.agent.open(&scene.layer_path()).await;
        read_at_least(&mut response, 1).await;
        idle.push(response);
    }
    scene.agent.committed(&scene.layer().digest).await;
    let after = resident_mib();
    assert!(after < before + 48, "{before} MiB became {after} MiB");
}

#[tokio::test]
async fn manifests_do_not_wait_for_downloads() {
    let upstream = FakeRegistry::start();
    let image = images::simple(1, &[50_000; 8]);
    image.push(&upstream, "app", "1");
    images::simple(2, &[10]).push(&upstream, "app", "2");
    let config = json!({ "registries": { upstream.host(): { "plainHttp": true, "limits": { "maxConnections": 4 } } } });
    let agent = TestAgent::builder().config(config).start().await;
    let app = upstream.repository("app");
    agent.get(&app.manifest("1")).await.expect(200);
    let gate = Gate::new();
    upstream.fault(On::blobs(), Fault::HoldHead(gate.clone()));
    let pulls = join_all(image.blobs.iter().map(|blob| async { agent.get(&app.blob(&blob.digest)).await.expect(200) }));
    let watch = async {
        gate.reached_by(3).await;
        agent.get(&app.manifest("2")).await.expect(200);
        gate.open();
    };
    tokio::join!(pulls, watch);
}
