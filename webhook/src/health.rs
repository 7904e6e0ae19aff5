//! The third port, for kubelet and Prometheus: probes and metrics by plain HTTP.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::Handle;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::readiness::Readiness;

/// A client must have sent its request after this, and the next one of a connection too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers here take no time: what is not sent after this is cut off.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct HealthState {
    /// What start-up still waits for.
    pub readiness: Readiness,
    /// The metrics of all parts.
    pub registry: Arc<Registry>,
}

/// The routes.
pub fn router(state: HealthState) -> Router {
    Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(readyz)).route("/metrics", get(metrics)).with_state(state)
}

/// Serves `router` until `stop`.
///
/// # Errors
/// When the server ends by itself.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let handle = Handle::<SocketAddr>::new();
    let mut server = axum_server::from_tcp(listener)?.http1_only().handle(handle.clone()).first_request_timeout(HEADER_TIMEOUT);
    server.http_builder().http1().header_read_timeout(HEADER_TIMEOUT);
    let serving = server.serve(router.into_make_service());
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = stop.cancelled() => handle.graceful_shutdown(Some(DRAIN_TIMEOUT)),
    }
    serving.await
}

async fn readyz(State(state): State<HealthState>) -> Response {
    match state.readiness.pending() {
        pending if pending.is_empty() => "ok\n".into_response(),
        pending => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", pending.join(", "))).into_response(),
    }
}

async fn metrics(State(state): State<HealthState>) -> Response {
    let mut text = String::new();
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &state.registry) {
        return (StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics cannot be written: {error}\n")).into_response();
    }
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}
