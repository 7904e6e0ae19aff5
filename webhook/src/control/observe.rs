//! One set of counters for each call, a line in the log for those that were refused, and one at `debug` for the others.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::StatusCode;
use kuik_crd::control::{AGENTS_PATH, CREDENTIALS_PATH, DESIRED_PATH, REPORT_PATH};
use tokio::time::Instant;

use super::metrics::{CallLabels, Metrics};
use super::refusal::Refused;

/// Of the calls refused within this time one is logged, with the number of the others.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Counts and logs.
#[derive(Debug)]
pub(super) struct Observer {
    metrics: Metrics,
    /// When a refusal was last logged, and how many were not since. Held for an update, never across an await.
    lines: Mutex<(Option<Instant>, u64)>,
}

impl Observer {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, lines: Mutex::default() }
    }

    /// Whether a line may be written now: then how many were not before.
    fn line(&self, now: Instant) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, untold) = &mut *lines;
        if last.is_some_and(|last| now < last + LINE_EVERY) {
            *untold += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(untold))
    }
}

/// The middleware around everything.
pub(super) async fn observe(State(observer): State<Arc<Observer>>, request: Request, next: Next) -> Response {
    let call = call(request.uri().path());
    let started = Instant::now();
    let response = next.run(request).await;
    let status = response.status();
    observer.metrics.requests.get_or_create(&CallLabels { call, status: class(status) }).inc();
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match response.extensions().get::<Refused>() {
        None => tracing::debug!(call, status = status.as_u16(), duration_ms, "call"),
        Some(Refused { message, node }) => {
            if let Some(untold) = observer.line(Instant::now()) {
                let (status, node, reason) = (status.as_u16(), node.as_deref(), message.as_ref());
                // Whoever may come back later is no news for an operator.
                if matches!(status, 429 | 503) {
                    tracing::info!(call, status, duration_ms, node, reason, untold, "call refused");
                } else {
                    tracing::warn!(call, status, duration_ms, node, reason, untold, "call refused");
                }
            }
        }
    }
    response
}

/// Paths are a closed list in metrics.
fn call(path: &str) -> &'static str {
    match path {
        AGENTS_PATH => "agents",
        DESIRED_PATH => "desired",
        REPORT_PATH => "report",
        CREDENTIALS_PATH => "credentials",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_refusals_is_a_line_a_second_with_the_number_of_the_others() {
        let observer = Observer::new(Metrics::default());
        assert_eq!(observer.line(Instant::now()), Some(0));
        for _ in 0..100 {
            assert_eq!(observer.line(Instant::now()), None);
        }
        tokio::time::advance(LINE_EVERY).await;
        assert_eq!(observer.line(Instant::now()), Some(100));
        assert_eq!(observer.line(Instant::now()), None);
    }
}
