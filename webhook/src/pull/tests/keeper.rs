//! The leader before an API server: namespaces come and go, Secrets are changed by others, requests fail.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kuik_crd::PullKey;
use kuik_crd::pull_token::verify;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::api::{FakeApi, KEYS, secret_path};
use super::names;
use crate::board::{Board, Leadership, Wishes};
use crate::config::{Auth, AuthMode, Settings};
use crate::lifecycle;
use crate::pull::secret::render;
use crate::pull::{Metrics, PullParts, run};

/// A replica that leads, unless it is deposed.
struct Scene {
    api: FakeApi,
    board: Board,
    registry: Registry,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Scene {
    fn begin(api: FakeApi, mode: AuthMode) -> Self {
        let (board, mut registry, stop) = (Board::default(), Registry::default(), CancellationToken::new());
        let settings =
            Settings { ignored_namespaces: vec!["ignored".to_owned()], auth: Auth { mode, ..Auth::default() }, ..Settings::default() };
        let parts = PullParts {
            client: api.client(),
            names: names().into(),
            settings: Arc::new(settings),
            board: board.clone(),
            metrics: Metrics::register(&mut registry),
            lifecycle_metrics: lifecycle::Metrics::register(&mut Registry::default()),
        };
        board.lead(Leadership::Us);
        board.wish(Some(Wishes::default()));
        let ended = stop.clone();
        let task = tokio::spawn(async move {
            let Ok(()) = run(parts, ended).await;
        });
        Self { api, board, registry, stop, task }
    }

    fn of(namespaces: &[&str]) -> Self {
        Self::begin(FakeApi::new(namespaces), AuthMode::Namespace)
    }

    fn keys(&self) -> Vec<PullKey> {
        self.board.wishes().borrow().as_ref().and_then(|wishes| wishes.pull_keys.clone()).unwrap_or_default()
    }

    fn is_good(&self, namespace: &str) -> bool {
        let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap();
        self.api.token(namespace).is_some_and(|token| verify(&self.keys(), namespace, &token, now).is_ok())
    }

    async fn until_good(&self, namespaces: &[&str]) {
        self.api.until("good tokens", |_| namespaces.iter().all(|namespace| self.is_good(namespace))).await;
    }

    fn change(&self, namespace: &str, change: impl FnOnce(&mut Value)) {
        let mut secret = self.api.get(&secret_path(namespace)).unwrap();
        change(&mut secret);
        self.api.put(&secret_path(namespace), secret);
    }

    fn metric(&self, line: &str) -> Option<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text.lines().find_map(|found| found.strip_prefix(line).map(|value| value.trim().to_owned()))
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn each_namespace_whose_pods_may_be_rewritten_gets_a_token_of_its_own() {
    let api = FakeApi::new(&["shop", "team", "ignored", "kube-system", "kuik-system"]);
    api.put("/api/v1/namespaces/going", json!({"metadata": {"name": "going", "deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    let scene = Scene::begin(api, AuthMode::Namespace);
    scene.until_good(&["shop", "team"]).await;
    assert_ne!(scene.api.token("shop"), scene.api.token("team"));
    for namespace in ["ignored", "kube-system", "kuik-system", "going"] {
        assert_eq!(scene.api.get(&secret_path(namespace)), None, "{namespace}");
    }
    let secret = scene.api.get(&secret_path("shop")).unwrap();
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "role-uid");
    assert_eq!(secret["metadata"]["labels"]["app.kubernetes.io/managed-by"], "kube-image-keeper");
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_namespace_gets_its_token_at_once() {
    let scene = Scene::of(&["shop"]);
    scene.until_good(&["shop"]).await;
    let began = tokio::time::Instant::now();
    scene.api.add_namespace("new");
    scene.until_good(&["new"]).await;
    assert!(began.elapsed() < std::time::Duration::from_secs(1), "{:?}", began.elapsed());
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_others_change_or_delete_is_put_right() {
    let scene = Scene::of(&["shop", "team"]);
    scene.until_good(&["shop", "team"]).await;
    scene.api.remove(&secret_path("shop"));
    scene.until_good(&["shop"]).await;
    // Another namespace's token, in just the form of ours.
    let forged = render("localhost:7439", "shop", &scene.api.token("team").unwrap(), &OwnerReference::default());
    scene.change("shop", |secret| secret["data"] = json!(forged.data));
    scene.until_good(&["shop"]).await;
    scene.change("shop", |secret| secret["type"] = json!("Opaque"));
    scene.api.until("the type", |api| api.get(&secret_path("shop")).is_some_and(|secret| secret["type"] != "Opaque")).await;
    scene.until_good(&["shop", "team"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_somebody_elses_is_left_alone_with_an_event() {
    let api = FakeApi::new(&["shop", "team"]);
    let foreign = json!({"metadata": {"name": "kuik-pull", "namespace": "shop", "uid": "theirs"}, "type": "Opaque"});
    let foreign = api.put(&secret_path("shop"), foreign);
    let scene = Scene::begin(api, AuthMode::Namespace);
    scene.until_good(&["team"]).await;
    scene.api.until("an Event", |api| api.events_in("shop") == 1).await;
    assert_eq!(scene.api.get(&secret_path("shop")), Some(foreign));
    assert_eq!(scene.metric("pull_secrets{state=\"foreign\"}").as_deref(), Some("1"));
    scene.api.remove(&secret_path("shop"));
    scene.until_good(&["shop"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_ignored_from_now_on_loses_its_token() {
    let before = Scene::of(&["shop"]);
    before.until_good(&["shop"]).await;
    let mut secret = before.api.get(&secret_path("shop")).unwrap();
    let api = before.api.clone();
    before.end().await;
    api.add_namespace("ignored");
    secret["metadata"]["namespace"] = json!("ignored");
    api.put(&secret_path("ignored"), secret);
    let scene = Scene::begin(api, AuthMode::Namespace);
    scene.api.until("it is gone", |api| api.get(&secret_path("ignored")).is_none()).await;
    scene.until_good(&["shop"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_with_the_same_keys_leaves_good_secrets_alone() {
    let before = Scene::of(&["shop", "team"]);
    before.until_good(&["shop", "team"]).await;
    let api = before.api.clone();
    before.end().await;
    api.writes();
    let scene = Scene::begin(api, AuthMode::Namespace);
    // What it does for a new one shows that it has looked at the others.
    scene.api.add_namespace("new");
    scene.until_good(&["new"]).await;
    assert_eq!(scene.api.writes(), ["POST /api/v1/namespaces/new/secrets"]);
    assert_eq!(scene.metric("pull_secret_writes_total{result=\"created\"}").as_deref(), Some("1"));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_later_and_later_and_does_not_hold_up_the_others() {
    let api = FakeApi::new(&["bad", "shop"]);
    api.refuse(Some(("namespaces/bad/", 500)));
    let scene = Scene::begin(api, AuthMode::Namespace);
    scene.until_good(&["shop"]).await;
    scene.api.writes();
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let tries = scene.api.writes().len();
    assert!((3..=6).contains(&tries), "{tries} within a minute");
    scene.api.refuse(None);
    scene.until_good(&["bad"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_changes_a_secret_again_and_again_is_answered_later_and_later() {
    let scene = Scene::of(&["shop", "team"]);
    scene.until_good(&["shop", "team"]).await;
    scene.api.writes();
    for _ in 0..600 {
        scene.change("shop", |secret| secret["data"] = json!({}));
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    let writes = scene.api.writes().len();
    assert!((10..=20).contains(&writes), "{writes} within 10 minutes");
    scene.until_good(&["shop", "team"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_keys_no_token_is_written() {
    let api = FakeApi::new(&["shop"]);
    api.refuse(Some(("namespaces/kuik-system/", 403)));
    let scene = Scene::begin(api, AuthMode::Namespace);
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    assert_eq!((scene.api.get(&secret_path("shop")), scene.keys()), (None, vec![]));
    assert_eq!(scene.board.wishes().borrow().as_ref().map(|wishes| wishes.pull_keys.clone()), Some(None), "agents keep those they have");
    assert!(scene.metric("pull_errors_total{step=\"write\"}").is_some());
    scene.api.refuse(None);
    scene.until_good(&["shop"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_writes_nothing_and_tells_nothing() {
    let scene = Scene::of(&["shop"]);
    scene.until_good(&["shop"]).await;
    scene.board.lead(Leadership::Unknown);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    scene.api.writes();
    scene.api.add_namespace("new");
    tokio::time::sleep(std::time::Duration::from_secs(200)).await;
    assert_eq!((scene.api.writes(), scene.keys()), (vec![], vec![]));
    scene.board.lead(Leadership::Us);
    scene.board.wish(Some(Wishes::default()));
    scene.until_good(&["shop", "new"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn mode_none_removes_what_mode_namespace_left_and_nothing_of_others() {
    let before = Scene::of(&["shop", "team"]);
    before.until_good(&["shop", "team"]).await;
    let api = before.api.clone();
    before.end().await;
    let foreign = json!({"metadata": {"name": "kuik-pull", "namespace": "other", "uid": "theirs"}, "type": "Opaque"});
    api.put(&secret_path("other"), foreign);
    let scene = Scene::begin(api, AuthMode::None);
    scene.api.until("the keys are gone", |api| api.get(KEYS).is_none()).await;
    assert_eq!(scene.board.wishes().borrow().as_ref().map(|wishes| wishes.pull_keys.clone()), Some(Some(vec![])), "none are to come");
    assert_eq!((scene.api.token("shop"), scene.api.token("team")), (None, None));
    assert!(scene.api.get(&secret_path("other")).is_some());
    assert_eq!(scene.keys(), []);
    scene.end().await;
}
