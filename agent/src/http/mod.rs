//! The registry's face: the only module that names axum.
//!
//! Two routers on two ports: [`registry()`] answers containerd, [`admin()`] answers probes, scrapers and the command line. `serve.rs` is
//! what stands between them and sockets.

mod admin;
mod blobs;
mod error;
mod headers;
mod lists;
mod manifests;
mod observe;
mod serve;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderValue;
use http::header::{CONTENT_TYPE, USER_AGENT};
use tokio::time::Instant;

pub use admin::{AdminParts, AdminState, ProbeState, admin, probes};
pub use serve::{Limits, Server};

use crate::cache::Cache;
use crate::metrics::Metrics;
use crate::oci::{Route, Router as RouteParser};
use error::Subject;
use observe::Outcome;

/// What the registry's handlers need.
#[derive(Debug, Clone)]
pub struct RegistryState {
    pub cache: Cache,
    pub metrics: Arc<Metrics>,
    pub routes: Arc<RouteParser>,
}

/// `/v2/` and everything below it, through one catch-all: axum takes a wildcard only at the end of a path, so `oci/route.rs` reads it.
pub fn registry(state: RegistryState) -> Router {
    Router::new().fallback(handle).with_state(state)
}

async fn handle(State(state): State<RegistryState>, request: Request) -> Response {
    let started = Instant::now();
    let (head, _) = request.into_parts();
    let route = state.routes.route(&head.method, head.uri.path(), head.uri.query());
    let kind = match &route {
        Ok(Route::Base) => "base",
        Ok(Route::Manifest { .. }) => "manifest",
        Ok(Route::Blob { .. }) => "blob",
        Ok(Route::Tags { .. }) => "tags",
        Ok(Route::Referrers { .. }) => "referrers",
        Err(_) => "malformed",
    };
    let cache = &state.cache;
    let outcome = match route {
        Ok(Route::Base) => Outcome::new(base()),
        Ok(Route::Manifest { repository, target }) => manifests::serve(cache, &head.method, &head.headers, &repository, &target).await,
        Ok(Route::Blob { repository, digest }) => {
            blobs::serve(cache, &state.metrics, &head.method, &head.headers, &repository, &digest).await
        }
        Ok(Route::Tags { repository, page }) => {
            let result = cache.tags(&repository, &page).await;
            lists::serve(Subject::Tags, &head.method, head.uri.path(), ns(&head), result)
        }
        Ok(Route::Referrers { repository, digest, artifact_type }) => {
            let result = cache.referrers(&repository, &digest, artifact_type.as_deref()).await;
            lists::serve(Subject::Referrers, &head.method, head.uri.path(), ns(&head), result)
        }
        Err(error) => Outcome::new(error::of_route(&error)).because(error.to_string()),
    };
    let user_agent = head.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let request = observe::Request { kind, method: head.method, path: head.uri.path().to_owned(), user_agent, started };
    observe::observe(request, outcome, &state.metrics)
}

fn base() -> Response {
    let mut response = Response::new(Body::from("{}"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(headers::API_VERSION, headers::API_VERSION_VALUE);
    response
}

fn ns(head: &http::request::Parts) -> Option<&str> {
    head.uri.query()?.split('&').find_map(|pair| pair.strip_prefix("ns="))
}
