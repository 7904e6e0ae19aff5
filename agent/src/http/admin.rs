//! The second port: probes, metrics, and what the command line asks; and the third, with the probes and metrics alone.
//!
//! Both answer before the store is open: how far start-up is, is told by `/readyz` and by the refusal of everything else.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::extract::{FromRequestParts, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use prometheus_client::registry::Registry as Registered;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::cache::{Cache, ImageEntry, Platforms};
use crate::disk::Disk;
use crate::oci::Image;
use crate::readiness::Readiness;
use crate::store::{Checked, Store};

/// Reports that wait for a slow reader; the work waits with them.
const EVENTS_WAITING_MAX: usize = 16;

/// What the admin port needs.
#[derive(Debug, Clone)]
pub struct AdminState {
    pub probes: ProbeState,
    /// Made by start-up.
    pub parts: Arc<OnceLock<AdminParts>>,
}

/// What the handlers of commands need.
#[derive(Debug, Clone)]
pub struct AdminParts {
    pub cache: Cache,
    pub store: Store,
    pub disk: Disk,
    pub access: Access,
    pub tasks: TaskTracker,
}

/// The parts; without them, the answer that says what start-up waits for.
struct Ready(AdminParts);

impl FromRequestParts<AdminState> for Ready {
    type Rejection = Response;

    async fn from_request_parts(_: &mut Parts, state: &AdminState) -> Result<Self, Response> {
        let starting =
            || failure(StatusCode::SERVICE_UNAVAILABLE, &format!("the agent is starting, {}", waiting(&state.probes.readiness.pending())));
        state.parts.get().cloned().map(Self).ok_or_else(starting)
    }
}

/// The routes of the admin port.
pub fn admin(state: AdminState) -> Router {
    let AdminState { probes: probing, .. } = state.clone();
    Router::new()
        .route("/v1/images", get(images))
        .route("/v1/image", get(image))
        .route("/v1/pull", post(pull))
        .route("/v1/verify", post(verify))
        .route("/v1/gc", post(gc))
        .route("/v1/pin", post(pin))
        .route("/v1/unpin", post(unpin))
        .with_state(state)
        .merge(probes(probing))
}

/// What the handlers of probes and metrics need.
#[derive(Debug, Clone)]
pub struct ProbeState {
    pub readiness: Readiness,
    pub registered: Arc<Registered>,
}

/// The routes of the port that others than this node may reach: nothing there commands anything.
pub fn probes(state: ProbeState) -> Router {
    Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(readyz)).route("/metrics", get(metrics)).with_state(state)
}

async fn readyz(State(state): State<ProbeState>) -> Response {
    match state.readiness.pending() {
        pending if pending.is_empty() => "ok\n".into_response(),
        pending => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", waiting(&pending))).into_response(),
    }
}

fn waiting(pending: &[&str]) -> String {
    format!("waiting for: {}", pending.join(", "))
}

async fn metrics(State(state): State<ProbeState>) -> Response {
    let mut text = String::new();
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &state.registered) {
        return failure(StatusCode::INTERNAL_SERVER_ERROR, &format!("the metrics cannot be written: {error}"));
    }
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

/// An image, and whether somebody pinned it here.
#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    image: ImageEntry,
    pinned: bool,
}

async fn images(Ready(state): Ready) -> Response {
    let listed = |image: ImageEntry| Listed { pinned: image.reference.parse().is_ok_and(|name| state.disk.is_pinned(&name)), image };
    let images: Vec<Listed> = state.cache.images().await.into_iter().map(listed).collect();
    Json(json!({ "images": images })).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GcQuery {
    #[serde(default)]
    dry_run: bool,
}

async fn gc(Ready(state): Ready, Query(query): Query<GcQuery>) -> Response {
    Json(state.disk.collect(query.dry_run).await).into_response()
}

async fn pin(ready: Ready, query: Query<ImageQuery>) -> Response {
    set_pin(ready, query, true).await
}

async fn unpin(ready: Ready, query: Query<ImageQuery>) -> Response {
    set_pin(ready, query, false).await
}

async fn set_pin(Ready(state): Ready, Query(query): Query<ImageQuery>, pinned: bool) -> Response {
    let image = match query.image() {
        Ok(image) => image,
        Err(response) => return *response,
    };
    match state.disk.pin(&image, pinned).await {
        Ok(changed) => Json(json!({ "reference": image.to_string(), "pinned": pinned, "changed": changed })).into_response(),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, &crate::telemetry::chain(&error)),
    }
}

#[derive(Debug, Deserialize)]
struct ImageQuery {
    reference: String,
    platform: Option<String>,
    #[serde(default)]
    all: bool,
}

impl ImageQuery {
    /// The image, or the answer that says why there is none.
    fn image(&self) -> Result<Image, Box<Response>> {
        self.reference.parse().map_err(|error| {
            let message = format!("{:?} is no image reference: {error}", self.reference);
            Box::new(failure(StatusCode::BAD_REQUEST, &message))
        })
    }
}

async fn image(Ready(state): Ready, Query(query): Query<ImageQuery>) -> Response {
    let image = match query.image() {
        Ok(image) => image,
        Err(response) => return *response,
    };
    match state.cache.image(&image).await {
        Some(detail) => Json(detail).into_response(),
        None => failure(StatusCode::NOT_FOUND, &format!("{image} is not in the cache: kuik-agent pull {image} fetches it")),
    }
}

async fn pull(Ready(state): Ready, Query(query): Query<ImageQuery>) -> Response {
    let image = match query.image() {
        Ok(image) => image,
        Err(response) => return *response,
    };
    let platforms = match query.platform {
        Some(platform) if !query.all => Platforms::One(platform),
        _ => Platforms::All,
    };
    let (events, lines) = mpsc::channel(EVENTS_WAITING_MAX);
    let (cache, access) = (state.cache.clone(), state.access.clone());
    state.tasks.spawn(async move {
        cache.warm(&image, &platforms, events).await;
        access.learn(&image).await;
    });
    stream(lines)
}

/// What `kuik-agent verify` reports, a line each.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "camelCase")]
enum VerifyEvent {
    Progress { checked: u64, total: u64, bytes: u64 },
    Bad { digest: String, reason: String },
    Done { checked: u64, bytes: u64, quarantined: u64 },
}

async fn verify(Ready(state): Ready) -> Response {
    let (events, lines) = mpsc::channel(EVENTS_WAITING_MAX);
    let store = state.store.clone();
    state.tasks.spawn(async move {
        // Ends when the reader goes away: nobody would see the rest.
        let _ = verify_all(&store, &events).await;
    });
    stream(lines)
}

async fn verify_all(store: &Store, events: &mpsc::Sender<VerifyEvent>) -> Result<(), mpsc::error::SendError<VerifyEvent>> {
    store.settled().await;
    let digests = store.committed();
    let total = digests.len() as u64;
    let (mut checked, mut bytes, mut quarantined) = (0, 0, 0);
    for digest in digests {
        match store.verify(&digest).await {
            Ok(Checked::Good { bytes: size }) => bytes += size,
            Ok(Checked::Missing) => {}
            Ok(Checked::Bad { bytes: size }) => {
                bytes += size;
                quarantined += 1;
                let reason = "its content has another digest: quarantined, and fetched again when it is asked for".to_owned();
                events.send(VerifyEvent::Bad { digest: digest.to_string(), reason }).await?;
            }
            Err(error) => {
                let reason = crate::telemetry::chain(&error);
                events.send(VerifyEvent::Bad { digest: digest.to_string(), reason }).await?;
            }
        }
        checked += 1;
        events.send(VerifyEvent::Progress { checked, total, bytes }).await?;
    }
    events.send(VerifyEvent::Done { checked, bytes, quarantined }).await
}

/// One JSON document a line, as they come.
fn stream<T: Serialize + Send + 'static>(lines: mpsc::Receiver<T>) -> Response {
    let lines = futures_util::stream::unfold(lines, |mut lines| async move {
        let mut line = serde_json::to_vec(&lines.recv().await?).expect("a report must serialise: it holds only numbers and strings");
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), lines))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

fn failure(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Request};
    use http_body_util::BodyExt as _;
    use tower_service::Service as _;

    fn mk_probes() -> ProbeState {
        ProbeState { readiness: Readiness::default(), registered: Arc::new(Registered::with_prefix("kuik_agent")) }
    }

    async fn ask(mut router: Router, method: Method, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.call(request).await.unwrap();
        let status = response.status().as_u16();
        (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn it_is_ready_when_no_step_is_missing_and_names_those_that_are() {
        let state = mk_probes();
        let (store, listeners) = (state.readiness.latch("store"), state.readiness.latch("listeners"));
        let readyz = async || ask(probes(state.clone()), Method::GET, "/readyz").await;
        assert_eq!(readyz().await, (503, "waiting for: listeners, store\n".to_owned()));
        drop(store);
        assert_eq!(readyz().await, (503, "waiting for: listeners\n".to_owned()));
        drop(listeners);
        assert_eq!(readyz().await, (200, "ok\n".to_owned()));
    }

    #[tokio::test]
    async fn it_lives_and_is_scraped_while_it_is_not_ready() {
        let state = mk_probes();
        let _store = state.readiness.latch("store");
        assert_eq!(ask(probes(state.clone()), Method::GET, "/livez").await, (200, "ok\n".to_owned()));
        let (status, text) = ask(probes(state), Method::GET, "/metrics").await;
        assert_eq!((status, text.as_str()), (200, "# EOF\n"));
    }

    #[tokio::test]
    async fn commands_are_told_what_start_up_waits_for() {
        let state = AdminState { probes: mk_probes(), parts: Arc::default() };
        let _store = state.probes.readiness.latch("store");
        let commands = [(Method::GET, "/v1/images"), (Method::POST, "/v1/pull?reference=a"), (Method::POST, "/v1/gc?dryRun=true")];
        for (method, path) in commands {
            let told = ask(admin(state.clone()), method, path).await;
            assert_eq!(told, (503, r#"{"error":"the agent is starting, waiting for: store"}"#.to_owned()), "{path}");
        }
        assert_eq!(ask(admin(state), Method::GET, "/readyz").await.0, 503);
    }
}
