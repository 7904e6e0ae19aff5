//! Bearer tokens: fetched once for all who wait, kept until shortly before they expire.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::header::HeaderValue;
use http::{HeaderMap, Method};
use moka::sync::Cache;
use reqwest::Url;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use tokio::time::Instant;
use tracing::{Instrument as _, debug};

use super::body::{Body, Meter, excerpt};
use super::challenge::Bearer;
use super::client::{Courier, Outgoing, origin};
use super::credentials::{Credential, CredentialId, Secret};
use super::endpoints::EndpointId;
use super::error::{Place, UpstreamError};
use super::limits;

/// Where the answer does not say: the token specification's default.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(60);
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// A token is not used in the last tenth of its life, and at most so long before its end.
const MARGIN_MAX: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 1 << 20;
const TOKENS_MAX: u64 = 1024;
const CLIENT_ID: &str = "kuik-agent";

/// Which token is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) endpoint: EndpointId,
    pub(super) bearer: Arc<Bearer>,
    pub(super) scope: String,
    pub(super) credential: CredentialId,
}

/// A token, ready to be sent.
pub(super) struct Token {
    pub(super) header: HeaderValue,
    usable_until: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("usable_until", &self.usable_until).finish_non_exhaustive()
    }
}

/// A token that was asked for.
#[derive(Debug)]
pub(super) struct Had {
    pub(super) token: Arc<Token>,
    /// It was not fetched for this request.
    pub(super) cached: bool,
}

/// Everything that fetching a token takes; it outlives the request that started it.
#[derive(Debug, Clone)]
pub(super) struct TokenRequest {
    pub(super) key: TokenKey,
    pub(super) credential: Credential,
    pub(super) courier: Courier,
    pub(super) plain_http: bool,
    pub(super) stall_timeout: Duration,
    pub(super) at: Place,
    pub(super) meter: Meter,
}

type Flight = Shared<BoxFuture<'static, Result<Arc<Token>, UpstreamError>>>;

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    Fetching(Flight),
    Kept(Arc<Token>),
}

/// The tokens that we have and those under way.
#[derive(Debug)]
pub(super) struct Tokens {
    slots: Cache<TokenKey, Arc<Mutex<Slot>>>,
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self { slots: Cache::new(TOKENS_MAX) }
    }

    /// The token of `request.key`, from memory or from the token service.
    ///
    /// # Cancel safety
    /// The fetch is a task of its own: it goes on for the others when one who waits goes away.
    pub(super) async fn get(&self, request: TokenRequest) -> Result<Had, UpstreamError> {
        let slot = self.slots.get_with_by_ref(&request.key, Arc::default);
        let flight = {
            let mut guard = slot.lock().unwrap_or_else(PoisonError::into_inner);
            match &*guard {
                Slot::Kept(token) if token.usable_until > Instant::now() => return Ok(Had { token: Arc::clone(token), cached: true }),
                // A flight that landed and is still here has crashed.
                Slot::Fetching(flight) if flight.peek().is_none() => flight.clone(),
                Slot::Fetching(_) | Slot::Kept(_) | Slot::Empty => {
                    let flight = depart(request, Arc::clone(&slot));
                    *guard = Slot::Fetching(flight.clone());
                    flight
                }
            }
        };
        flight.await.map(|token| Had { token, cached: false })
    }

    /// The registry did not take `token`: it is forgotten, unless a newer one has taken its place.
    pub(super) fn reject(&self, key: &TokenKey, token: &Arc<Token>) {
        if let Some(slot) = self.slots.get(key) {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(&*slot, Slot::Kept(kept) if Arc::ptr_eq(kept, token)) {
                *slot = Slot::Empty;
            }
        }
    }
}

/// Starts the task that fetches a token and puts it into `slot`.
fn depart(request: TokenRequest, slot: Arc<Mutex<Slot>>) -> Flight {
    let at = request.at.clone();
    let fetch = async move {
        let result = fetch(&request).await.map(Arc::new);
        let next = result.as_ref().map_or(Slot::Empty, |token| Slot::Kept(Arc::clone(token)));
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = next;
        result
    };
    // Bounded by the time-outs of the client and of the body.
    let task = tokio::spawn(fetch.in_current_span());
    let landed = async move {
        task.await.unwrap_or_else(|error| Err(UpstreamError::Broken { at, detail: format!("the token request ended early: {error}") }))
    };
    landed.boxed().shared()
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Value>,
}

async fn fetch(request: &TokenRequest) -> Result<Token, UpstreamError> {
    let realm = &request.key.bearer.realm;
    let at = request.at.via(&origin(realm));
    if realm.scheme() != "https" && !request.plain_http {
        return Err(UpstreamError::Protocol { at, detail: "a registry with https names a token service without".to_owned() });
    }
    let asked_at = Instant::now();
    let outgoing = outgoing(request);
    let incoming = request.courier.send(outgoing, &at).await?;
    let status = incoming.status();
    debug!(%at, status = status.as_u16(), ms = asked_at.elapsed().as_millis(), "asked for a token");
    if status.as_u16() == 429 {
        return Err(UpstreamError::TooManyRequests { at, retry_after: limits::retry_after(incoming.response.headers()) });
    }
    if !status.is_success() {
        let (status, detail) = (status.as_u16(), excerpt(incoming).await);
        // The oauth2 form of the token service refuses with 400.
        let refused = matches!(status, 400 | 401 | 403);
        return Err(if refused { UpstreamError::Denied { at, status, detail } } else { UpstreamError::Status { at, status, detail } });
    }
    let body = Body::new(incoming.response.into_body(), request.stall_timeout, at.clone(), request.meter.clone(), None);
    let bytes = body.collect(ANSWER_BYTES_MAX).await?;
    // The parser's own text may quote the token.
    let wrong = |detail: &str| UpstreamError::Protocol { at: at.clone(), detail: detail.to_owned() };
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| wrong("the token service's answer is not the JSON expected"))?;
    let lifetime = lifetime(answer.expires_in.as_ref());
    let filled = |token: Option<String>| token.filter(|token| !token.is_empty());
    let token = filled(answer.token).or(filled(answer.access_token)).ok_or_else(|| wrong("the token service's answer holds no token"))?;
    let mut header: HeaderValue = format!("Bearer {token}").parse().map_err(|_| wrong("the token cannot be sent in a header"))?;
    header.set_sensitive(true);
    Ok(Token { header, usable_until: asked_at + lifetime - (lifetime / 10).min(MARGIN_MAX) })
}

fn lifetime(expires_in: Option<&serde_json::Value>) -> Duration {
    match expires_in.and_then(serde_json::Value::as_f64) {
        Some(seconds) if seconds >= 0.0 => Duration::try_from_secs_f64(seconds).unwrap_or(LIFETIME_MAX).min(LIFETIME_MAX),
        _ => LIFETIME_DEFAULT,
    }
}

fn outgoing(request: &TokenRequest) -> Outgoing {
    let TokenKey { bearer, scope, .. } = &request.key;
    let mut url = bearer.realm.clone();
    let service = bearer.service.as_deref();
    let mut outgoing = match request.credential.secret() {
        Secret::Identity(token) => {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token.expose_secret());
            form.append_pair("client_id", CLIENT_ID).append_pair("service", service.unwrap_or_default()).append_pair("scope", scope);
            return Outgoing { form: Some(form.finish().into()), ..plain(Method::POST, url, request.plain_http) };
        }
        Secret::Anonymous | Secret::Basic { .. } => {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(service.map(|service| ("service", service)));
            query.extend_pairs(scope.split(' ').filter(|one| !one.is_empty()).map(|one| ("scope", one)));
            drop(query);
            plain(Method::GET, url, request.plain_http)
        }
    };
    outgoing.authorization = basic_header(&request.credential);
    outgoing
}

fn plain(method: Method, url: Url, plain_http: bool) -> Outgoing {
    Outgoing { method, url, headers: HeaderMap::new(), authorization: None, form: None, plain_http }
}

/// `Basic` with this credential, if it is a user and a password.
pub(super) fn basic_header(credential: &Credential) -> Option<HeaderValue> {
    let Secret::Basic { user, password } = credential.secret() else {
        return None;
    };
    let encoded = STANDARD.encode(format!("{user}:{}", password.expose_secret()));
    let mut header = HeaderValue::from_str(&format!("Basic {encoded}")).expect("base64 must fit a header");
    header.set_sensitive(true);
    Some(header)
}
