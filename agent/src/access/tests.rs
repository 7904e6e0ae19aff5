//! Rights between a registry on loopback, a control API made of a closure, and a store that outlives both.

mod claims;
mod evidence;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use kuik_crd::credentials::Login;
use kuik_crd::pull_token::PullSigner;
use serde_json::json;
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::*;
use crate::config::{Config, OnUpstreamDown};
use crate::oci::{Digest, Tag, Target};
use crate::upstream::Upstream;
use crate::upstream::tests::support::{Reply, Seen, Server, digest, mk_plain, repo};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &[u8] = b"a layer";

fn manifest() -> Vec<u8> {
    let layer = json!({ "mediaType": "x/layer", "digest": digest(LAYER).to_string(), "size": LAYER.len() });
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer] }).to_string().into_bytes()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Who gets in at the registry: everybody, who shows `user:right`, or nobody; 1 for each, 503 for a registry that is broken.
#[derive(Default)]
struct Door {
    /// 0 open, 1 hangs, 401 only who shows the right password, 404 hides, 503 is broken.
    status: AtomicU16,
}

fn answer(door: &Door, seen: &Seen) -> Reply {
    let status = door.status.load(Ordering::SeqCst);
    if status == 1 {
        return Reply::never();
    }
    let may = status == 0 || status == 401 && seen.authorization() == basic("user", "right");
    if !may {
        let reply = Reply::status(status).header("content-length", "0");
        return if status == 401 { reply.header("www-authenticate", "Basic realm=\"r\"") } else { reply };
    }
    if seen.path.ends_with("/tags/list") {
        return Reply::ok("{\"name\":\"app\",\"tags\":[\"1\"]}");
    }
    if seen.path.contains("/blobs/") {
        return Reply::ok(LAYER);
    }
    if seen.path.ends_with("/none") {
        return Reply::status(404).header("content-length", "0");
    }
    let body = manifest();
    let digest = digest(&body).to_string();
    Reply::ok(body).header("content-type", MANIFEST).header("docker-content-digest", &digest)
}

/// What each namespace has to show; a namespace that is not named is one the control API says nothing about.
#[derive(Debug, Default)]
struct Purse {
    secrets: Mutex<HashMap<String, Vec<(&'static str, &'static str)>>>,
    /// Some of them could not be looked at.
    incomplete: AtomicBool,
    /// None are for this node.
    refuses: AtomicBool,
    asked: Mutex<Vec<String>>,
}

impl Wallet for Purse {
    fn fetch(&self, namespace: Arc<str>, _: Repository) -> BoxFuture<'_, Result<Secrets, NoSecrets>> {
        self.asked.lock().unwrap().push(namespace.to_string());
        let known = self.secrets.lock().unwrap().get(&*namespace).cloned();
        Box::pin(async move {
            if self.refuses.load(Ordering::SeqCst) {
                return Err(NoSecrets::Refused("no pod here".to_owned()));
            }
            let passwords = known.ok_or_else(|| NoSecrets::Away("the control API is away".to_owned()))?;
            let logins =
                passwords.iter().map(|(_, password)| Login::Password { user: "user".to_owned(), password: (*password).into() }).collect();
            let shown = passwords.iter().map(|(name, _)| format!("Secret {name}")).collect();
            let tried = passwords.iter().map(|(name, _)| (*name).to_owned()).collect();
            let incomplete = self.incomplete.load(Ordering::SeqCst);
            Ok(Secrets {
                logins,
                shown,
                tried,
                incomplete,
                problems: incomplete.then(|| "the helper failed".to_owned()).into_iter().collect(),
            })
        })
    }
}

struct Scene {
    dir: TempDir,
    store: Store,
    server: Server,
    door: Arc<Door>,
    purse: Arc<Purse>,
    signer: PullSigner,
    cache: Cache,
    access: Access,
    app: Repository,
    tasks: TaskTracker,
    auth: AuthConfig,
}

impl Scene {
    async fn new(status: u16, ttl: Duration) -> Self {
        Self::with(status, AuthConfig { mode: AuthMode::Namespace, proof_ttl: ttl, ..AuthConfig::default() }).await
    }

    /// Closed, with every proof due at once, and no way to go by the last.
    async fn denying() -> Self {
        let auth = AuthConfig {
            mode: AuthMode::Namespace,
            proof_ttl: Duration::ZERO,
            on_upstream_down: OnUpstreamDown::Deny,
            ..AuthConfig::default()
        };
        Self::with(401, auth).await
    }

    async fn with(status: u16, auth: AuthConfig) -> Self {
        let door = Arc::new(Door { status: AtomicU16::new(status) });
        let server = Server::http({
            let door = Arc::clone(&door);
            move |seen| answer(&door, seen)
        })
        .await;
        let purse = Arc::new(Purse::default());
        purse.secrets.lock().unwrap().insert("team".to_owned(), vec![("old", "wrong"), ("regcred", "right")]);
        purse.secrets.lock().unwrap().insert("other".to_owned(), vec![("theirs", "wrong")]);
        purse.secrets.lock().unwrap().insert("bare".to_owned(), vec![]);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.settle().await.unwrap();
        let signer = PullSigner::read(&PullSigner::generate().unwrap()).unwrap();
        let app = repo(&server.registry, "app");
        let tasks = TaskTracker::new();
        let (cache, access) = open(&server, &store, &auth, &purse, &signer, &tasks).await;
        Self { dir, store, server, door, purse, signer, cache, access, app, tasks, auth }
    }

    /// The agent started again.
    async fn restarted(self) -> Self {
        self.restarted_after(|_| ()).await
    }

    /// The agent started again, and what is done to its data directory while there is none.
    async fn restarted_after(self, meanwhile: impl FnOnce(&std::path::Path)) -> Self {
        self.access.flush(&self.store).await;
        self.tasks.close();
        self.tasks.wait().await;
        let Self { dir, store, server, door, purse, signer, cache, access, app, auth, .. } = self;
        drop((store, cache, access));
        meanwhile(dir.path());
        let store = Store::open(dir.path()).unwrap();
        store.settle().await.unwrap();
        let tasks = TaskTracker::new();
        let (cache, access) = open(&server, &store, &auth, &purse, &signer, &tasks).await;
        Self { dir, store, server, door, purse, signer, cache, access, app, tasks, auth }
    }

    /// A cache and rights of another configuration, over what is stored here.
    async fn beside(&self, config: &Config) -> (Cache, Access) {
        self.access.flush(&self.store).await;
        open_with(config, &self.store, &self.purse, &self.signer, &self.tasks).await
    }

    fn set_door(&self, status: u16) {
        self.door.status.store(status, Ordering::SeqCst);
    }

    fn token(&self, namespace: &str) -> HeaderValue {
        basic(namespace, &self.signer.sign(namespace, now_seconds() + 60)).parse().unwrap()
    }

    async fn admit(&self, namespace: Option<&str>, asked: &Asked) -> Result<Requester, Refusal> {
        let token = namespace.map(|namespace| self.token(namespace));
        self.access.admit(token.as_ref(), &self.app, asked).await
    }

    /// Pulls the image as a namespace.
    async fn pull(&self, namespace: Option<&str>) -> Result<(), Refusal> {
        let by = self.admit(namespace, &tag("1")).await?;
        self.cache.manifest(&by, &self.app, &Target::Tag("1".parse().unwrap())).await.unwrap();
        let by = self.admit(namespace, &Asked::Blob(digest(LAYER))).await?;
        drop(self.cache.blob(&by, &self.app, &digest(LAYER)).await.unwrap());
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
        Ok(())
    }
}

async fn open(
    server: &Server,
    store: &Store,
    auth: &AuthConfig,
    purse: &Arc<Purse>,
    signer: &PullSigner,
    tasks: &TaskTracker,
) -> (Cache, Access) {
    let mut config = Config { upstream: mk_plain(server), auth: auth.clone(), ..Config::default() };
    config.upstream.stall_timeout = Duration::from_secs(30);
    config.tags.revalidate_timeout = Duration::from_secs(30);
    open_with(&config, store, purse, signer, tasks).await
}

async fn open_with(config: &Config, store: &Store, purse: &Arc<Purse>, signer: &PullSigner, tasks: &TaskTracker) -> (Cache, Access) {
    let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
    let upstream = Upstream::new(config.upstream.clone(), Arc::new(())).unwrap();
    let cache = Cache::new(config, store.clone(), upstream, Arc::clone(&metrics), tasks);
    let access = Access::new(config.auth.clone(), store, &cache, &metrics).await;
    access.join(Arc::clone(purse) as _);
    access.set_keys(&[signer.key().clone()]);
    (cache, access)
}

fn tag(name: &str) -> Asked {
    Asked::Manifest(Target::Tag(name.parse::<Tag>().unwrap()))
}

const HOUR: Duration = Duration::from_secs(3600);

fn namespace(name: &str) -> Requester {
    Requester::Namespace(name.into())
}

#[tokio::test]
async fn what_upstream_gives_to_everybody_costs_no_request_more() {
    let scene = Scene::new(0, HOUR).await;
    scene.pull(None).await.unwrap();
    // The manifest and the layer.
    assert_eq!(scene.server.count(), 2, "{:?}", scene.server.seen());
    assert_eq!(scene.admit(None, &tag("1")).await.unwrap(), Requester::Anyone);
    assert_eq!(scene.admit(Some("other"), &tag("1")).await.unwrap(), Requester::Anyone);
    assert_eq!(scene.server.count(), 2);
    assert!(scene.server.seen().iter().all(|seen| seen.authorization().is_empty()));
    assert!(scene.purse.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_private_image_goes_to_the_namespace_that_may_and_to_no_other() {
    let scene = Scene::new(401, HOUR).await;
    assert!(matches!(scene.pull(None).await, Err(Refusal::Unauthorized { reason: "anonymous", .. })));
    scene.pull(Some("team")).await.unwrap();
    let asked = scene.server.count();
    assert_eq!(scene.admit(Some("team"), &tag("1")).await.unwrap(), namespace("team"));
    assert_eq!(scene.server.count(), asked, "it has proven its right a moment ago");
    // It is cached here, and nobody else gets any of it.
    for asked in [tag("1"), Asked::Manifest(Target::Digest(digest(&manifest()))), Asked::Blob(digest(LAYER)), Asked::List] {
        assert!(matches!(scene.admit(None, &asked).await, Err(Refusal::Unauthorized { .. })), "{asked:?}");
        assert!(matches!(scene.admit(Some("other"), &asked).await, Err(Refusal::Denied { reason: "denied", .. })), "{asked:?}");
        assert!(matches!(scene.admit(Some("bare"), &asked).await, Err(Refusal::Denied { reason: "no_secret", .. })), "{asked:?}");
        assert!(matches!(scene.admit(Some("unknown"), &asked).await, Err(Refusal::Denied { reason: "no_credentials", .. })), "{asked:?}");
    }
    assert_eq!(scene.access.proven(&scene.app), ["team"]);
}

#[tokio::test]
async fn a_refusal_says_who_what_which_secrets_and_what_upstream_said() {
    let scene = Scene::new(401, HOUR).await;
    let message = scene.pull(Some("other")).await.unwrap_err().to_string();
    for part in ["the namespace other", "/app", "Secret theirs", "401"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(!message.contains("wrong"), "a password: {message}");
    let refused = scene.access.refusals().waiting();
    assert_eq!((refused.len(), refused[0].namespace.as_str(), refused[0].reason.as_str()), (1, "other", "denied"));
    assert_eq!(refused[0].image, format!("{}:1", scene.app));
}

#[tokio::test]
async fn a_token_that_is_not_good_is_told_why_and_public_images_do_without() {
    let scene = Scene::new(401, HOUR).await;
    let foreign = PullSigner::read(&PullSigner::generate().unwrap()).unwrap();
    let late = basic("team", &scene.signer.sign("team", now_seconds() - 5));
    let stolen = basic("other", &scene.signer.sign("team", now_seconds() + 60));
    let shown = [(basic("team", &foreign.sign("team", now_seconds() + 60)), "does not know"), (late, "expired"), (stolen, "not one for")];
    for (shown, why) in &shown {
        let refusal = scene.access.admit(Some(&shown.parse().unwrap()), &scene.app, &tag("1")).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Unauthorized { reason: "token", .. }) && refusal.to_string().contains(why), "{refusal}");
    }
    let scene = Scene::new(0, HOUR).await;
    for (shown, _) in &shown {
        assert_eq!(scene.access.admit(Some(&shown.parse().unwrap()), &scene.app, &tag("1")).await.unwrap(), Requester::Anyone);
    }
}

#[tokio::test]
async fn a_proof_is_asked_for_once_for_all_who_wait() {
    let scene = Scene::new(401, HOUR).await;
    scene.pull(Some("team")).await.unwrap();
    scene.access.inner.rights.disprove(&scene.app, "team");
    let before = scene.server.count();
    let one = tag("1");
    let all: Vec<_> = (0..20).map(|_| scene.admit(Some("team"), &one)).collect();
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
    // A HEAD, with the password that worked.
    assert_eq!(scene.server.count() - before, 1, "{:?}", &scene.server.seen()[before..]);
}

#[tokio::test]
async fn an_old_proof_is_renewed_or_lost_and_outlives_an_upstream_that_is_away() {
    let scene = Scene::new(401, Duration::ZERO).await;
    scene.pull(Some("team")).await.unwrap();
    scene.set_door(503);
    assert_eq!(scene.admit(Some("team"), &tag("1")).await.unwrap(), namespace("team"), "upstream is broken");
    assert!(matches!(scene.admit(Some("other"), &tag("1")).await, Err(Refusal::Unproven { .. })));
    scene.set_door(404);
    assert_eq!(scene.admit(Some("team"), &tag("1")).await.unwrap(), namespace("team"), "upstream has lost it");
    let scene = scene.restarted().await;
    assert_eq!(scene.admit(Some("team"), &tag("1")).await.unwrap(), namespace("team"), "after a restart");
    scene.set_door(401);
    scene.purse.secrets.lock().unwrap().insert("team".to_owned(), vec![("regcred", "revoked")]);
    let scene = scene.restarted().await;
    assert!(matches!(scene.admit(Some("team"), &tag("1")).await, Err(Refusal::Denied { reason: "denied", .. })));
    scene.set_door(503);
    assert!(matches!(scene.admit(Some("team"), &tag("1")).await, Err(Refusal::Unproven { .. })), "the proof is gone");
}

#[tokio::test]
async fn with_the_control_api_away_the_last_proof_counts() {
    let scene = Scene::new(401, Duration::ZERO).await;
    scene.pull(Some("team")).await.unwrap();
    scene.purse.secrets.lock().unwrap().clear();
    let scene = scene.restarted().await;
    assert_eq!(scene.admit(Some("team"), &tag("1")).await.unwrap(), namespace("team"));
    assert!(matches!(scene.admit(Some("bare"), &tag("1")).await, Err(Refusal::Denied { reason: "no_credentials", .. })));
}

#[tokio::test]
async fn what_came_while_a_repository_was_open_stays_open_to_every_namespace() {
    let scene = Scene::new(0, Duration::ZERO).await;
    scene.pull(None).await.unwrap();
    scene.set_door(401);
    for asked in [tag("1"), Asked::Manifest(Target::Digest(digest(&manifest()))), Asked::Blob(digest(LAYER))] {
        // As who shows nothing: the agent's own credentials would fetch what came later.
        assert_eq!(scene.admit(Some("bare"), &asked).await.unwrap(), Requester::Nobody, "{asked:?}");
        assert_eq!(
            scene.admit(Some("team"), &asked).await.unwrap(),
            namespace("team"),
            "who has a right gets what came later, too: {asked:?}"
        );
        assert!(
            matches!(scene.admit(None, &asked).await, Err(Refusal::Unauthorized { .. })),
            "a challenge, to tell the two apart: {asked:?}"
        );
    }
    for asked in [tag("2"), Asked::Manifest(Target::Digest(Digest::Sha256([7; 32]))), Asked::Blob(Digest::Sha256([7; 32])), Asked::List] {
        assert!(matches!(scene.admit(Some("bare"), &asked).await, Err(Refusal::Denied { .. })), "{asked:?}");
    }
    let scene = scene.restarted().await;
    assert_eq!(scene.admit(Some("bare"), &tag("1")).await.unwrap(), Requester::Nobody, "after a restart");
    scene.set_door(503);
    assert_eq!(scene.admit(Some("bare"), &tag("1")).await.unwrap(), Requester::Nobody, "in an outage");
}

#[tokio::test]
async fn what_came_after_a_repository_was_closed_is_not_open() {
    let scene = Scene::new(401, HOUR).await;
    scene.pull(Some("team")).await.unwrap();
    scene.access.inner.rights.set_openness(&scene.app, rights::Openness::Closed { since: now_seconds() - 100, at: now_seconds() });
    assert!(matches!(scene.admit(Some("bare"), &tag("1")).await, Err(Refusal::Denied { .. })));
    assert!(matches!(scene.admit(Some("bare"), &Asked::Blob(digest(LAYER))).await, Err(Refusal::Denied { .. })));
}

#[tokio::test]
async fn a_tag_that_is_gone_closes_no_repository() {
    let scene = Scene::new(0, Duration::ZERO).await;
    scene.pull(None).await.unwrap();
    assert_eq!(scene.admit(None, &tag("none")).await.unwrap(), Requester::Anyone);
    assert!(matches!(scene.access.inner.rights.openness(&scene.app), rights::Openness::Open { .. }));
}

#[tokio::test]
async fn without_rights_everybody_gets_everything() {
    let scene = Scene::with(401, AuthConfig::default()).await;
    assert_eq!(scene.admit(None, &tag("1")).await.unwrap(), Requester::Anyone);
    assert_eq!(scene.server.count(), 0);
}
