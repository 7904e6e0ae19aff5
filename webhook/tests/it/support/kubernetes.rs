//! A Kubernetes API that knows some tokens and some pods, in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

/// The namespace of the release.
pub(crate) const NAMESPACE: &str = "kuik-system";

/// The user of the agents' service account.
pub(crate) const AGENT: &str = "system:serviceaccount:kuik-system:kube-image-keeper-agent";

/// The fake. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    /// Requests wait while this is closed.
    open: watch::Sender<bool>,
    /// Requests that are waiting at the gate, or have passed it and have no answer yet.
    inside: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    reviews: BTreeMap<String, Value>,
    pods: BTreeMap<String, Value>,
    /// Of other namespaces, by their paths.
    objects: BTreeMap<String, Value>,
    fault: Option<Fault>,
    asked: Vec<String>,
}

/// How the API fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no connection.
    Down,
    /// It answers with this status.
    Status(u16),
}

/// A pod that a token is bound to.
pub(crate) struct BoundTo<'a> {
    pub(crate) pod: &'a str,
    pub(crate) uid: &'a str,
    /// Set as Kubernetes 1.30 does.
    pub(crate) node: Option<&'a str>,
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), open: watch::channel(true).0, inside: watch::channel(0).0 }
    }

    /// Knows `token` as that of the agent on `node`.
    pub(crate) fn agent(&self, token: &str, node: &str) {
        self.token(token, AGENT, &["kuik"], Some(&BoundTo { pod: "agent", uid: "1", node: Some(node) }));
    }

    /// Knows `token`.
    pub(crate) fn token(&self, token: &str, user: &str, audiences: &[&str], bound: Option<&BoundTo<'_>>) {
        let mut extra = json!({});
        if let Some(BoundTo { pod, uid, node }) = bound {
            extra["authentication.kubernetes.io/pod-name"] = json!([pod]);
            extra["authentication.kubernetes.io/pod-uid"] = json!([uid]);
            if let Some(node) = node {
                extra["authentication.kubernetes.io/node-name"] = json!([node]);
            }
        }
        let status = json!({ "authenticated": true, "audiences": audiences, "user": { "username": user, "extra": extra } });
        self.state().reviews.insert(token.to_owned(), status);
    }

    /// Knows `token` no more.
    pub(crate) fn revoke(&self, token: &str) {
        self.state().reviews.remove(token);
    }

    /// Has a pod in the release's namespace.
    pub(crate) fn pod(&self, name: &str, uid: &str, node: Option<&str>) {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": NAMESPACE, "uid": uid },
            "spec": { "nodeName": node, "containers": [] },
        });
        self.state().pods.insert(name.to_owned(), pod);
    }

    /// Has an object, or a list, of the namespace `team`.
    pub(crate) fn object(&self, path: &str, object: Value) {
        self.state().objects.insert(format!("/api/v1/namespaces/team/{path}"), object);
    }

    pub(crate) fn fail(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// What it was asked: `review TOKEN`, `pod NAME`, and paths of the namespace `team`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    /// Lets no request pass until [`FakeApi::open`].
    pub(crate) fn close(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until so many requests have arrived and have no answer yet.
    pub(crate) async fn inside(&self, count: usize) {
        self.inside.subscribe().wait_for(|inside| *inside == count).await.unwrap();
    }

    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        Client::new(tower::service_fn(move |request| api.clone().answer(request)), NAMESPACE)
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, io::Error> {
        let inside = Inside::enter(&self.inside);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let (status, answer) = match (parts.method, parts.uri.path()) {
            (Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews") => self.review(&serde_json::from_slice(&body).unwrap()),
            (Method::GET, path) if path.starts_with("/api/v1/namespaces/kuik-system/pods/") => self.look_up(path),
            (Method::GET, path) if path.starts_with("/api/v1/namespaces/team/") => self.other(path),
            (method, path) => panic!("nobody should ask for {method} {path}"),
        };
        drop(inside);
        match self.state().fault {
            Some(Fault::Down) => return Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Fault::Status(code)) => return Ok(response(StatusCode::from_u16(code).unwrap(), &failure(code))),
            None => {}
        }
        Ok(response(status, &answer))
    }

    fn review(&self, review: &Value) -> (StatusCode, Value) {
        assert_eq!(review["spec"]["audiences"], json!(["kuik"]));
        let token = review["spec"]["token"].as_str().unwrap();
        let mut state = self.state();
        state.asked.push(format!("review {token}"));
        let unknown = json!({ "authenticated": false, "error": "[invalid bearer token]" });
        let status = state.reviews.get(token).cloned().unwrap_or(unknown);
        (
            StatusCode::CREATED,
            json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status }),
        )
    }

    fn look_up(&self, path: &str) -> (StatusCode, Value) {
        let name = path.rsplit('/').next().unwrap();
        let mut state = self.state();
        state.asked.push(format!("pod {name}"));
        state.pods.get(name).map_or_else(|| (StatusCode::NOT_FOUND, failure(404)), |pod| (StatusCode::OK, pod.clone()))
    }

    fn other(&self, path: &str) -> (StatusCode, Value) {
        let mut state = self.state();
        state.asked.push(path.trim_start_matches("/api/v1/namespaces/").to_owned());
        state.objects.get(path).map_or_else(|| (StatusCode::NOT_FOUND, failure(404)), |object| (StatusCode::OK, object.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// Counts a request until it is answered or given up.
struct Inside<'a>(&'a watch::Sender<usize>);

impl<'a> Inside<'a> {
    fn enter(inside: &'a watch::Sender<usize>) -> Self {
        inside.send_modify(|count| *count += 1);
        Self(inside)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

fn failure(code: u16) -> Value {
    let reason = if code == 404 { "NotFound" } else { "AsTold" };
    json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "as told", "reason": reason, "code": code })
}

fn response(status: StatusCode, body: &Value) -> Response<Body> {
    Response::builder().status(status).header("content-type", "application/json").body(Body::from(body.to_string().into_bytes())).unwrap()
}
