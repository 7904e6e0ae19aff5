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
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use tokio::time::Instant;

pub use admin::{AdminParts, AdminState, ProbeState, admin, probes};
pub use serve::{Limits, Server};

use crate::access::Access;
use crate::cache::{Asked, Cache};
use crate::metrics::Metrics;
use crate::oci::{Repository, Route, Router as RouteParser};
use crate::requester::Requester;
use error::Subject;
use observe::Outcome;

/// What the registry's handlers need.
#[derive(Debug, Clone)]
pub struct RegistryState {
    pub access: Access,
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
    let outcome = match route {
        Ok(Route::Base) => Outcome::new(base()),
        Ok(route) => answer(&state, &head, route).await.unwrap_or_else(|refused| refused),
        Err(error) => Outcome::new(error::of_route(&error)).because(error.to_string()),
    };
    let user_agent = head.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let request = observe::Request { kind, method: head.method, path: head.uri.path().to_owned(), user_agent, started };
    observe::observe(request, outcome, &state.metrics)
}

/// What a repository has to say, to those who may hear it.
async fn answer(state: &RegistryState, head: &http::request::Parts, route: Route) -> Result<Outcome, Outcome> {
    let RegistryState { cache, metrics, .. } = state;
    let (method, headers, path) = (&head.method, &head.headers, head.uri.path());
    Ok(match route {
        Route::Base => Outcome::new(base()),
        Route::Manifest { repository, target } => {
            let by = admit(state, head, &repository, Asked::Manifest(target.clone()), Subject::Manifest).await?;
            manifests::serve(cache, &by, method, headers, &repository, &target).await
        }
        Route::Blob { repository, digest } => {
            let by = admit(state, head, &repository, Asked::Blob(digest), Subject::Blob).await?;
            blobs::serve((cache, metrics), &by, method, headers, &repository, &digest).await
        }
        Route::Tags { repository, page } => {
            let by = admit(state, head, &repository, Asked::List, Subject::Tags).await?;
            lists::serve(Subject::Tags, method, path, ns(head), cache.tags(&by, &repository, &page).await)
        }
        Route::Referrers { repository, digest, artifact_type } => {
            let by = admit(state, head, &repository, Asked::List, Subject::Referrers).await?;
            let result = cache.referrers(&by, &repository, &digest, artifact_type.as_deref()).await;
            lists::serve(Subject::Referrers, method, path, ns(head), result)
        }
    })
}

/// By whom it is asked; nobody gets further without that.
async fn admit(
    state: &RegistryState,
    head: &http::request::Parts,
    repository: &Repository,
    asked: Asked,
    subject: Subject,
) -> Result<Requester, Outcome> {
    let shown = head.headers.get(AUTHORIZATION);
    let admitted = state.access.admit(shown, repository, &asked).await;
    admitted.map_err(|refusal| Outcome::new(error::of_refusal(&refusal, subject)).because(refusal.to_string()))
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
