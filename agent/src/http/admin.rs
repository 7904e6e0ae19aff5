//! The second port: probes, metrics, and what the command line asks; and the third, with the probes and metrics alone.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus_client::registry::Registry as Registered;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::cache::{Cache, ImageEntry, Platforms};
use crate::disk::Disk;
use crate::oci::Image;
use crate::readiness::Readiness;
use crate::store::{Checked, Store};

/// Reports that wait for a slow reader; the work waits with them.
const EVENTS_WAITING_MAX: usize = 16;

/// What the admin handlers need.
#[derive(Debug, Clone)]
pub struct AdminState {
    pub cache: Cache,
    pub store: Store,
    pub disk: Disk,
    pub probes: ProbeState,
    pub tasks: TaskTracker,
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
        pending => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", pending.join(", "))).into_response(),
    }
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

async fn images(State(state): State<AdminState>) -> Response {
    let listed = |image: ImageEntry| Listed { pinned: state.disk.is_pinned(&image.reference), image };
    let images: Vec<Listed> = state.cache.images().await.into_iter().map(listed).collect();
    Json(json!({ "images": images })).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GcQuery {
    #[serde(default)]
    dry_run: bool,
}

async fn gc(State(state): State<AdminState>, Query(query): Query<GcQuery>) -> Response {
    Json(state.disk.collect(query.dry_run).await).into_response()
}

async fn pin(state: State<AdminState>, query: Query<ImageQuery>) -> Response {
    set_pin(state, query, true).await
}

async fn unpin(state: State<AdminState>, query: Query<ImageQuery>) -> Response {
    set_pin(state, query, false).await
}

async fn set_pin(State(state): State<AdminState>, Query(query): Query<ImageQuery>, pinned: bool) -> Response {
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

async fn image(State(state): State<AdminState>, Query(query): Query<ImageQuery>) -> Response {
    let image = match query.image() {
        Ok(image) => image,
        Err(response) => return *response,
    };
    match state.cache.image(&image).await {
        Some(detail) => Json(detail).into_response(),
        None => failure(StatusCode::NOT_FOUND, &format!("{image} is not in the cache: kuik-agent pull {image} fetches it")),
    }
}

async fn pull(State(state): State<AdminState>, Query(query): Query<ImageQuery>) -> Response {
    let image = match query.image() {
        Ok(image) => image,
        Err(response) => return *response,
    };
    let platforms = match query.platform {
        Some(platform) if !query.all => Platforms::One(platform),
        _ => Platforms::All,
    };
    let (events, lines) = mpsc::channel(EVENTS_WAITING_MAX);
    let cache = state.cache.clone();
    state.tasks.spawn(async move { cache.warm(&image, &platforms, events).await });
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

async fn verify(State(state): State<AdminState>) -> Response {
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
