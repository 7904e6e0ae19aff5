//! Asking the control API: TLS with its own authorities only, the token of the moment, bounds on everything that comes back.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, RETRY_AFTER};
use http::{Method, StatusCode};
use kuik_crd::control::{CREDENTIALS_PATH, CredentialsRequest, LONG_POLL_SECONDS, REPORT_PATH, ReportAnswer};
use kuik_crd::credentials::CredentialsAnswer;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Response, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::SecretSlice;
use serde::de::DeserializeOwned;

use crate::config::{ControlConfig, HostPort};
use crate::telemetry;

const USER_AGENT: &str = concat!("kuik-agent/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A request may take so long, the holding of a long poll included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(LONG_POLL_SECONDS + 15);

/// A connection on which nothing happens is tried so often, and given up after as long without an answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// So much of a refusal is read and logged.
const REFUSAL_BYTES_MAX: usize = 300;

/// The longest that the server can send us away for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Why the control API was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error("{} is not there yet", path.display())]
    NoAuthorities { path: PathBuf },
    #[error("{}: {detail}", path.display())]
    Authorities { path: PathBuf, detail: String },
    #[error("{}: the token cannot be read", path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: what it holds is no token", path.display())]
    NoToken { path: PathBuf },
    #[error("the control API cannot be reached, or does not answer")]
    Unreachable(#[source] reqwest::Error),
    #[error("the control API answered {status}: {message}")]
    Refused { status: StatusCode, message: String, retry_after: Option<Duration> },
    #[error("the control API's answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the control API's answer is not understood")]
    Foreign(#[source] serde_json::Error),
    #[error("the control API's answer about pull secrets is not understood")]
    Unclear,
}

impl ControlError {
    /// A short word for metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NoAuthorities { .. } | Self::Authorities { .. } => "no_ca",
            Self::Token { .. } | Self::NoToken { .. } => "no_token",
            Self::Unreachable(_) => "unreachable",
            Self::Refused { status, .. } if status.as_u16() == 401 || status.as_u16() == 403 => "denied",
            Self::Refused { status, .. } if status.as_u16() == 429 => "rate_limited",
            Self::Refused { .. } => "refused",
            Self::TooLarge | Self::Foreign(_) | Self::Unclear => "foreign",
        }
    }

    /// This node is not to have it.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.as_u16() == 403)
    }

    /// The server certainly did not do what it was asked to do.
    pub(super) fn is_refusal(&self) -> bool {
        !matches!(self, Self::Unreachable(_) | Self::TooLarge | Self::Foreign(_) | Self::Unclear)
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// An answer to a poll.
#[derive(Debug)]
pub(super) enum Polled<T> {
    /// This is how it is now.
    Changed { value: T, etag: Option<String> },
    /// As before.
    Same,
}

/// The control API.
#[derive(Debug)]
pub(super) struct Client {
    config: ControlConfig,
    /// Connects to [`ControlConfig::address`] if there is one, and names [`ControlConfig::url`] in any case.
    base: String,
    /// Held to read the authorities and to build what trusts them, never across an await.
    session: Mutex<Option<Session>>,
}

/// What trusts one bundle of authorities.
#[derive(Debug)]
struct Session {
    bundle: Vec<u8>,
    http: reqwest::Client,
}

impl Client {
    pub(super) fn new(config: ControlConfig) -> Self {
        let mut url = config.url.clone();
        // reqwest takes the port from the URL, whatever its host resolves to.
        url.port = config.address.as_ref().map_or(url.port, |address| address.port);
        Self { base: url.to_string(), config, session: Mutex::default() }
    }

    /// Polls `path`; an answer that is still `etag` is held back by the server for a while.
    pub(super) async fn poll<T: DeserializeOwned>(&self, path: &str, etag: Option<&str>) -> Result<Polled<T>, ControlError> {
        let mut request = self.request(Method::GET, path)?;
        if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = request.send().await.map_err(ControlError::Unreachable)?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Polled::Same);
        }
        let response = accepted(response).await?;
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let body = read(response, ANSWER_BYTES_MAX).await?.ok_or(ControlError::TooLarge)?;
        Ok(Polled::Changed { value: serde_json::from_slice(&body).map_err(ControlError::Foreign)?, etag })
    }

    /// Sends a report.
    pub(super) async fn report(&self, body: Vec<u8>) -> Result<ReportAnswer, ControlError> {
        let request = self.request(Method::POST, REPORT_PATH)?.header(CONTENT_TYPE, "application/json").body(body);
        let response = accepted(request.send().await.map_err(ControlError::Unreachable)?).await?;
        let body = read(response, ANSWER_BYTES_MAX).await?.ok_or(ControlError::TooLarge)?;
        if body.is_empty() { Ok(ReportAnswer::default()) } else { serde_json::from_slice(&body).map_err(ControlError::Foreign) }
    }

    /// Asks for the pull secrets of a namespace.
    pub(super) async fn credentials(&self, asked: &CredentialsRequest) -> Result<CredentialsAnswer, ControlError> {
        let body = serde_json::to_vec(asked).expect("a request must serialise: it holds only strings");
        let request = self.request(Method::POST, CREDENTIALS_PATH)?.header(CONTENT_TYPE, "application/json").body(body);
        let response = accepted(request.send().await.map_err(ControlError::Unreachable)?).await?;
        let body = read(response, ANSWER_BYTES_MAX).await?.ok_or(ControlError::TooLarge)?;
        let answer = serde_json::from_slice(&body);
        // The parser's own text may quote a secret, and so may what was read.
        drop(SecretSlice::from(body));
        answer.map_err(|_| ControlError::Unclear)
    }

    /// Whether there is anything to ask with.
    pub(super) fn check(&self) -> Result<(), ControlError> {
        self.trusting().map(drop)
    }

    /// Whether the authorities on disk are others than those that are trusted at the moment.
    pub(super) fn authorities_changed(&self) -> bool {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        match (std::fs::read(&self.config.ca), &*session) {
            (Ok(bundle), Some(session)) => bundle != session.bundle,
            (Ok(_), None) => true,
            (Err(_), _) => false,
        }
    }

    fn request(&self, method: Method, path: &str) -> Result<reqwest::RequestBuilder, ControlError> {
        let token = read_token(&self.config.token)?;
        let http = self.trusting()?;
        Ok(http.request(method, format!("{}{path}", self.base)).header(AUTHORIZATION, token))
    }

    /// A client that trusts the authorities that are on disk now.
    fn trusting(&self) -> Result<reqwest::Client, ControlError> {
        let path = &self.config.ca;
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let found = std::fs::read(path);
        match (found, &*session) {
            (Ok(bundle), Some(old)) if old.bundle == bundle => Ok(old.http.clone()),
            (Ok(bundle), _) => match self.build(&bundle) {
                Ok(http) => {
                    *session = Some(Session { bundle, http: http.clone() });
                    Ok(http)
                }
                Err(detail) => Err(ControlError::Authorities { path: path.clone(), detail }),
            },
            // Whoever took the file away did not say that what it held is not to be trusted.
            (Err(_), Some(old)) => Ok(old.http.clone()),
            (Err(error), None) if error.kind() == std::io::ErrorKind::NotFound => Err(ControlError::NoAuthorities { path: path.clone() }),
            (Err(error), None) => Err(ControlError::Authorities { path: path.clone(), detail: format!("cannot be read: {error}") }),
        }
    }

    fn build(&self, bundle: &[u8]) -> Result<reqwest::Client, String> {
        let certificates = CertificateDer::pem_slice_iter(bundle).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        if certificates.is_empty() {
            return Err("it holds no certificate".to_owned());
        }
        let certificates = certificates.iter().map(|der| Certificate::from_der(der)).collect::<reqwest::Result<Vec<_>>>();
        let certificates = certificates.map_err(|error| telemetry::chain(&error))?;
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .no_proxy()
            .https_only(true)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .pool_max_idle_per_host(2)
            // A server whose node is gone says no goodbye: without these, a dead connection would be asked again and again.
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE)
            .http2_keep_alive_while_idle(true)
            .tcp_user_timeout(2 * KEEP_ALIVE)
            .tls_certs_only(certificates);
        if let Some(address) = &self.config.address {
            builder = builder.dns_resolver(Elsewhere(address.clone()));
        }
        builder.build().map_err(|error| telemetry::chain(&error))
    }
}

/// Resolves every name to one place.
#[derive(Debug)]
struct Elsewhere(HostPort);

impl Resolve for Elsewhere {
    fn resolve(&self, _: Name) -> Resolving {
        let HostPort { host, port } = self.0.clone();
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn read_token(path: &Path) -> Result<HeaderValue, ControlError> {
    let token = std::fs::read_to_string(path).map_err(|source| ControlError::Token { path: path.to_owned(), source })?;
    let no_token = || ControlError::NoToken { path: path.to_owned() };
    let token = Some(token.trim()).filter(|token| !token.is_empty()).ok_or_else(no_token)?;
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| no_token())?;
    value.set_sensitive(true);
    Ok(value)
}

/// The response, if it is what was asked for.
async fn accepted(response: Response) -> Result<Response, ControlError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    let body = read(response, REFUSAL_BYTES_MAX).await.ok().flatten().unwrap_or_default();
    let message = String::from_utf8_lossy(&body).trim().replace(['\n', '\r'], " ");
    Err(ControlError::Refused { status, message, retry_after })
}

/// The whole body, or `None` if it is larger than that.
async fn read(mut response: Response, bytes_max: usize) -> Result<Option<Vec<u8>>, ControlError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(ControlError::Unreachable)? {
        if body.len() + chunk.len() > bytes_max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}
