//! Where a registry is asked: several endpoints in order, TLS with and without trust, and not at all while it wants to be left alone.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::agent::{TestAgent, impatient};
use crate::support::client::{read_at_least, same_bytes};
use crate::support::images::{self, Image};
use crate::support::pki::Ca;
use crate::support::registry::{FakeRegistry, Fault, Gate, LocalPath, On};
use crate::support::scene::{Scene, pull};
use crate::support::wait::{soon, until_some};

const NAME: &str = "registry.example";
const MIB: usize = 1 << 20;

fn app() -> LocalPath {
    LocalPath::new(NAME, "app")
}

/// `registry.example` with these endpoints.
fn config(endpoints: &[String]) -> Value {
    json!({ "registries": { NAME: { "endpoints": endpoints } }, "upstream": impatient() })
}

/// Two upstreams that both hold the image, and an agent that asks them in order.
async fn pair() -> (FakeRegistry, FakeRegistry, TestAgent, Image) {
    let (first, second) = (FakeRegistry::start(), FakeRegistry::start());
    let image = images::simple(1, &[MIB]);
    image.push(&first, "app", "1");
    image.push(&second, "app", "1");
    let agent = TestAgent::builder().config(config(&[first.url().to_owned(), second.url().to_owned()])).start().await;
    (first, second, agent, image)
}

#[tokio::test]
async fn the_first_endpoint_is_asked_and_no_other() {
    let (_first, second, agent, image) = pair().await;
    pull(&agent, &app(), "1", &image).await;
    assert_eq!(second.count(&On::any()), 0);
}

#[tokio::test]
async fn the_next_endpoint_is_asked_when_one_is_down() {
    let (mut first, second, agent, image) = pair().await;
    first.stop().await;
    pull(&agent, &app(), "1", &image).await;
    assert!(second.count(&On::any()) >= 3);
}

#[tokio::test]
async fn the_next_endpoint_is_asked_whatever_one_fails_with() {
    let statuses = [401, 403, 404, 429, 500, 503].map(Fault::Status);
    join_all(statuses.into_iter().chain([Fault::Hang, Fault::BreakHead]).map(async |fault| {
        let (first, second, agent, image) = pair().await;
        first.fault(On::any(), fault.clone());
        pull(&agent, &app(), "1", &image).await;
        assert!(second.count(&On::manifests()) >= 1, "{fault:?}");
    }))
    .await;
}

#[tokio::test]
async fn a_download_is_resumed_at_the_next_endpoint() {
    for goes_down in [true, false] {
        let (mut first, second, agent, image) = pair().await;
        agent.get(&app().manifest("1")).await.expect(200);
        let gate = Gate::new();
        let on_layer = On::blob(&image.layer().digest);
        first.fault_times(1, on_layer.clone(), Fault::HoldBody(300_000, gate.clone()));
        first.fault_times(1, on_layer, Fault::BreakAfter(300_000));
        let mut response = agent.open(&app().blob(&image.layer().digest)).await;
        let mut got = read_at_least(&mut response, 1).await;
        gate.reached().await;
        if goes_down {
            first.stop().await;
        } else {
            first.fault(On::any(), Fault::Status(503));
            gate.open();
        }
        got.extend_from_slice(&soon("the rest", response.bytes()).await.unwrap());
        same_bytes(&got, &image.layer().bytes);
        let seen = second.seen(&On::blobs());
        let from: usize = seen[0].range().unwrap().trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
        assert!(from > 0 && from <= 300_000, "{from}");
        assert_eq!(second.sent_bytes(&On::blobs()), (MIB - from) as u64);
    }
}

#[tokio::test]
async fn a_blob_that_one_endpoint_has_wrong_comes_from_the_next() {
    let (first, second, agent, image) = pair().await;
    agent.get(&app().manifest("1")).await.expect(200);
    first.fault(On::blobs(), Fault::FlipFirst);
    let path = app().blob(&image.layer().digest);
    if let Ok(got) = agent.try_get(&path).await {
        got.expect(200).expect_bytes(&image.layer().bytes);
    }
    agent.get(&path).await.expect(200).expect_bytes(&image.layer().bytes);
    assert!(second.count(&On::blobs()) > 0);
}

#[tokio::test]
async fn what_no_endpoint_has_is_unknown() {
    let (first, second, agent, _) = pair().await;
    assert_eq!(agent.get(&app().manifest("2")).await.expect(404).error_code(), "MANIFEST_UNKNOWN");
    // But nobody knows what an endpoint has that does not answer.
    second.fault(On::any(), Fault::Status(500));
    let got = agent.get(&app().manifest("3")).await;
    assert!((500..=504).contains(&got.status), "{}", got.status);
    assert!(first.count(&On::any()) >= 2);
}

#[tokio::test]
async fn an_endpoint_may_have_a_path() {
    let upstream = FakeRegistry::start();
    let agent = TestAgent::builder().config(config(&[format!("{}/proxy/hub", upstream.url())])).start().await;
    agent.get(&app().manifest("1")).await.expect(404);
    assert_eq!(upstream.seen(&On::any())[0].path, "/proxy/hub/v2/app/manifests/1");
}

/// A TLS upstream with the image, its authority, and the directory with the authority's certificate.
fn tls(http2: bool, names: &[&str]) -> (FakeRegistry, Image, String, tempfile::TempDir) {
    let ca = Ca::new();
    let upstream = FakeRegistry::builder().tls(ca.server_config(names, http2)).start();
    let image = images::simple(1, &[MIB]);
    image.push(&upstream, "app", "1");
    let dir = tempfile::tempdir().unwrap();
    let path = ca.write(dir.path()).display().to_string();
    (upstream, image, path, dir)
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_where_it_is_configured() {
    for http2 in [false, true] {
        let (upstream, image, ca, _dir) = tls(http2, &["127.0.0.1"]);
        let config = json!({ "registries": { upstream.host(): { "ca": ca } } });
        let agent = TestAgent::builder().config(config).start().await;
        let app = upstream.repository("app");
        agent.get(&app.manifest("1")).await.expect(200);
        upstream.fault_times(1, On::blob(&image.layer().digest), Fault::BreakAfter(300_000));
        pull(&agent, &app, "1", &image).await;
    }
}

#[tokio::test]
async fn an_authority_of_the_system_is_trusted_for_every_registry() {
    let (upstream, image, ca, _dir) = tls(true, &["127.0.0.1"]);
    let agent = TestAgent::builder().env("SSL_CERT_FILE", ca).start().await;
    pull(&agent, &upstream.repository("app"), "1", &image).await;
    // And no other one is.
    let agent = TestAgent::builder().start().await;
    let got = agent.get(&upstream.repository("app").manifest("1")).await;
    assert!((500..=504).contains(&got.status), "{}", got.status);
}

#[tokio::test]
async fn an_authority_is_trusted_for_its_own_registry_only() {
    let (upstream, _, ca, _dir) = tls(false, &["127.0.0.1"]);
    let config = json!({ "registries": { "other.example": { "ca": ca } } });
    let agent = TestAgent::builder().config(config).start().await;
    let got = agent.get(&upstream.repository("app").manifest("1")).await;
    assert!((500..=504).contains(&got.status), "{}", got.status);
    assert_eq!(upstream.count(&On::any()), 0);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_taken() {
    let (upstream, _, ca, _dir) = tls(false, &["elsewhere.example"]);
    let config = json!({ "registries": { upstream.host(): { "ca": ca } } });
    let agent = TestAgent::builder().config(config).start().await;
    let got = agent.get(&upstream.repository("app").manifest("1")).await;
    assert!((500..=504).contains(&got.status), "{}", got.status);
}

#[tokio::test]
async fn any_certificate_is_taken_where_that_is_configured() {
    let (upstream, image, _, _dir) = tls(false, &["elsewhere.example"]);
    let config = json!({ "registries": { upstream.host(): { "insecureSkipVerify": true } } });
    let agent = TestAgent::builder().config(config).start().await;
    pull(&agent, &upstream.repository("app"), "1", &image).await;
}

#[tokio::test]
async fn https_is_not_given_up_for_http() {
    let upstream = FakeRegistry::start();
    images::simple(1, &[10]).push(&upstream, "app", "1");
    let agent = TestAgent::builder().start().await;
    let got = agent.get(&upstream.repository("app").manifest("1")).await;
    assert!((500..=504).contains(&got.status), "{}", got.status);
    assert_eq!(upstream.count(&On::any()), 0);
}

#[tokio::test]
async fn a_registry_that_limits_us_is_left_alone_until_it_said() {
    let scene = Scene::new(&[1000]).await;
    scene.upstream.fault(On::any(), Fault::StatusWith(429, "retry-after", "2".to_owned()));
    let refused = scene.agent.get(&scene.app.manifest("1")).await.expect(429);
    assert_eq!(refused.error_code(), "TOOMANYREQUESTS");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    for path in [scene.app.manifest("1"), scene.app.manifest("2"), scene.layer_path()] {
        let refused = scene.agent.get(&path).await.expect(429);
        assert!(refused.header("retry-after").is_some());
    }
    assert_eq!(scene.upstream.count(&On::any()), 1);
    scene.upstream.behave();
    until_some("the registry is asked again", async || {
        let got = scene.agent.get(&scene.app.manifest("1")).await;
        (got.status == 200).then_some(())
    })
    .await;
    scene.pull().await;
}

#[tokio::test]
async fn a_limit_without_a_time_is_a_limit_too() {
    let scene = Scene::new(&[1000]).await;
    scene.upstream.fault(On::any(), Fault::Status(429));
    for _ in 0..3 {
        let refused = scene.agent.get(&scene.app.manifest("1")).await.expect(429);
        assert!(refused.header("retry-after").is_some());
    }
    assert_eq!(scene.upstream.count(&On::any()), 1);
}

#[tokio::test]
async fn a_limit_of_one_registry_is_none_of_another() {
    let other = FakeRegistry::start();
    let scene = Scene::with(images::simple(1, &[1000]), TestAgent::builder().plain_http(&other)).await;
    other.fault(On::any(), Fault::Status(429));
    scene.agent.get(&other.repository("app").manifest("1")).await.expect(429);
    scene.pull().await;
}

#[tokio::test]
async fn what_is_here_is_served_while_a_registry_limits_us() {
    let scene = Scene::with(images::simple(1, &[1000]), TestAgent::builder().args(["--tag-fresh-for", "0s"])).await;
    scene.pull().await;
    scene.upstream.fault(On::any(), Fault::StatusWith(429, "retry-after", "60".to_owned()));
    let began = Instant::now();
    for _ in 0..5 {
        scene.pull().await;
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(scene.upstream.seen(&On::any()).iter().filter(|seen| seen.status() == 429).count() <= 1);
}

#[tokio::test]
async fn docker_hub_is_a_registry_like_any_other() {
    let upstream = FakeRegistry::start();
    let image = images::simple(1, &[1000]);
    image.push(&upstream, "library/nginx", "latest");
    let config = json!({ "registries": { "docker.io": { "endpoints": [upstream.url()] } } });
    let agent = TestAgent::builder().config(config).start().await;
    let forms = ["docker.io/library/nginx", "docker.io/nginx", "index.docker.io/library/nginx", "library/nginx", "nginx"];
    for form in forms {
        let got = agent.get(&format!("/v2/{form}/manifests/latest")).await;
        assert_eq!(got.status, 200, "{form}");
        got.expect_bytes(&image.bytes);
    }
    agent.get("/v2/library/nginx/manifests/latest?ns=docker.io").await.expect(200).expect_bytes(&image.bytes);
    assert_eq!(upstream.count(&On::any()), 1);
}

#[tokio::test]
async fn a_registry_may_have_an_address_of_version_6() {
    let upstream = FakeRegistry::builder().host(std::net::Ipv6Addr::LOCALHOST).start();
    let image = images::simple(1, &[1000]);
    image.push(&upstream, "app", "1");
    let agent = TestAgent::start(&upstream).await;
    pull(&agent, &upstream.repository("app"), "1", &image).await;
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_used() {
    let (proxy, direct) = (FakeRegistry::start(), FakeRegistry::start());
    let image = images::simple(1, &[1000]);
    for upstream in [&proxy, &direct] {
        image.push(upstream, "app", "1");
    }
    let agent = TestAgent::builder()
        .plain_http(&direct)
        .args(["--plain-http", "registry.invalid"])
        .env("HTTP_PROXY", proxy.url())
        .env("NO_PROXY", "127.0.0.1")
        .start()
        .await;
    pull(&agent, &LocalPath::new("registry.invalid", "app"), "1", &image).await;
    assert!(proxy.count(&On::any()) >= 3);
    agent.get(&direct.repository("app").manifest("1")).await.expect(200);
    assert_eq!(direct.count(&On::any()), 1);
}
