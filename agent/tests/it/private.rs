//! Private images in a cluster, over the wire: the challenge, pull tokens, pull secrets from the control API, and what is told of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kuik_agent::store::now_seconds;
use kuik_crd::pull_token::PullSigner;

use crate::support::agent::TestAgent;
use crate::support::client::Got;
use crate::support::control::FakeControl;
use crate::support::images::{self, Image};
use crate::support::registry::{FakeRegistry, LocalPath, On};
use crate::support::wait::{until, until_some};

const PASSWORD: &str = "hunter2-hunter2";

/// A registry that gives `app` to bob alone, a control API that has bob's password for the namespace `team`, and an agent between them.
struct Cluster {
    upstream: FakeRegistry,
    control: FakeControl,
    agent: TestAgent,
    signer: PullSigner,
    image: Image,
    app: LocalPath,
    public: LocalPath,
}

impl Cluster {
    async fn start() -> Self {
        let (upstream, control) = (FakeRegistry::start(), FakeControl::start());
        let image = images::simple(1, &[100_000, 1000]);
        image.push(&upstream, "app", "1");
        image.push(&upstream, "public", "1");
        upstream.add_user("bob", PASSWORD);
        upstream.make_private("app", &["bob"]);
        upstream.require_bearer();
        let signer = PullSigner::read(&PullSigner::generate().unwrap()).unwrap();
        control.desire(|desired| desired.pull_keys = vec![signer.key().clone()]);
        control.state().secrets.insert("team".to_owned(), ("bob".to_owned(), PASSWORD.to_owned()));
        control.state().secrets.insert("other".to_owned(), ("bob".to_owned(), "wrong".to_owned()));
        let builder = control.agent(TestAgent::builder()).plain_http(&upstream).args(["--auth-mode", "namespace"]);
        let agent = builder.start().await;
        let (app, public) = (upstream.repository("app"), upstream.repository("public"));
        let cluster = Self { upstream, control, agent, signer, image, app, public };
        cluster.until_keys_are_known().await;
        cluster
    }

    /// Until then every token is one of an unknown key.
    async fn until_keys_are_known(&self) {
        until_some("the agent has the keys", async || {
            let answer = self.get(&self.app.manifest("1"), Some("team")).await;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    async fn get(&self, path: &str, namespace: Option<&str>) -> Got {
        let Some(namespace) = namespace else { return self.agent.get(path).await };
        let token = self.signer.sign(namespace, now_seconds() + 60);
        let basic = format!("Basic {}", STANDARD.encode(format!("{namespace}:{token}")));
        self.agent.get_with(path, &[("authorization", &basic)]).await
    }
}

#[tokio::test]
async fn a_runtime_is_challenged_for_what_is_private_and_for_nothing_else() {
    let cluster = Cluster::start().await;
    let refused = cluster.get(&cluster.app.manifest("1"), None).await.expect(401);
    assert_eq!(refused.header("www-authenticate"), Some("Basic realm=\"kube-image-keeper\""));
    assert_eq!(refused.error_code(), "UNAUTHORIZED");
    cluster.get(&cluster.public.manifest("1"), None).await.expect(200);
    for blob in &cluster.image.blobs {
        cluster.get(&cluster.app.blob(&blob.digest), Some("team")).await.expect(200).expect_bytes(&blob.bytes);
        cluster.get(&cluster.app.blob(&blob.digest), None).await.expect(401);
        cluster.get(&cluster.app.blob(&blob.digest), Some("other")).await.expect(403);
        cluster.get(&cluster.app.blob(&blob.digest), Some("stranger")).await.expect(403);
        cluster.get(&cluster.public.blob(&blob.digest), None).await.expect(200);
    }
    cluster.agent.get("/v2/").await.expect(200);
}

#[tokio::test]
async fn who_was_refused_and_who_has_proven_is_reported_and_no_secret_is_kept_or_logged() {
    let cluster = Cluster::start().await;
    let refused = cluster.get(&cluster.app.manifest("1"), Some("other")).await.expect(403);
    assert_eq!(refused.error_code(), "DENIED");
    let image = format!("{}/app:1", cluster.upstream.host());
    let told = cluster.control.until("a refusal is reported", |state| state.refusals.first().cloned()).await;
    assert_eq!((told.image.as_str(), told.namespace.as_str(), told.reason.as_str()), (image.as_str(), "other", "denied"));
    for part in ["Secret regcred", "401"] {
        assert!(told.message.contains(part), "{part}: {}", told.message);
    }
    let proven = |held: &kuik_crd::control::Held| held.proven == ["team"] && held.proven_count == 1;
    cluster.control.until("the proof is reported", |state| state.held.get(&image).filter(|held| proven(held)).cloned()).await;
    assert!(!cluster.agent.log().contains(PASSWORD), "{}", cluster.agent.log());
    for file in cluster.agent.files("") {
        let bytes = std::fs::read(&file).unwrap_or_default();
        assert!(!bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes()), "{}", file.display());
    }
}

#[tokio::test]
async fn a_proof_outlives_the_registry_the_control_api_and_the_agent() {
    let mut cluster = Cluster::start().await;
    let layer = &cluster.image.blobs[0];
    cluster.get(&cluster.app.blob(&layer.digest), Some("team")).await.expect(200);
    cluster.agent.committed(&layer.digest).await;
    let is_tag = |file: &std::path::PathBuf| file.parent().is_some_and(|dir| dir.ends_with("_tags"));
    let is_right = |file: &std::path::PathBuf| std::fs::read_to_string(file).is_ok_and(|text| text.contains("team"));
    until("tag and proof are stored", || {
        cluster.agent.files("refs").iter().any(is_tag) && cluster.agent.files("control").iter().any(is_right)
    })
    .await;
    cluster.upstream.stop().await;
    cluster.control.stop().await;
    cluster.agent.crash().await;
    cluster.get(&cluster.app.manifest("1"), Some("team")).await.expect(200);
    cluster.get(&cluster.app.blob(&layer.digest), Some("team")).await.expect(200).expect_bytes(&layer.bytes);
    cluster.get(&cluster.app.manifest("1"), None).await.expect(401);
    cluster.get(&cluster.app.manifest("1"), Some("other")).await.expect(502);
}

#[tokio::test]
async fn many_who_prove_at_once_cause_one_question_each() {
    let cluster = Cluster::start().await;
    let before = cluster.control.state().asked.len();
    let path = cluster.app.manifest("1");
    let all: Vec<_> = (0..20).map(|_| cluster.get(&path, Some("other"))).collect();
    for answer in futures_util::future::join_all(all).await {
        answer.expect(403);
    }
    assert_eq!(cluster.control.state().asked.len() - before, 1);
    assert!(cluster.upstream.count(&On::repository("app")) < 20);
}

#[tokio::test]
async fn a_public_image_that_was_kept_ahead_is_given_to_everybody_with_its_registry_away() {
    let mut cluster = Cluster::start().await;
    let name = format!("{}/public:1", cluster.upstream.host());
    cluster.control.desire(|desired| desired.keep = vec![name]);
    let is_open =
        |file: &std::path::PathBuf| std::fs::read_to_string(file).is_ok_and(|text| text.contains("/public") && text.contains("open"));
    until("it is known to be open", || cluster.agent.files("control").iter().any(is_open)).await;
    cluster.upstream.stop().await;
    cluster.get(&cluster.public.manifest("1"), None).await.expect(200);
    for blob in &cluster.image.blobs {
        cluster.get(&cluster.public.blob(&blob.digest), None).await.expect(200).expect_bytes(&blob.bytes);
    }
}
