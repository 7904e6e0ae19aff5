//! HTTP clients, one per set of trusted certificates, and the one path on which requests leave.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, Url, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};

use tokio::sync::Semaphore;

use super::endpoints::Trust;
use super::error::{Place, UpstreamError, UpstreamSetupError, chain};
use crate::config::UpstreamConfig;

const USER_AGENT: &str = concat!("kuik-agent/", env!("CARGO_PKG_VERSION"));
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_PER_HOST_MAX: usize = 8;
const REDIRECTS_MAX: usize = 5;

/// The name of a host has no address.
#[derive(Debug)]
pub(super) struct Unresolved(std::io::Error);

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host name does not resolve")
    }
}

impl Error for Unresolved {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// Look-ups at one time. They block the threads that disk reads need, and there are only so many.
static LOOKUPS: Semaphore = Semaphore::const_new(8);

/// The system's resolver; its failures can be told from all others.
#[derive(Debug)]
struct Dns;

impl Resolve for Dns {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let turn = LOOKUPS.acquire().await.map_err(|error| Unresolved(std::io::Error::other(error)))?;
            let lookup = move || {
                // Held by the thread and not by who waits: a resolver that hangs outlives the time-out of the request.
                let _turn = turn;
                (name.as_str(), 0).to_socket_addrs().map(Iterator::collect)
            };
            let addresses: Vec<SocketAddr> =
                tokio::task::spawn_blocking(lookup).await.map_err(std::io::Error::other).flatten().map_err(Unresolved)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The clients. Each is built when it is first needed: it holds a store of roots.
#[derive(Debug)]
pub(super) struct Clients {
    connect_timeout: Duration,
    head_timeout: Duration,
    authorities: HashMap<PathBuf, Vec<Certificate>>,
    /// Held while one is built, so that it is built once.
    by_trust: Mutex<HashMap<Trust, Client>>,
}

impl Clients {
    /// Reads every CA file that the configuration names.
    pub(super) fn new(config: &UpstreamConfig) -> Result<Self, UpstreamSetupError> {
        let paths = config.registries.values().filter_map(|settings| settings.ca.as_ref());
        let authorities = paths.map(|path| Ok((path.clone(), read_authorities(path)?))).collect::<Result<_, UpstreamSetupError>>()?;
        let head_timeout = config.stall_timeout.max(config.connect_timeout);
        Ok(Self { connect_timeout: config.connect_timeout, head_timeout, authorities, by_trust: Mutex::default() })
    }

    /// Makes the client that most registries are asked with. If it cannot be made, the first request says why.
    pub(super) fn prepare(&self) {
        let trust = Trust::default();
        if let Ok(client) = self.build(&trust) {
            self.by_trust.lock().unwrap_or_else(PoisonError::into_inner).entry(trust).or_insert(client);
        }
    }

    /// The client for hosts that show certificates of `trust`.
    pub(super) fn get(&self, trust: &Trust, at: &Place) -> Result<Courier, UpstreamError> {
        let mut by_trust = self.by_trust.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match by_trust.get(trust) {
            Some(client) => client.clone(),
            None => {
                let client = self.build(trust).map_err(|error| UpstreamError::Protocol { at: at.clone(), detail: chain(&error) })?;
                by_trust.insert(trust.clone(), client.clone());
                client
            }
        };
        Ok(Courier { client, head_timeout: self.head_timeout })
    }

    fn build(&self, trust: &Trust) -> reqwest::Result<Client> {
        let public = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().filter_map(|root| Certificate::from_der(root).ok());
        let further = trust.authorities.iter().filter_map(|path| self.authorities.get(path)).flatten().cloned();
        let mut headers = HeaderMap::new();
        // The bytes are verified and kept as they come.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            .dns_resolver(Dns)
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .http2_adaptive_window(true)
            .tls_certs_merge(public.chain(further))
            .tls_danger_accept_invalid_certs(trust.anything)
            .build()
    }
}

fn read_authorities(path: &Path) -> Result<Vec<Certificate>, UpstreamSetupError> {
    let wrong = |detail: String| UpstreamSetupError::Ca { path: path.to_owned(), detail };
    let pem = std::fs::read(path).map_err(|source| UpstreamSetupError::Read { what: "the CA file", path: path.to_owned(), source })?;
    let mut certificates = Vec::new();
    for der in CertificateDer::pem_slice_iter(&pem) {
        let der = der.map_err(|error| wrong(error.to_string()))?;
        certificates.push(Certificate::from_der(&der).map_err(|error| wrong(chain(&error)))?);
        rustls::RootCertStore::empty().add(der).map_err(|error| wrong(error.to_string()))?;
    }
    if certificates.is_empty() { Err(wrong("the file holds no certificate".to_owned())) } else { Ok(certificates) }
}

/// A request to be sent.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// For the first host alone.
    pub(super) authorization: Option<HeaderValue>,
    /// Holds a credential where it is there.
    pub(super) form: Option<SecretString>,
    /// A redirect to `http://` is followed.
    pub(super) plain_http: bool,
}

/// An answer, its body still to be read.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) response: http::Response<reqwest::Body>,
    /// The answer comes from another origin than the one that was asked.
    pub(super) redirected: bool,
}

impl Incoming {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The header as text, if it is text.
    pub(super) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok().map(str::trim)
    }
}

/// Sends requests and follows their redirects.
#[derive(Debug, Clone)]
pub(super) struct Courier {
    client: Client,
    head_timeout: Duration,
}

impl Courier {
    /// Sends a request and awaits the head of its answer. Redirects are followed here and not by the client, because a credential may
    /// not reach another origin.
    pub(super) async fn send(&self, mut outgoing: Outgoing, at: &Place) -> Result<Incoming, UpstreamError> {
        let mut redirected = false;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send_once(&outgoing, at).await?;
            let Some(target) = redirect_target(&outgoing, &response, at)? else {
                return Ok(Incoming { response: response.into(), redirected });
            };
            if target.origin() != outgoing.url.origin() {
                redirected = true;
                outgoing.authorization = None;
            }
            outgoing.url = target;
        }
        Err(UpstreamError::Protocol { at: at.clone(), detail: format!("more than {REDIRECTS_MAX} redirects") })
    }

    async fn send_once(&self, outgoing: &Outgoing, at: &Place) -> Result<reqwest::Response, UpstreamError> {
        let mut request = self.client.request(outgoing.method.clone(), outgoing.url.clone()).headers(outgoing.headers.clone());
        if let Some(authorization) = &outgoing.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(form) = &outgoing.form {
            request = request.header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.expose_secret().to_owned());
        }
        match tokio::time::timeout(self.head_timeout, request.send()).await {
            Ok(answer) => answer.map_err(|error| UpstreamError::from_client(at, error)),
            Err(_) => Err(UpstreamError::Stalled { at: at.clone(), timeout: self.head_timeout }),
        }
    }
}

/// Where the answer sends us; `None` if it is the answer.
fn redirect_target(outgoing: &Outgoing, response: &reqwest::Response, at: &Place) -> Result<Option<Url>, UpstreamError> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let is_read = matches!(outgoing.method, Method::GET | Method::HEAD);
    let Some(location) = response.headers().get(LOCATION).filter(|_| is_redirect && is_read) else {
        return Ok(None);
    };
    let wrong = |detail: &str| UpstreamError::Protocol { at: at.clone(), detail: detail.to_owned() };
    let location = std::str::from_utf8(location.as_bytes()).map_err(|_| wrong("a redirect to what is no URL"))?;
    let mut target = outgoing.url.join(location).map_err(|_| wrong("a redirect to what is no URL"))?;
    match target.scheme() {
        "https" => {}
        "http" if outgoing.plain_http => {}
        "http" => return Err(wrong("a redirect from https to http")),
        _ => return Err(wrong("a redirect to what is neither https nor http")),
    }
    // A user in the URL would become a credential of its own.
    let _ = target.set_username("");
    let _ = target.set_password(None);
    target.set_fragment(None);
    Ok(Some(target))
}

/// `scheme://host[:port]` of a URL: all of it that may be logged.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Reads a whole number of bytes.
pub(super) fn content_length(incoming: &Incoming) -> Option<u64> {
    let text = incoming.header(http::header::CONTENT_LENGTH)?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}
