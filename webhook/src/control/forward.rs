//! From a replica that does not lead to the one that does: the same call, with the caller's own token, over TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method};
use http_body_util::Limited;
use kuik_crd::control::LONG_POLL_SECONDS;
use reqwest::{Certificate, Client};
use tokio::sync::{Semaphore, watch};

use super::metrics::ResultLabels;
use super::refusal::Refusal;
use super::{Control, bearer};
use crate::board::Leadership;
use crate::telemetry;

/// Marks a call that was passed on once: it is not passed on again.
pub(super) const FORWARDED_HEADER: HeaderName = HeaderName::from_static("x-kuik-forwarded");

/// Calls that are passed on at one time.
const CALLS_MAX: usize = 20_000;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest that the leader may take: it holds a poll for a while.
const CALL_TIMEOUT: Duration = Duration::from_secs(LONG_POLL_SECONDS + 10);

/// The longest answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Connections to the leader that are kept although nothing goes over them.
const IDLE_MAX: usize = 64;

/// What of a call the leader needs, and what of its answer the caller.
const CALL_HEADERS: [HeaderName; 3] = [AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH];
const ANSWER_HEADERS: [HeaderName; 5] = [CACHE_CONTROL, CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE];

/// Why a call did not reach the leader.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("the authority that the leader's certificate should be of is not known yet")]
    NoAuthority,
    #[error("the authority that the leader's certificate should be of cannot be used")]
    Authority(#[source] reqwest::Error),
    #[error("the leader did not answer")]
    Call(#[source] reqwest::Error),
}

/// A client for one leader, and what it was made from.
#[derive(Debug, Clone)]
struct ToLeader {
    leader: IpAddr,
    authority: Bytes,
    client: Client,
}

/// The way to the leader.
#[derive(Debug)]
pub(super) struct Forward {
    host: String,
    port: u16,
    authority: watch::Receiver<Option<Bytes>>,
    /// Held for a look-up or a replacement, never across an await.
    client: Mutex<Option<ToLeader>>,
    slots: Semaphore,
}

impl Forward {
    /// Whoever leads presents a certificate for `host`, and listens on `port`.
    pub(super) fn new(host: String, port: u16, authority: watch::Receiver<Option<Bytes>>) -> Self {
        Self { host, port, authority, client: Mutex::default(), slots: Semaphore::new(CALLS_MAX) }
    }

    /// The client for this leader; a new one after each change of leader or authority.
    fn client(&self, leader: IpAddr) -> Result<Client, ForwardError> {
        let authority = self.authority.borrow().clone().ok_or(ForwardError::NoAuthority)?;
        let mut last = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(to) = last.as_ref().filter(|to| to.leader == leader && to.authority == authority) {
            return Ok(to.client.clone());
        }
        let certificates = Certificate::from_pem_bundle(&authority).map_err(ForwardError::Authority)?;
        let client = Client::builder()
            .tls_certs_only(certificates)
            .resolve(&self.host, SocketAddr::new(leader, self.port))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // Over one connection of HTTP/2, polls that wait would take the streams away from calls that do not.
            .http1_only()
            .pool_max_idle_per_host(IDLE_MAX)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .build()
            .map_err(ForwardError::Authority)?;
        *last = Some(ToLeader { leader, authority, client: client.clone() });
        Ok(client)
    }

    async fn call(&self, leader: IpAddr, request: http::Request<Bytes>) -> Result<Response, ForwardError> {
        let (parts, body) = request.into_parts();
        let url = format!("https://{}:{}{}", self.host, self.port, parts.uri.path());
        let mut call = self.client(leader)?.request(parts.method, url).body(body).header(FORWARDED_HEADER, HeaderValue::from_static("1"));
        for (name, value) in CALL_HEADERS.iter().filter_map(|name| Some((name, parts.headers.get(name)?))) {
            call = call.header(name, value);
        }
        let (head, body) = http::Response::from(call.send().await.map_err(ForwardError::Call)?).into_parts();
        let mut answer = Response::new(Body::new(Limited::new(body, ANSWER_BYTES_MAX)));
        *answer.status_mut() = head.status;
        for (name, value) in ANSWER_HEADERS.into_iter().filter_map(|name| Some((name.clone(), head.headers.get(name)?))) {
            answer.headers_mut().insert(name, value.clone());
        }
        Ok(answer)
    }
}

impl Control {
    /// The leader's answer; it is waited for as long as that replica leads.
    pub(super) async fn pass_on(&self, leader: IpAddr, request: Request) -> Response {
        let mut leadership = self.board.leadership();
        let waits = request.method() == Method::GET;
        let passed = tokio::select! {
            passed = self.try_pass_on(leader, request) => passed,
            // An error means that the board is gone, and the process about to end.
            _ = leadership.wait_for(|now| *now != Leadership::Other(leader)) => Err(("given_up", Refusal::later("the leader has changed: ask again"))),
            () = self.stop.cancelled(), if waits => Err(("given_up", Refusal::later("this replica ends: ask again"))),
        };
        let (result, response) = match passed {
            Ok(response) => ("answered", response),
            Err((result, refusal)) => (result, refusal.into_response()),
        };
        self.metrics.forwarded.get_or_create(&ResultLabels { result }).inc();
        response
    }

    async fn try_pass_on(&self, leader: IpAddr, request: Request) -> Result<Response, (&'static str, Refusal)> {
        let failed = |refusal| ("failed", refusal);
        // The leader looks at the token. Who has none need not wait for that.
        bearer(request.headers()).map_err(failed)?;
        let _slot = self
            .forward
            .slots
            .try_acquire()
            .map_err(|_| failed(Refusal::later("too many calls are on their way to the leader: ask again")))?;
        let (parts, body) = request.into_parts();
        let (body, _room) = if parts.method == Method::POST {
            let (body, room) = self.intake.read(&parts.headers, body).await.map_err(failed)?;
            (body, Some(room))
        } else {
            (Bytes::new(), None)
        };
        self.forward.call(leader, http::Request::from_parts(parts, body)).await.map_err(|error| {
            failed(Refusal::later(format!(
                "the call could not be passed on to the leader {leader}: {}: ask again",
                telemetry::chain(&error)
            )))
        })
    }
}
