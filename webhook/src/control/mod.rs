//! The control API: what agents may ask, and what they tell. Every replica answers; those that do not lead pass each call on to the leader.
//!
//! A call, in order: `observe` counts it → `forward` sends it to the leader, if that is somebody else → `Caller` finds out which node speaks,
//! by its token (`tokens` remembers what `review` was told by the API server) → `limits` → `poll` waits for news, `report` takes some, or
//! `credentials` gives pull secrets.

mod bucket;
mod credentials;
mod forward;
mod limits;
mod metrics;
mod observe;
mod poll;
mod refusal;
mod report;
mod review;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use kuik_crd::control::{AGENTS_PATH, CREDENTIALS_PATH, DESIRED_PATH, REPORT_PATH};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::forward::{FORWARDED_HEADER, Forward};
use self::limits::Limits;
pub use self::metrics::Metrics;
use self::observe::Observer;
use self::poll::Rendered;
use self::refusal::Refusal;
use self::report::Intake;
pub use self::review::Reviewer;
use self::tokens::Tokens;
use crate::board::{Board, Leadership};
use crate::credentials::PullSecrets;

/// What the control API is made of.
#[derive(Debug)]
pub struct ControlParts {
    /// Says whose a token is.
    pub reviewer: Reviewer,
    /// Finds the pull secrets of namespaces.
    pub secrets: PullSecrets,
    /// The host that the leader's certificate must be for.
    pub host: String,
    /// Reports in, wishes out, and who leads.
    pub board: Board,
    /// The authority, in PEM, that the leader's certificate must be of.
    pub authority: watch::Receiver<Option<Bytes>>,
    /// The port that the leader's control API listens on: our own one.
    pub port: u16,
    /// What is counted.
    pub metrics: Metrics,
    /// Polls end when this is cancelled.
    pub stop: CancellationToken,
}

/// The state of the handlers. Cheap to clone.
#[derive(Clone)]
struct Control {
    board: Board,
    tokens: Arc<Tokens>,
    secrets: PullSecrets,
    limits: Arc<Limits>,
    intake: Arc<Intake>,
    forward: Arc<Forward>,
    rendered: Arc<Rendered>,
    metrics: Metrics,
    observer: Arc<Observer>,
    stop: CancellationToken,
}

/// The routes.
pub fn router(parts: ControlParts) -> Router {
    let ControlParts { reviewer, secrets, host, board, authority, port, metrics, stop } = parts;
    let control = Control {
        board,
        tokens: Arc::new(Tokens::new(reviewer, metrics.clone())),
        secrets,
        limits: Arc::new(Limits::new(metrics.polls.clone())),
        intake: Arc::default(),
        forward: Arc::new(Forward::new(host, port, authority)),
        rendered: Arc::default(),
        observer: Arc::new(Observer::new(metrics.clone())),
        metrics,
        stop,
    };
    Router::new()
        .route(AGENTS_PATH, get(poll::agents))
        .route(DESIRED_PATH, get(poll::desired))
        .route(REPORT_PATH, post(report::report))
        .route(CREDENTIALS_PATH, post(credentials::credentials))
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method: GET, or POST for reports and credentials")
        })
        .route_layer(middleware::from_fn_with_state(control.clone(), to_the_leader))
        .fallback(|| async {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("no such path: expected {AGENTS_PATH}, {DESIRED_PATH}, {REPORT_PATH} or {CREDENTIALS_PATH}"),
            )
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&control.observer), observe::observe))
        .with_state(control)
}

/// Answers here what we lead in; the rest is the leader's.
async fn to_the_leader(State(control): State<Control>, request: Request, next: Next) -> Response {
    let leadership = *control.board.leadership().borrow();
    match leadership {
        Leadership::Us => next.run(request).await,
        Leadership::Other(_) if request.headers().contains_key(FORWARDED_HEADER) => {
            Refusal::later("this replica does not lead (any more), and the one that sent the call here did not know that: ask again")
                .into_response()
        }
        Leadership::Other(leader) => control.pass_on(leader, request).await,
        Leadership::Unknown => Refusal::later("no replica leads that this one knows of: ask again").into_response(),
    }
}

/// The node that a call comes from, as its token says.
#[derive(Debug, Clone)]
struct Caller {
    node: Arc<str>,
}

impl FromRequestParts<Control> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, control: &Control) -> Result<Self, Refusal> {
        let node = control.tokens.node(bearer(&parts.headers)?).await?;
        Ok(Self { node })
    }
}

/// The token of the `Authorization` header.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match token.map(|(_, token)| token.trim()) {
        Some(token) if !token.is_empty() => Ok(token),
        _ => Err(Refusal::unauthorized("no bearer token: send that of the agent's service account, made for the audience kuik")),
    }
}
