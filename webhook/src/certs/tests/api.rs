//! A fake API server: objects by path, resource versions, and watches.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Answer = Response<axum::body::Body>;

#[derive(Debug, Clone)]
pub(super) struct FakeApi {
    inner: Arc<Mutex<Inner>>,
    events: broadcast::Sender<Value>,
}

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    objects: BTreeMap<String, Value>,
    writes: Vec<String>,
}

impl FakeApi {
    pub(super) fn new() -> Self {
        Self { inner: Arc::default(), events: broadcast::channel(100).0 }
    }

    pub(super) fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        Client::new(service, "default")
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.inner.lock().unwrap().objects.get(path).cloned()
    }

    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut inner = self.inner.lock().unwrap();
        inner.version += 1;
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        inner.objects.insert(path.to_owned(), object.clone());
        drop(inner);
        // Nobody need be watching.
        let _ = self.events.send(json!({ "type": "MODIFIED", "object": object }));
    }

    /// What was written since the last call.
    pub(super) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().unwrap().writes)
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default();
        if query.contains("watch=true") {
            return self.watch();
        }
        if parts.method == Method::GET {
            return match self.get(&path) {
                Some(object) => respond(StatusCode::OK, &object),
                None if query.contains("fieldSelector") || query.contains("labelSelector") => self.list(&path),
                None => failure(StatusCode::NOT_FOUND, "NotFound"),
            };
        }
        self.inner.lock().unwrap().writes.push(format!("{} {path}", parts.method));
        let body: Value = serde_json::from_slice(&body).unwrap();
        match parts.method {
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.get(&path).is_some() {
                    return failure(StatusCode::CONFLICT, "AlreadyExists");
                }
                self.store(&path, body)
            }
            Method::PUT => {
                let kept = self.get(&path).unwrap();
                if kept["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                self.store(&path, body)
            }
            Method::PATCH => {
                let mut object = self.get(&path).unwrap();
                let patch: json_patch::Patch = serde_json::from_value(body).unwrap();
                match json_patch::patch(&mut object, &patch) {
                    Ok(()) => self.store(&path, object),
                    Err(_) => failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
                }
            }
            other => panic!("{other} {path}"),
        }
    }

    fn store(&self, path: &str, object: Value) -> Answer {
        self.put(path, object);
        respond(StatusCode::OK, &self.get(path).unwrap())
    }

    fn list(&self, path: &str) -> Answer {
        let inner = self.inner.lock().unwrap();
        let items: Vec<_> = inner.objects.iter().filter(|(key, _)| key.starts_with(path)).map(|(_, object)| object).collect();
        let list =
            json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": inner.version.to_string() }, "items": items });
        respond(StatusCode::OK, &list)
    }

    fn watch(&self) -> Answer {
        let events = futures_util::stream::unfold(self.events.subscribe(), |mut events| async move {
            let event = events.recv().await.ok()?;
            Some((format!("{event}\n"), events))
        });
        Response::new(axum::body::Body::from_stream(events.map(|line| Ok::<_, Infallible>(Bytes::from(line)))))
    }
}

fn respond(status: StatusCode, value: &Value) -> Answer {
    Response::builder().status(status).body(value.to_string().into()).unwrap()
}

fn failure(status: StatusCode, reason: &str) -> Answer {
    let body =
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status.as_u16(), "message": reason });
    respond(status, &body)
}
