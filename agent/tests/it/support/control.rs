//! A control API made by hand: TLS, tokens, long polls, and reports that add up to what the node holds; it fails on command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Given;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, Method, StatusCode, Uri};
use kuik_crd::control::{
    AGENTS_PATH, Agents, CREDENTIALS_PATH, CredentialsRequest, DESIRED_PATH, Desired, Finding, Held, REPORT_PATH, Refused, Report,
    ReportAnswer,
};
use rustls::ServerConfig;
use serde::Serialize;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::agent::Builder;
use super::pki::Ca;
use super::registry::serve::{Port, Protocol, serve};
use super::wait::until_some;

/// The name that its certificate bears. Nothing resolves it.
pub(crate) const NAME: &str = "control.kuik.test";

/// How long a poll is held here, unless a test says otherwise; the real one holds it longer.
const HOLD: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) desired: Desired,
    pub(crate) agents: Agents,
    /// The only token that is taken.
    pub(crate) token: String,
    /// What every call is answered with instead.
    pub(crate) refuse: Option<u16>,
    pub(crate) want_full: bool,
    /// The reports that were taken, and when.
    pub(crate) reports: Vec<(tokio::time::Instant, Report)>,
    /// What the node holds: the sum of its reports.
    pub(crate) held: BTreeMap<String, Held>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) refusals: Vec<Refused>,
    /// User and password of each namespace; others have no pod on the node.
    pub(crate) secrets: BTreeMap<String, (String, String)>,
    /// What was asked for with `POST /v1/credentials`.
    pub(crate) asked: Vec<CredentialsRequest>,
    /// What was asked: method, path and how it was answered.
    pub(crate) calls: Vec<(String, u16)>,
    /// How long a poll is held.
    pub(crate) hold: Duration,
    /// Polls that are held at the moment.
    pub(crate) holding: usize,
    boot: String,
    sequence: u64,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

/// A running control API.
#[derive(Debug)]
pub(crate) struct FakeControl {
    inner: Arc<Inner>,
    port: Port,
    pub(crate) dir: TempDir,
    tls: Arc<ServerConfig>,
    server: Option<(CancellationToken, JoinHandle<()>)>,
}

impl FakeControl {
    /// One with an authority of its own, which agents find in [`Self::ca_file`], and a token in [`Self::token_file`].
    pub(crate) fn start() -> Self {
        let ca = Ca::new();
        let control = Self::start_with(&ca);
        control.publish(&ca);
        control
    }

    /// One whose authority nobody knows yet.
    pub(crate) fn start_with(ca: &Ca) -> Self {
        let inner = Inner { state: Mutex::new(State { hold: HOLD, ..State::default() }), version: watch::Sender::new(1) };
        let mut control = Self {
            inner: Arc::new(inner),
            port: Port::reserve([127, 0, 0, 1].into()).expect("a port of loopback must be free"),
            dir: tempfile::tempdir().unwrap(),
            tls: ca.server_config(&[NAME], true),
            server: None,
        };
        control.give_token("first");
        control.start_again();
        control
    }

    pub(crate) fn start_again(&mut self) {
        assert!(self.server.is_none(), "it runs");
        let listener = self.port.listen().expect("the port must be free");
        let stop = CancellationToken::new();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&self.inner));
        let serving = serve(listener, Protocol { tls: Some(Arc::clone(&self.tls)) }, router, stop.clone());
        self.server = Some((stop, super::background().spawn(serving)));
    }

    pub(crate) async fn stop(&mut self) {
        let (stop, server) = self.server.take().expect("it must run");
        stop.cancel();
        server.await.unwrap();
        self.state().holding = 0;
    }

    /// From now on it presents a certificate of another authority.
    pub(crate) async fn rotate(&mut self, ca: &Ca) {
        self.stop().await;
        self.tls = ca.server_config(&[NAME], true);
        self.start_again();
    }

    /// Lets the agent trust this authority and no other.
    pub(crate) fn publish(&self, ca: &Ca) {
        let pem = ca.write(&self.dir.path().join("made"));
        std::fs::rename(pem, self.ca_file()).unwrap();
    }

    /// From now on only this token is taken, and the agent has it.
    pub(crate) fn give_token(&self, token: &str) {
        std::fs::create_dir_all(self.dir.path().join("made")).unwrap();
        let made = self.dir.path().join("made/token");
        std::fs::write(&made, format!("{token}\n")).unwrap();
        self.state().token = token.to_owned();
        std::fs::rename(made, self.token_file()).unwrap();
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.address.port()
    }

    /// The flags of an agent that works with it.
    pub(crate) fn flags(&self) -> Vec<String> {
        let address = self.port.address.to_string();
        let flags = [("--control-url", format!("https://{NAME}:9443")), ("--control-address", address)];
        let path = |path: &Path| path.display().to_string();
        let files = [("--control-ca", path(&self.ca_file())), ("--control-token", path(&self.token_file()))];
        flags.into_iter().chain(files).flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    pub(crate) fn agent(&self, builder: Builder) -> Builder {
        let flags = self.flags();
        builder.args(flags.iter().map(String::as_str))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap()
    }

    /// Changes what it says; held polls are answered.
    pub(crate) fn say(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.inner.version.send_modify(|version| *version += 1);
    }

    pub(crate) fn desire(&self, change: impl FnOnce(&mut Desired)) {
        self.say(|state| change(&mut state.desired));
    }

    /// Waits until `probe` finds something in its state.
    pub(crate) async fn until<T>(&self, what: &str, mut probe: impl FnMut(&mut State) -> Option<T>) -> T {
        until_some(what, async || probe(&mut self.state())).await
    }

    /// Waits until the node holds an image as a whole.
    pub(crate) async fn until_complete(&self, image: &str) -> Held {
        self.until("an image is reported as complete", |state| state.held.get(image).filter(|held| held.complete).cloned()).await
    }

    /// Waits until a report says of an image whether it failed.
    pub(crate) async fn until_found(&self, image: &str, failed: bool) -> Finding {
        let found = |state: &mut State| {
            let fits = |finding: &&Finding| finding.image == image && finding.error.is_some() == failed;
            state.findings.iter().rev().find(fits).cloned()
        };
        self.until("a finding is reported", found).await
    }
}

async fn answer(Given(inner): Given<Arc<Inner>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let call = format!("{method} {}", uri.path());
    let response = respond(&inner, &method, uri.path(), &headers, &body).await;
    inner.state.lock().unwrap().calls.push((call, response.status().as_u16()));
    response
}

async fn respond(inner: &Inner, method: &Method, path: &str, headers: &HeaderMap, body: &Bytes) -> Response {
    let refused = {
        let state = inner.state.lock().unwrap();
        let expected = format!("Bearer {}", state.token);
        let known = headers.get("authorization").is_some_and(|value| value == expected.as_str());
        state.refuse.or((!known).then_some(401))
    };
    if let Some(status) = refused {
        return (StatusCode::from_u16(status).unwrap(), "as the test wants").into_response();
    }
    match (method.as_str(), path) {
        ("GET", DESIRED_PATH) => poll(inner, headers, |state| json(&state.desired)).await,
        ("GET", AGENTS_PATH) => poll(inner, headers, |state| json(&state.agents)).await,
        ("POST", CREDENTIALS_PATH) => give(&mut inner.state.lock().unwrap(), serde_json::from_slice(body).unwrap()),
        ("POST", REPORT_PATH) => take(&mut inner.state.lock().unwrap(), &serde_json::from_slice(body).unwrap()),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn give(state: &mut State, asked: CredentialsRequest) -> Response {
    let secret = state.secrets.get(&asked.namespace).cloned();
    state.asked.push(asked);
    let Some((user, password)) = secret else {
        return (StatusCode::FORBIDDEN, "no pod of that namespace is on your node").into_response();
    };
    let given = serde_json::json!({ "from": "Secret regcred", "username": user, "password": password });
    json(&serde_json::json!({ "credentials": [given], "tried": ["regcred"], "problems": [] })).into_response()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

async fn poll(inner: &Inner, headers: &HeaderMap, say: impl Fn(&State) -> String) -> Response {
    let known = headers.get("if-none-match").map(|value| value.to_str().unwrap().to_owned());
    let mut version = inner.version.subscribe();
    let deadline = tokio::time::Instant::now() + inner.state.lock().unwrap().hold;
    loop {
        version.borrow_and_update();
        let body = say(&inner.state.lock().unwrap());
        let etag = format!("\"{}\"", super::images::digest_of(body.as_bytes()));
        if known.as_ref() != Some(&etag) {
            return ([("etag", etag), ("content-type", "application/json".to_owned())], body).into_response();
        }
        inner.state.lock().unwrap().holding += 1;
        let changed = tokio::time::timeout_at(deadline, version.changed()).await;
        let mut state = inner.state.lock().unwrap();
        state.holding = state.holding.saturating_sub(1);
        if changed.is_err() {
            return StatusCode::NOT_MODIFIED.into_response();
        }
    }
}

fn take(state: &mut State, report: &Report) -> Response {
    let follows = report.boot == state.boot && report.sequence > state.sequence;
    let next = report.boot == state.boot && report.sequence == state.sequence + 1;
    assert!(report.full || follows || report.boot != state.boot, "{} after {}", report.sequence, state.sequence);
    let full_wanted = std::mem::take(&mut state.want_full) || !report.full && !next;
    if report.full {
        state.held.clear();
    }
    if report.full || next {
        for image in &report.removed {
            assert!(state.held.remove(image).is_some(), "{image} was removed and never reported");
        }
        state.held.extend(report.images.iter().map(|held| (held.image.clone(), held.clone())));
    }
    (state.boot, state.sequence) = (report.boot.clone(), report.sequence);
    state.findings.extend(report.findings.clone());
    state.refusals.extend(report.refusals.clone());
    state.reports.push((tokio::time::Instant::now(), report.clone()));
    axum::Json(ReportAnswer { full_wanted }).into_response()
}
