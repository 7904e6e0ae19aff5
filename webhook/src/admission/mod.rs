//! Rewriting the images of pods: a pure function, and the HTTP around it.
//!
//! ```text
//!  HTTP ──▶ review ──Pod, old──▶ mutate ◀── rules        (pure from review on)
//!    ▲                              │
//!    └── AdmissionReview ◀── patch, warnings
//! ```
//!
//! Nothing here keeps a pod from starting. What is no review gets an HTTP error, which the API server ignores by the configuration's
//! `failurePolicy`; a failure of our own admits the pod as it is, with a warning.

mod metrics;
mod mutate;
mod review;
mod rules;
#[cfg(test)]
mod tests;

pub use metrics::Metrics;
pub use mutate::{Change, Outcome, Skip, mutate};
pub use review::Malformed;
pub use rules::Rules;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use metrics::Ended;
use review::{Reviewed, review};

/// Where the API server sends reviews, as kuik v1 had it.
pub const PATH: &str = "/mutate-core-v1-pod";

/// The largest review. The API server takes objects of 3 MiB at most, and a review may hold two.
const REVIEW_BYTES_MAX: usize = 8 << 20;

/// All reviews together that are being read or answered.
const REVIEWS_BYTES_MAX: usize = 64 << 20;

/// What the smallest review counts for.
const REVIEW_BYTES_MIN: usize = 32 << 10;

/// Before the API server gives up, which it does after the configuration's 5 s.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(4);

/// The most images that one log line names.
const LOGGED_IMAGES_MAX: usize = 10;

#[derive(Debug)]
struct Admission {
    rules: Arc<Rules>,
    metrics: Metrics,
    /// In units of [`REVIEW_BYTES_MIN`].
    budget: Semaphore,
}

/// The routes of the admission server.
pub fn router(rules: Arc<Rules>, metrics: &Metrics) -> Router {
    let budget = Semaphore::new(REVIEWS_BYTES_MAX / REVIEW_BYTES_MIN);
    let state = Arc::new(Admission { rules, metrics: metrics.clone(), budget });
    let wrong_method = || async { failure(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is sent by POST") };
    let wrong_path = || async { failure(StatusCode::NOT_FOUND, &format!("reviews are answered at {PATH}")) };
    Router::new().route(PATH, post(answer).fallback(wrong_method)).fallback(wrong_path).with_state(state)
}

async fn answer(State(state): State<Arc<Admission>>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let answered = tokio::time::timeout(REVIEW_TIMEOUT, state.answer(&parts.headers, body)).await;
    let (ended, response) = answered.unwrap_or_else(|_| {
        tracing::warn!(seconds = REVIEW_TIMEOUT.as_secs(), "a review was not answered in time");
        (Ended::Overloaded, failure(StatusCode::SERVICE_UNAVAILABLE, "the review did not arrive in time, or had to wait too long"))
    });
    state.metrics.ended(ended, started.elapsed());
    response
}

impl Admission {
    async fn answer(&self, headers: &HeaderMap, body: Body) -> (Ended, Response) {
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let bytes = announced.unwrap_or(REVIEW_BYTES_MAX);
        if bytes > REVIEW_BYTES_MAX {
            return too_large();
        }
        let units = u32::try_from(bytes.div_ceil(REVIEW_BYTES_MIN).max(1)).expect("a bounded number must fit");
        let _permit = self.budget.acquire_many(units).await.expect("the semaphore must stay open: nothing closes it");
        match Limited::new(body, bytes).collect().await {
            Ok(body) => self.review(&body.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => too_large(),
            Err(error) => malformed(&format!("the request's body broke off: {error}")),
        }
    }

    fn review(&self, body: &Bytes) -> (Ended, Response) {
        match review(body, |pod, old| mutate(pod, old, &self.rules)) {
            Ok(reviewed) => (self.note(&reviewed), Json(reviewed.answer).into_response()),
            Err(error) => malformed(&chain(&error)),
        }
    }

    /// Logs and counts what came out.
    fn note(&self, reviewed: &Reviewed) -> Ended {
        let Reviewed { namespace, pod, outcome, .. } = reviewed;
        let Some(outcome) = outcome else {
            tracing::error!(namespace, pod, "rewriting panicked: the pod {namespace}/{pod} was admitted as it is");
            return Ended::Failed;
        };
        self.metrics.outcome(outcome);
        for warning in &outcome.warnings {
            tracing::warn!(namespace, pod, "{warning}");
        }
        if outcome.patch.0.is_empty() {
            return Ended::Unpatched;
        }
        let images: Vec<&str> = outcome.changes.iter().take(LOGGED_IMAGES_MAX).map(|change| change.from.as_str()).collect();
        let count = outcome.changes.len();
        tracing::info!(namespace, pod, count, images = images.join(" "), "rewrote {count} images of pod {namespace}/{pod}");
        Ended::Patched
    }
}

fn too_large() -> (Ended, Response) {
    let message = format!("the review has more than {REVIEW_BYTES_MAX} bytes");
    tracing::warn!("{message}");
    (Ended::Malformed, failure(StatusCode::PAYLOAD_TOO_LARGE, &message))
}

fn malformed(message: &str) -> (Ended, Response) {
    tracing::warn!("a request was refused: {message}");
    (Ended::Malformed, failure(StatusCode::BAD_REQUEST, message))
}

/// An error in the form that the API server understands and logs.
fn failure(status: StatusCode, message: &str) -> Response {
    let reason = match status {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
        StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
        _ => "ServiceUnavailable",
    };
    let message = format!("kube-image-keeper: {message}");
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status.as_u16(),
    });
    (status, Json(body)).into_response()
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
