//! An upstream made by hand: a correct registry on a random loopback port that misbehaves on command.

mod answer;
mod auth;
mod body;
mod content;
mod fault;
mod gate;
mod journal;
mod lists;
pub(crate) mod serve;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use bytes::Bytes;
use kuik_crd::Digest;
use rustls::ServerConfig;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use fault::{Fault, On};
pub(crate) use gate::Gate;
pub(crate) use journal::Seen;

use super::images::digest_of;
use auth::Auth;
use content::{Content, Stored};
use fault::Faults;
use journal::Journal;
use serve::{Port, Protocol};

/// What every connection shares.
#[derive(Debug)]
struct Inner {
    url: String,
    content: Mutex<Content>,
    auth: Arc<Auth>,
    faults: Faults,
    journal: Journal,
    /// Entries of a tag list at most; 0 for no limit.
    page_size: AtomicUsize,
    has_referrers: AtomicBool,
}

impl Inner {
    fn refuse(&self, seen: &Seen) -> Option<Response> {
        if seen.path.starts_with("/v2") { self.auth.refuse(seen, &self.url) } else { None }
    }

    fn page_size(&self) -> Option<usize> {
        Some(self.page_size.load(Ordering::SeqCst)).filter(|size| *size > 0)
    }

    fn has_referrers(&self) -> bool {
        self.has_referrers.load(Ordering::SeqCst)
    }
}

/// How an upstream is started.
#[derive(Debug)]
pub(crate) struct Builder {
    host: IpAddr,
    tls: Option<Arc<ServerConfig>>,
    auth: Arc<Auth>,
}

impl Builder {
    /// Listens on another address than 127.0.0.1: to credentials, another host.
    pub(crate) fn host(mut self, host: impl Into<IpAddr>) -> Self {
        self.host = host.into();
        self
    }

    /// Speaks TLS with this certificate; see `Ca::server_config`.
    pub(crate) fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Shares users, tokens and permissions with `other`.
    pub(crate) fn auth_of(mut self, other: &FakeRegistry) -> Self {
        self.auth = Arc::clone(&other.inner.auth);
        self
    }

    pub(crate) fn start(self) -> FakeRegistry {
        let port = Port::reserve(self.host).expect("a port of loopback must be free");
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let inner = Inner {
            url: format!("{scheme}://{}", port.address),
            content: Mutex::default(),
            auth: self.auth,
            faults: Faults::default(),
            journal: Journal::default(),
            page_size: AtomicUsize::new(0),
            has_referrers: AtomicBool::new(true),
        };
        let mut registry = FakeRegistry { inner: Arc::new(inner), port, protocol: Protocol { tls: self.tls }, server: None };
        registry.start_again();
        registry
    }
}

/// A fault in force, to be ended by the test.
#[derive(Debug)]
#[must_use = "a fault goes on until `end`; use `fault` where it is to last"]
pub(crate) struct InForce {
    inner: Arc<Inner>,
    id: u64,
}

impl InForce {
    pub(crate) fn end(self) {
        self.inner.faults.remove(self.id);
    }
}

/// The upstream. Dropping it closes everything.
#[derive(Debug)]
pub(crate) struct FakeRegistry {
    inner: Arc<Inner>,
    port: Port,
    protocol: Protocol,
    server: Option<(JoinHandle<()>, CancellationToken)>,
}

impl FakeRegistry {
    /// A plain, open upstream on 127.0.0.1.
    pub(crate) fn start() -> Self {
        Self::builder().start()
    }

    pub(crate) fn builder() -> Builder {
        Builder { host: IpAddr::V4(Ipv4Addr::LOCALHOST), tls: None, auth: Arc::default() }
    }

    /// Refuses connections and breaks those that are open, until [`Self::start_again`].
    pub(crate) async fn stop(&mut self) {
        if let Some((server, stop)) = self.server.take() {
            stop.cancel();
            server.await.expect("the upstream must not panic");
        }
    }

    /// Listens on the same port again.
    pub(crate) fn start_again(&mut self) {
        let listener = self.port.listen().expect("the reserved port must be free to listen on");
        let router = Router::new().fallback(answer::answer).with_state(Arc::clone(&self.inner));
        let stop = CancellationToken::new();
        let serving = serve::serve(listener, self.protocol.clone(), router, stop.clone());
        self.server = Some((super::background().spawn(serving), stop));
    }

    // Where it is.

    /// `host:port`, as references name it.
    pub(crate) fn host(&self) -> String {
        self.port.address.to_string()
    }

    pub(crate) fn url(&self) -> &str {
        &self.inner.url
    }

    /// Where this upstream serves a blob as a content delivery network would: to everybody who knows the URL.
    pub(crate) fn cdn_url(&self, digest: &Digest) -> String {
        format!("{}/cdn/{digest}?signature=abc%2Fdef", self.url())
    }

    /// A repository as clients of the agent ask for it.
    pub(crate) fn repository(&self, name: &str) -> LocalPath {
        let registry = match self.port.address.ip() {
            IpAddr::V4(host) => host.to_string(),
            IpAddr::V6(host) => format!("ip6-{:032x}", host.to_bits()),
        };
        LocalPath(format!("/v2/{registry}__{}/{name}", self.port.address.port()))
    }

    // What it holds.

    pub(crate) fn add_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = digest_of(&bytes);
        self.add_blob_as(repository, digest, bytes);
        digest
    }

    /// Adds a blob under a digest that the test computed: of another algorithm, or a wrong one.
    pub(crate) fn add_blob_as(&self, repository: &str, digest: Digest, bytes: impl Into<Bytes>) {
        self.inner.content.lock().unwrap().repository(repository).blobs.insert(digest, bytes.into());
    }

    /// Adds a manifest that only its digest names.
    pub(crate) fn add_manifest(&self, repository: &str, media_type: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let stored = Stored { digest: digest_of(&bytes), media_type: media_type.to_owned(), bytes };
        let digest = stored.digest;
        self.inner.content.lock().unwrap().repository(repository).manifests.insert(digest, stored);
        digest
    }

    /// Makes `tag` name `digest`.
    pub(crate) fn tag(&self, repository: &str, tag: &str, digest: Digest) {
        self.inner.content.lock().unwrap().repository(repository).tags.insert(tag.to_owned(), digest);
    }

    pub(crate) fn untag(&self, repository: &str, tag: &str) {
        self.inner.content.lock().unwrap().repository(repository).tags.remove(tag);
    }

    pub(crate) fn delete_repository(&self, repository: &str) {
        self.inner.content.lock().unwrap().repositories.remove(repository);
    }

    /// Pages of tag lists hold so many entries at most.
    pub(crate) fn set_page_size(&self, size: usize) {
        self.inner.page_size.store(size, Ordering::SeqCst);
    }

    /// Answers the referrers API with 404, as registries of distribution 1.0 do.
    pub(crate) fn disable_referrers(&self) {
        self.inner.has_referrers.store(false, Ordering::SeqCst);
    }

    // Who may read it.

    pub(crate) fn require_basic(&self) {
        self.inner.auth.require_basic();
    }

    pub(crate) fn require_bearer(&self) {
        self.inner.auth.require_bearer();
    }

    pub(crate) fn add_user(&self, user: &str, password: &str) {
        self.inner.auth.add_user(user, password);
    }

    pub(crate) fn make_private(&self, repository: &str, users: &[&str]) {
        self.inner.auth.make_private(repository, users);
    }

    pub(crate) fn set_token_lifetime(&self, lifetime: Duration) {
        self.inner.auth.set_lifetime(lifetime);
    }

    /// `token` or `access_token`.
    pub(crate) fn set_token_field(&self, field: &'static str) {
        self.inner.auth.set_token_field(field);
    }

    /// Sends those who need a token elsewhere for it.
    pub(crate) fn set_realm(&self, realm: String) {
        self.inner.auth.set_realm(realm);
    }

    pub(crate) fn revoke_tokens(&self) {
        self.inner.auth.revoke_tokens();
    }

    // How it misbehaves.

    /// Misbehaves so from now on.
    pub(crate) fn fault(&self, on: On, fault: Fault) {
        self.inner.faults.add(on, fault, None);
    }

    /// Misbehaves so until told to end it.
    pub(crate) fn fault_until_end(&self, on: On, fault: Fault) -> InForce {
        InForce { inner: Arc::clone(&self.inner), id: self.inner.faults.add(on, fault, None) }
    }

    /// Misbehaves so for the next `times` requests of this kind.
    pub(crate) fn fault_times(&self, times: usize, on: On, fault: Fault) {
        self.inner.faults.add(on, fault, Some(times));
    }

    pub(crate) fn behave(&self) {
        self.inner.faults.clear();
    }

    // What it saw.

    pub(crate) fn seen(&self, on: &On) -> Vec<Seen> {
        self.inner.journal.read().into_iter().filter(|seen| on.picks(seen)).collect()
    }

    pub(crate) fn count(&self, on: &On) -> usize {
        self.seen(on).len()
    }

    /// Bytes of bodies sent to these requests.
    pub(crate) fn sent_bytes(&self, on: &On) -> u64 {
        self.seen(on).iter().map(Seen::sent_bytes).sum()
    }

    pub(crate) fn forget(&self) {
        self.inner.journal.clear();
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        if let Some((_, stop)) = &self.server {
            stop.cancel();
        }
    }
}

/// A repository's path at the agent: `/v2/<registry>/<name>`.
#[derive(Debug, Clone)]
pub(crate) struct LocalPath(String);

impl LocalPath {
    /// A repository of a registry that only the agent's configuration knows.
    pub(crate) fn new(registry: &str, name: &str) -> Self {
        Self(format!("/v2/{registry}/{name}"))
    }

    pub(crate) fn manifest(&self, reference: impl std::fmt::Display) -> String {
        format!("{}/manifests/{reference}", self.0)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> String {
        format!("{}/blobs/{digest}", self.0)
    }

    pub(crate) fn tags(&self) -> String {
        format!("{}/tags/list", self.0)
    }

    pub(crate) fn referrers(&self, digest: &Digest) -> String {
        format!("{}/referrers/{digest}", self.0)
    }
}
