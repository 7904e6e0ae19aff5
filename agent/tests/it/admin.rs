//! The second port: probes, metrics, and what the command line asks for.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::agent::{TestAgent, ended, program};
use crate::support::client;
use crate::support::images;
use crate::support::registry::serve::Port;
use crate::support::registry::{Fault, Gate, On};
use crate::support::scene::Scene;
use crate::support::wait::{soon, until_some};

const MIB: usize = 1 << 20;

async fn run(agent: &TestAgent, args: &[&str]) -> Output {
    let mut command = program();
    command.args(args).args(["--admin", &agent.admin_address().to_string()]);
    tokio::task::spawn_blocking(move || ended(&mut command)).await.unwrap()
}

/// The standard output of a command that succeeds.
async fn ask(agent: &TestAgent, args: &[&str]) -> String {
    let output = run(agent, args).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn probes_answer() {
    let scene = Scene::new(&[10]).await;
    for path in ["/livez", "/readyz"] {
        client::send(client::new().get(scene.agent.admin_url(path))).await.expect(200);
    }
    client::send(client::new().get(scene.agent.admin_url("/nothing"))).await.expect(404);
    // Neither port answers for the other.
    scene.agent.get("/metrics").await.expect(404);
    client::send(client::new().get(scene.agent.admin_url("/v2/"))).await.expect(404);
}

/// Killed when it is dropped.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn a_start_that_takes_long_is_seen_with_the_name_of_the_step() {
    let dir = tempfile::tempdir().unwrap();
    // Whoever reads this waits until somebody writes.
    let version = dir.path().join("VERSION");
    assert!(Command::new("mkfifo").arg(&version).status().unwrap().success());
    let [admin, metrics] = [0, 0].map(|_| Port::reserve(std::net::Ipv4Addr::LOCALHOST.into()).unwrap());
    let (at, beside) = (admin.address.to_string(), metrics.address.to_string());
    let mut command = program();
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", &at, "--metrics-listen", &beside, "--data-dir"]).arg(dir.path());
    let _agent = Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let client = client::new();
    let get = async |address: &str, path: &str| client::try_send(client.get(format!("http://{address}{path}"))).await.ok();
    for address in [&at, &beside] {
        until_some("the port answers", async || get(address, "/livez").await).await.expect(200);
        let got = get(address, "/readyz").await.unwrap().expect(503);
        assert_eq!(got.body, "waiting for: listeners, store\n");
        get(address, "/metrics").await.unwrap().expect(200);
    }
    let said = tokio::task::spawn_blocking(move || ended(program().args(["ls", "--admin", &at]))).await.unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("the agent is starting, waiting for: listeners, store") && said.trim_end().lines().count() == 1, "{said}");
    std::fs::write(&version, "1\n").unwrap();
    for address in [&admin, &metrics].map(|port| port.address.to_string()) {
        until_some("it is ready", async || get(&address, "/readyz").await.filter(|got| got.status == 200)).await;
    }
    get(&admin.address.to_string(), "/v1/images").await.unwrap().expect(200);
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let scene = Scene::new(&[MIB]).await;
    scene.pull().await;
    // A blob is a hit once its fill is over: clients have its last byte before the disk has.
    until_some("all is stored", async || (scene.agent.metric("kuik_agent_fills_in_flight", &[]).await < 0.5).then_some(())).await;
    scene.pull().await;
    let metrics = scene.agent.metrics().await;
    let text = metrics.text();
    assert!(text.ends_with("# EOF\n"), "not OpenMetrics: {}", &text[text.len().saturating_sub(200)..]);
    let whole = MIB + scene.image.blobs[0].bytes.len();
    for (name, labels, at_least, at_most) in [
        ("kuik_agent_requests_total", &[("kind", "blob"), ("method", "GET"), ("status", "200")][..], 4, 4),
        ("kuik_agent_requests_total", &[("kind", "manifest"), ("method", "HEAD")], 2, 2),
        ("kuik_agent_answers_total", &[("kind", "blob"), ("origin", "miss")], 2, 2),
        ("kuik_agent_answers_total", &[("kind", "blob"), ("origin", "hit")], 2, 2),
        ("kuik_agent_served_bytes_total", &[], 2 * whole, 3 * whole),
        ("kuik_agent_fetched_bytes_total", &[], whole, whole + 10_000),
        ("kuik_agent_fills_in_flight", &[], 0, 0),
        ("kuik_agent_stale_answers_total", &[], 0, 0),
        ("kuik_agent_quarantined_blobs_total", &[], 0, 0),
        ("kuik_agent_upstream_errors_total", &[], 0, 0),
        ("kuik_agent_store_bytes", &[], whole, whole + 10_000),
        ("kuik_agent_first_byte_seconds_count", &[("kind", "blob")], 4, 4),
        ("kuik_agent_request_duration_seconds_count", &[("kind", "blob")], 4, 4),
        ("kuik_agent_index_bytes", &[], 1, 1 << 30),
    ] {
        let value = metrics.value(name, labels);
        let range = f64::from(u32::try_from(at_least).unwrap())..=f64::from(u32::try_from(at_most).unwrap());
        assert!(range.contains(&value), "{name}{labels:?} is {value}, not in {range:?}");
    }
}

#[tokio::test]
async fn fills_are_counted_while_they_run() {
    let scene = Scene::new(&[MIB]).await;
    scene.manifest().await;
    let gate = Gate::new();
    scene.upstream.fault(scene.on_layer(), Fault::HoldBody(MIB / 2, gate.clone()));
    let open = scene.agent.open(&scene.layer_path()).await;
    gate.reached().await;
    let in_flight = async || scene.agent.metric("kuik_agent_fills_in_flight", &[]).await;
    assert!((in_flight().await - 1.0).abs() < 0.1);
    gate.open();
    soon("the rest", open.bytes()).await.unwrap();
    until_some("the fill is over", async || (in_flight().await < 0.5).then_some(())).await;
}

#[tokio::test]
async fn failures_of_upstream_are_counted_by_registry_and_reason() {
    let scene = Scene::new(&[10]).await;
    scene.upstream.fault(On::any(), Fault::Status(403));
    scene.agent.get(&scene.app.manifest("1")).await.expect(403);
    let labels = [("registry", scene.upstream.host()), ("reason", "denied".to_owned())];
    let labels: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
    assert!(scene.agent.metric("kuik_agent_upstream_errors_total", &labels).await > 0.5);
}

#[tokio::test]
async fn no_metric_has_a_label_for_every_image() {
    let scene = Scene::new(&[1000]).await;
    scene.pull().await;
    scene.agent.get(&scene.app.manifest("no-such-tag")).await.expect(404);
    scene.agent.get("/v2/no-such-path").await.expect(404);
    let metrics = scene.agent.metrics().await;
    for text in ["no-such", "sha256", "app", &scene.image.digest.hex()[..12]] {
        assert!(!metrics.text().contains(&format!("\"{text}")), "{text} is in a label");
    }
}

#[tokio::test]
async fn pull_fills_the_cache() {
    let mut scene = Scene::with(images::multi_platform(1, 100_000), TestAgent::builder()).await;
    let reference = format!("{}/app:1", scene.upstream.host());
    let said = ask(&scene.agent, &["pull", &reference, "--all-platforms"]).await;
    assert!(said.lines().count() >= 5 && !said.contains('\r') && !said.contains('\u{1b}'), "{said}");
    scene.upstream.stop().await;
    scene.pull().await;
}

#[tokio::test]
async fn pull_draws_a_bar_for_each_layer_on_a_terminal() {
    let scene = Scene::new(&[MIB, 1000]).await;
    let (bin, admin) = (env!("CARGO_BIN_EXE_kuik-agent"), scene.agent.admin_address());
    let line = format!("stty cols 150 && exec {bin} pull {}/app:1 --admin {admin}", scene.upstream.host());
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || ended(&mut command)).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    for blob in &scene.image.blobs {
        // The last that was drawn of each is a bar that is full, with its size and what became of it.
        let bars: Vec<&str> = said.split(['\r', '\n']).filter(|part| part.contains(&blob.digest.hex()[..12])).collect();
        let last = bars.last().unwrap_or_else(|| panic!("no bar for {}: {said:?}", blob.digest));
        assert!(last.contains(&format!("[{}]", "=".repeat(30))) && last.contains(" / ") && last.contains("done"), "{last:?}");
    }
    assert!(said.contains('\u{1b}'), "bars are drawn over those before: {said:?}");
    assert!(said.contains(" is in the cache: "), "{said:?}");
    assert!(!said.contains("begins"), "no plain lines: {said:?}");
}

#[tokio::test]
async fn pull_takes_one_platform() {
    let scene = Scene::with(images::multi_platform(1, 100_000), TestAgent::builder()).await;
    let reference = format!("{}/app:1", scene.upstream.host());
    ask(&scene.agent, &["pull", &reference, "--platform", "linux/arm64"]).await;
    let [amd64, arm64, _] = &scene.image.children[..] else { panic!("three children") };
    assert_eq!(scene.upstream.count(&On::blob(&arm64.layer().digest)), 1);
    assert_eq!(scene.upstream.count(&On::blob(&amd64.layer().digest)), 0);
}

#[tokio::test]
async fn a_pull_that_fails_says_why() {
    let scene = Scene::new(&[1000]).await;
    let output = run(&scene.agent, &["pull", &format!("{}/app:none", scene.upstream.host())]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("app") && said.trim_end().lines().count() == 1, "{said}");
    let output = run(&scene.agent, &["pull", "Not A Reference"]).await;
    assert_eq!(output.status.code(), Some(64));
}

#[tokio::test]
async fn ls_and_inspect_show_what_is_here() {
    let scene = Scene::new(&[100_000]).await;
    let reference = format!("{}/app:1", scene.upstream.host());
    assert_eq!(run(&scene.agent, &["inspect", &reference]).await.status.code(), Some(1));
    scene.pull().await;
    scene.agent.committed(&scene.layer().digest).await;
    until_some("the image is listed", async || ask(&scene.agent, &["ls"]).await.contains(&reference).then_some(())).await;
    let listed: Value = serde_json::from_str(&ask(&scene.agent, &["ls", "--output", "json"]).await).unwrap();
    let entry = &listed["images"][0];
    assert_eq!((&entry["reference"], &entry["digest"]), (&reference.as_str().into(), &scene.image.digest.to_string().into()));
    assert_eq!(entry["complete"], true, "{entry}");
    assert!(entry["sizeBytes"].as_u64().unwrap() > 100_000, "{entry}");
    assert!(ask(&scene.agent, &["ls"]).await.contains(&reference));
    let shown = ask(&scene.agent, &["inspect", &reference]).await;
    for part in [&scene.image.digest, &scene.layer().digest] {
        assert!(shown.contains(&part.to_string()), "{shown}");
    }
    let shown: Value = serde_json::from_str(&ask(&scene.agent, &["inspect", &reference, "--output", "json"]).await).unwrap();
    assert_eq!(shown["manifests"][0]["blobs"].as_array().unwrap().len(), 2, "{shown}");
}

#[tokio::test]
async fn a_command_without_an_agent_says_so() {
    let address = {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        closed.local_addr().unwrap().to_string()
    };
    for args in [&["ls"][..], &["verify"], &["inspect", "nginx"], &["pull", "nginx"]] {
        let output = ended(program().args(args).args(["--admin", &address]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&address) && said.trim_end().lines().count() == 1, "{said}");
    }
}
