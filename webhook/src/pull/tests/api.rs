//! A fake API server that knows namespaces, Secrets, Events and who owns things.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

type Answer = Response<axum::body::Body>;

/// Nothing in these tests takes longer, on a clock that jumps to whatever is waited for.
const PATIENCE: Duration = Duration::from_secs(3600);

pub(super) const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/kube-image-keeper-webhook";
pub(super) const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/kube-image-keeper";
pub(super) const KEYS: &str = "/api/v1/namespaces/kuik-system/secrets/kube-image-keeper-pull-keys";

#[derive(Debug, Clone)]
pub(super) struct FakeApi {
    inner: Arc<Mutex<Inner>>,
    /// The list that an object belongs to, and what happened to it.
    events: broadcast::Sender<(&'static str, Value)>,
    /// Counts the requests that were answered.
    answered: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    objects: BTreeMap<String, Value>,
    /// `METHOD PATH` of each write that was asked for.
    writes: Vec<String>,
    /// Writes to paths that contain this are answered with this status.
    refused: Option<(String, u16)>,
}

pub(super) fn secret_path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets/kuik-pull")
}

impl FakeApi {
    /// One with our role, and these namespaces.
    pub(super) fn new(namespaces: &[&str]) -> Self {
        let this = Self { inner: Arc::default(), events: broadcast::channel(1000).0, answered: watch::channel(0).0 };
        this.put(ROLE, json!({"metadata": {"name": "kube-image-keeper-webhook", "uid": "role-uid"}}));
        namespaces.iter().for_each(|name| this.add_namespace(name));
        this
    }

    pub(super) fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move {
                let answer = this.answer(request).await;
                this.answered.send_modify(|count| *count += 1);
                Ok::<_, Infallible>(answer)
            }
        });
        Client::new(service, "default")
    }

    pub(super) fn add_namespace(&self, name: &str) {
        self.put(&format!("/api/v1/namespaces/{name}"), json!({"metadata": {"name": name}}));
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    /// The token in a namespace's Secret.
    pub(super) fn token(&self, namespace: &str) -> Option<String> {
        use base64::Engine as _;
        let secret = self.get(&secret_path(namespace))?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(secret["data"][".dockerconfigjson"].as_str()?).ok()?;
        let config: Value = serde_json::from_slice(&bytes).ok()?;
        Some(config["auths"]["localhost:7439"]["password"].as_str()?.to_owned())
    }

    pub(super) fn put(&self, path: &str, mut object: Value) -> Value {
        let mut inner = self.lock();
        inner.version += 1;
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        let kind = if inner.objects.insert(path.to_owned(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        drop(inner);
        self.tell(path, kind, &object);
        object
    }

    /// Deletes an object, if it is there.
    pub(super) fn remove(&self, path: &str) -> Option<Value> {
        let object = self.lock().objects.remove(path)?;
        self.tell(path, "DELETED", &object);
        Some(object)
    }

    /// How many Events there are in a namespace.
    pub(super) fn events_in(&self, namespace: &str) -> usize {
        let prefix = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events/");
        self.lock().objects.keys().filter(|path| path.starts_with(&prefix)).count()
    }

    /// From now on, writes to paths that contain `path` get `status`; nothing is refused with `None`.
    pub(super) fn refuse(&self, refused: Option<(&str, u16)>) {
        self.lock().refused = refused.map(|(path, status)| (path.to_owned(), status));
    }

    /// What was asked to be written since the last call.
    pub(super) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().writes)
    }

    /// Waits until something is so; it is looked at after each request.
    pub(super) async fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let mut answered = self.answered.subscribe();
        let so = tokio::time::timeout(PATIENCE, answered.wait_for(|_| is_so(self))).await;
        so.unwrap_or_else(|_| panic!("never: {what}; objects: {:?}", self.lock().objects.keys())).expect("the sender must live");
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn tell(&self, path: &str, kind: &str, object: &Value) {
        if let Some(list) = list_of(path) {
            // Nobody need be watching.
            let _ = self.events.send((list, json!({"type": kind, "object": object})));
        }
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default());
        if path == "/api/v1/secrets" {
            assert!(query.contains("fieldSelector=metadata.name%3Dkuik-pull"), "RBAC gives this list for one name only: {query}");
        }
        match (parts.method, list_name(&path)) {
            (Method::GET, Some(list)) if query.contains("watch=true") => self.watch(list),
            (Method::GET, Some(list)) => self.list(list),
            (Method::GET, None) => self.get(&path).map_or_else(|| failure(404), |object| respond(200, &object)),
            (method, _) => self.write(&method, &path, &body),
        }
    }

    fn write(&self, method: &Method, path: &str, body: &Bytes) -> Answer {
        let mut inner = self.lock();
        inner.writes.push(format!("{method} {path}"));
        if let Some((refused, status)) = &inner.refused
            && path.contains(refused.as_str())
        {
            return failure(*status);
        }
        drop(inner);
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        match *method {
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.get(&path).is_some() { failure(409) } else { respond(201, &self.put(&path, body)) }
            }
            Method::PUT => match self.get(path) {
                None => failure(404),
                Some(kept) if kept["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] => failure(409),
                Some(_) => respond(200, &self.put(path, body)),
            },
            Method::DELETE => match self.remove(path) {
                Some(object) => respond(200, &object),
                None => failure(404),
            },
            ref other => panic!("{other} {path}"),
        }
    }

    fn list(&self, list: &str) -> Answer {
        let inner = self.lock();
        let items: Vec<&Value> = inner.objects.iter().filter(|(path, _)| list_of(path) == Some(list)).map(|(_, object)| object).collect();
        let metadata = json!({"resourceVersion": inner.version.to_string()});
        respond(200, &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
    }

    fn watch(&self, list: &'static str) -> Answer {
        let events = futures_util::stream::unfold(self.events.subscribe(), move |mut events| async move {
            loop {
                let (of, event) = events.recv().await.ok()?;
                if of == list {
                    return Some((format!("{event}\n"), events));
                }
            }
        });
        Response::new(axum::body::Body::from_stream(events.map(|line| Ok::<_, Infallible>(Bytes::from(line)))))
    }
}

/// The list that is asked for, if a list is.
fn list_name(path: &str) -> Option<&'static str> {
    ["/api/v1/namespaces", "/api/v1/secrets"].into_iter().find(|list| *list == path)
}

/// The list that an object belongs to.
fn list_of(path: &str) -> Option<&'static str> {
    let parts: Vec<&str> = path.trim_start_matches("/api/v1/").split('/').collect();
    match parts[..] {
        ["namespaces", _] => Some("/api/v1/namespaces"),
        ["namespaces", _, "secrets", "kuik-pull"] => Some("/api/v1/secrets"),
        _ => None,
    }
}

fn respond(status: u16, value: &Value) -> Answer {
    Response::builder().status(status).body(value.to_string().into()).unwrap()
}

fn failure(status: u16) -> Answer {
    let reason = if status == 404 { "NotFound" } else { "Refused" };
    respond(status, &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status, "message": "no"}))
}
