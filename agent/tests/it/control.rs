//! The agent in a cluster, as a process: it serves on when nobody answers, remembers what it was told, and finds its way back.

use std::time::Duration;

use kuik_crd::control::Drop as Unwanted;
use serde_json::Value;

use crate::support::agent::{TestAgent, program};
use crate::support::control::FakeControl;
use crate::support::images::{self, Image};
use crate::support::pki::Ca;
use crate::support::registry::{FakeRegistry, LocalPath, On};
use crate::support::scene::pull;
use crate::support::wait::{until, until_some};

const LOST: &str = "the control API does not answer";
const BACK: &str = "connected to the control API";
const WAITING: &str = "not asking the control API before there are authorities";

/// An upstream with `app:1`, a control API, and an agent that works with it.
struct Cluster {
    upstream: FakeRegistry,
    control: FakeControl,
    agent: TestAgent,
    image: Image,
    app: LocalPath,
}

impl Cluster {
    async fn start() -> Self {
        Self::with(FakeControl::start()).await
    }

    async fn with(control: FakeControl) -> Self {
        let upstream = FakeRegistry::start();
        let image = images::simple(1, &[1000]);
        image.push(&upstream, "app", "1");
        let agent = control.agent(TestAgent::builder()).plain_http(&upstream).start().await;
        let app = upstream.repository("app");
        Self { upstream, control, agent, image, app }
    }

    /// The normalised reference of `app:1`.
    fn name(&self) -> String {
        format!("{}/app:1", self.upstream.host())
    }

    fn keep(&self) {
        let name = self.name();
        self.control.desire(|desired| desired.keep = vec![name]);
    }

    async fn pull(&self) {
        pull(&self.agent, &self.app, "1", &self.image).await;
    }

    fn lines(&self, message: &str) -> Vec<Value> {
        lines(&self.agent, message)
    }

    async fn logged(&self, message: &str, times: usize) {
        until("the log says so", || self.lines(message).len() >= times).await;
    }

    async fn up(&self) -> bool {
        self.agent.metric("kuik_agent_control_up", &[]).await > 0.5
    }

    async fn stored(&self) {
        for digest in self.image.blobs.iter().map(|blob| &blob.digest).chain([&self.image.digest]) {
            self.agent.committed(digest).await;
        }
    }
}

fn lines(agent: &TestAgent, message: &str) -> Vec<Value> {
    let parsed = |line: &str| serde_json::from_str::<Value>(line).ok();
    let says = |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with(message));
    agent.log().lines().filter_map(parsed).filter(says).collect()
}

#[tokio::test]
async fn what_is_to_be_kept_is_pulled_and_reported() {
    let cluster = Cluster::start().await;
    cluster.keep();
    let held = cluster.control.until_complete(&cluster.name()).await;
    assert_eq!((held.digest, held.used_at), (cluster.image.digest.to_string(), 0));
    cluster.control.until_found(&cluster.name(), false).await;
    assert_eq!(cluster.upstream.count(&On::manifest("app", "1").get()), 1);
    // The agent counts a report when it reads the answer.
    let told = async || {
        let metrics = cluster.agent.metrics().await;
        (metrics.value("kuik_agent_control_reports_total", &[("result", "ok")]) > 1.5).then_some(metrics)
    };
    let metrics = until_some("the reports are counted", told).await;
    assert!(metrics.value("kuik_agent_control_pulls_total", &[("kind", "keep"), ("result", "ok")]) > 0.5);
    assert!(metrics.value("kuik_agent_control_desired", &[("kind", "keep")]) > 0.5);
    assert!(metrics.value("kuik_agent_control_last_success_timestamp_seconds", &[]) > 1e9);
    let first = cluster.control.state().reports[0].1.clone();
    assert!(first.full && first.sequence == 1 && first.agent_version == env!("CARGO_PKG_VERSION") && first.started_at > 0);
    assert!(cluster.up().await);
}

#[tokio::test]
async fn without_a_control_api_there_is_no_word_of_it() {
    let upstream = FakeRegistry::start();
    let agent = TestAgent::start(&upstream).await;
    assert!(!agent.metrics().await.text().contains("kuik_agent_control"));
    assert!(!agent.log().contains("control API"), "{}", agent.log());
}

#[tokio::test]
async fn a_restart_while_the_control_api_is_away_goes_by_what_was_said_last() {
    let mut cluster = Cluster::start().await;
    cluster.pull().await;
    cluster.stored().await;
    cluster.upstream.stop().await;
    let other = format!("{}/later:1", cluster.upstream.host());
    cluster.control.desire(|desired| desired.keep = vec![other.clone()]);
    cluster.control.until_found(&other, true).await;
    until("the list is on disk", || cluster.agent.files("control").iter().any(|file| file.ends_with("desired.json"))).await;
    cluster.control.stop().await;
    let image = images::simple(2, &[1000]);
    image.push(&cluster.upstream, "later", "1");
    cluster.upstream.start_again();
    cluster.agent.crash().await;
    cluster.pull().await;
    cluster.agent.committed(&image.layer().digest).await;
    cluster.logged(LOST, 1).await;
    cluster.control.start_again();
    cluster.control.until_complete(&other).await;
}

#[tokio::test]
async fn a_damaged_or_newer_note_is_as_good_as_none() {
    let mut cluster = Cluster::start().await;
    cluster.keep();
    cluster.control.until_complete(&cluster.name()).await;
    let note = cluster.agent.data_dir().join("control/desired.json");
    for (round, bad) in ["{\"version\":1,\"at\":1,\"said\":{\"keep\":[", "{\"version\":99}"].into_iter().enumerate() {
        cluster.control.stop().await;
        cluster.agent.kill9();
        std::fs::write(&note, bad).unwrap();
        cluster.agent.start_again().await;
        cluster.logged("what the control API said last cannot be used", round + 1).await;
        cluster.control.start_again();
        until("it is written anew", || std::fs::read_to_string(&note).is_ok_and(|text| text.contains(&cluster.name()))).await;
    }
    assert_eq!(cluster.lines("what the control API said last cannot be used").len(), 2);
}

#[tokio::test]
async fn authorities_that_come_late_are_found() {
    let ca = Ca::new();
    let cluster = Cluster::with(FakeControl::start_with(&ca)).await;
    cluster.pull().await;
    cluster.logged(WAITING, 1).await;
    assert!(!cluster.up().await);
    cluster.control.publish(&ca);
    cluster.control.until_complete(&cluster.name()).await;
    cluster.logged(BACK, 1).await;
    assert_eq!((cluster.lines(WAITING).len(), cluster.lines(LOST).len(), cluster.lines(BACK).len()), (1, 0, 1));
}

#[tokio::test]
async fn authorities_and_tokens_are_changed_without_a_restart() {
    let mut cluster = Cluster::start().await;
    cluster.logged(BACK, 1).await;
    let ca = Ca::new();
    cluster.control.rotate(&ca).await;
    cluster.logged(LOST, 1).await;
    let error = cluster.lines(LOST)[0].to_string();
    assert!(error.contains("certificate") || error.contains("onnect") || error.contains("closed"), "{error}");
    cluster.control.publish(&ca);
    cluster.logged(BACK, 2).await;
    cluster.control.give_token("second");
    cluster.keep();
    cluster.control.until_complete(&cluster.name()).await;
    // A call between the two halves of the change of tokens is refused, and made again.
    until_some("it is up", async || cluster.up().await.then_some(())).await;
}

#[tokio::test]
async fn a_server_that_is_not_the_control_api_is_told_nothing() {
    let control = FakeControl::start();
    control.publish(&Ca::new());
    let cluster = Cluster::with(control).await;
    cluster.logged(LOST, 1).await;
    cluster.pull().await;
    assert!(cluster.control.state().calls.is_empty());
    assert!(!cluster.agent.log().contains("first"), "no token reaches the log");
}

#[tokio::test]
async fn refusals_are_one_line_each_way_and_keep_nobody_from_pulling() {
    let cluster = Cluster::start().await;
    cluster.logged(BACK, 1).await;
    for (round, status) in [503, 401, 429].into_iter().enumerate() {
        cluster.control.say(|state| {
            state.refuse = Some(status);
            state.agents.agents.push(kuik_crd::control::Agent { node: format!("n{status}"), ..Default::default() });
        });
        let refused = |state: &mut crate::support::control::State| {
            (state.calls.iter().filter(|(_, answer)| *answer == status).count() >= 3).then_some(())
        };
        cluster.control.until("some calls are refused", refused).await;
        cluster.pull().await;
        cluster.logged(LOST, round + 1).await;
        assert_eq!(cluster.lines(LOST).len(), round + 1, "{:?}", cluster.lines(LOST));
        assert!(!cluster.up().await);
        cluster.control.state().refuse = None;
        cluster.logged(BACK, round + 2).await;
    }
    assert_eq!((cluster.lines(LOST).len(), cluster.lines(BACK).len()), (3, 4));
    let line = cluster.lines(LOST)[0].to_string();
    assert!(line.contains("503") && line.contains("as the test wants"), "{line}");
}

#[tokio::test]
async fn an_image_that_is_to_go_is_gone_from_disk_and_comes_back_when_asked_for() {
    let mut cluster = Cluster::start().await;
    cluster.pull().await;
    cluster.stored().await;
    let image = cluster.name();
    let far = kuik_agent::store::now_seconds() + 1000;
    cluster.control.desire(|desired| desired.drop = vec![Unwanted { image, unused_since: far }]);
    until("its blobs are deleted", || cluster.agent.files("blobs").is_empty()).await;
    cluster.logged("dropped an image", 1).await;
    assert!(cluster.agent.files("refs").is_empty());
    let counted = async || (cluster.agent.metric("kuik_agent_dropped_images_total", &[]).await > 0.5).then_some(());
    until_some("it is counted", counted).await;
    cluster.control.desire(|desired| desired.drop.clear());
    cluster.agent.crash().await;
    let listed = cluster.agent.files("refs");
    assert!(listed.is_empty(), "{listed:?}");
    cluster.pull().await;
}

#[tokio::test]
async fn an_address_that_nobody_filled_in_is_as_good_as_none() {
    let (upstream, control) = (FakeRegistry::start(), FakeControl::start());
    let mut flags = control.flags();
    let at = flags.iter().position(|flag| flag == "--control-address").unwrap();
    flags[at + 1] = "$(KUIK_CONTROL_SERVICE_HOST):9443".to_owned();
    let agent = TestAgent::builder().args(flags.iter().map(String::as_str)).plain_http(&upstream).start().await;
    until("it is said", || !lines(&agent, "--control-address still holds a variable").is_empty()).await;
    until("the name is looked up instead, and nobody has it", || !lines(&agent, LOST).is_empty()).await;
}

#[tokio::test]
async fn a_held_poll_does_not_hold_up_the_end() {
    let control = FakeControl::start();
    // Longer than the end may take, so that it cannot be the poll's own end that is seen.
    control.state().hold = Duration::from_secs(60);
    let mut cluster = Cluster::with(control).await;
    cluster.control.until("polls are held", |state| (state.holding >= 2).then_some(())).await;
    let began = tokio::time::Instant::now();
    cluster.agent.terminate();
    assert!(cluster.agent.exit().await.success());
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_metrics_port_has_probes_and_metrics_and_nothing_else() {
    let upstream = FakeRegistry::start();
    let agent = TestAgent::builder().plain_http(&upstream).env("KUIK_METRICS_LISTEN", "127.0.0.1:0").start().await;
    let line = lines(&agent, "listening").remove(0);
    let base = format!("http://{}", line["metrics"].as_str().unwrap());
    let client = crate::support::client::new();
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/v1/images", 404), ("/v2/", 404), ("/", 404)] {
        let got = crate::support::client::send(client.get(format!("{base}{path}"))).await;
        assert_eq!(got.status, status, "{path}");
    }
    for path in ["/v1/pull?reference=x", "/v1/verify"] {
        let got = crate::support::client::send(client.post(format!("{base}{path}"))).await;
        assert_eq!(got.status, 404, "{path}");
    }
    assert!(agent.metrics().await.text().contains("kuik_agent_build"), "the admin port has them too");
}

#[test]
fn every_flag_is_in_the_help() {
    let output = program().args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let flags = ["metrics-listen", "control-url", "control-address", "control-ca", "control-token", "node-name"];
    for flag in flags {
        let variable = format!("KUIK_{}", flag.to_uppercase().replace('-', "_"));
        assert!(help.contains(&format!("--{flag}")) && help.contains(&variable), "{flag} is not in {help}");
    }
}
