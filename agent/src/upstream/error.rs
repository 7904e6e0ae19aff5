//! Why upstream did not give what was asked for.
//!
//! The errors are cloned to everyone who waits for one request, so what caused them is kept as text.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::endpoints::EndpointId;
use crate::oci::Repository;

/// What was asked for and where, for people: `docker.io/library/nginx at https://registry-1.docker.io`.
#[derive(Clone, PartialEq, Eq)]
pub struct Place(Arc<str>);

impl Place {
    pub(super) fn new(repository: &Repository, endpoint: &EndpointId) -> Self {
        Self(format!("{repository} at {endpoint}").into())
    }

    pub(super) fn registry_of(repository: &Repository) -> Self {
        Self(repository.to_string().into())
    }

    /// The same request's detour to `host`, such as a token service.
    pub(super) fn via(&self, host: &str) -> Self {
        Self(format!("{self} (token service {host})").into())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why upstream did not give what was asked for. No variant ever holds a credential or the query of a URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// Upstream answered that it does not have it.
    #[error("{at}: upstream does not have it")]
    NotFound { at: Place },
    /// Upstream, or its token service, refused: 401 or 403.
    #[error("{at}: upstream refused access with status {status}: {detail}")]
    Denied { at: Place, status: u16, detail: String },
    /// Upstream asked to be left alone, now or a moment ago.
    #[error("{at}: upstream limits the rate of requests; it may be asked again in {} s", retry_after.as_secs())]
    TooManyRequests { at: Place, retry_after: Duration },
    /// No connection: the name does not resolve, nobody listens, TLS failed.
    #[error("{at}: upstream cannot be reached: {detail}")]
    Unreachable {
        at: Place,
        detail: String,
        /// The name did not resolve.
        unresolved: bool,
    },
    /// Upstream was connected and then sent nothing for too long.
    #[error("{at}: upstream sent nothing for {} ms", timeout.as_millis())]
    Stalled { at: Place, timeout: Duration },
    /// The connection broke before the answer was complete.
    #[error("{at}: the connection to upstream broke: {detail}")]
    Broken { at: Place, detail: String },
    /// A status that no other variant stands for.
    #[error("{at}: upstream answered with status {status}: {detail}")]
    Status { at: Place, status: u16, detail: String },
    /// The answer is longer than what it may be.
    #[error("{at}: upstream's answer is larger than {limit_bytes} bytes")]
    TooLarge { at: Place, limit_bytes: usize },
    /// Upstream breaks HTTP or the distribution protocol.
    #[error("{at}: upstream breaks the protocol: {detail}")]
    Protocol { at: Place, detail: String },
    /// Too many requests of our own to this registry are under way.
    #[error("{at}: still waiting after {} s for earlier requests to this registry", waited.as_secs())]
    Busy { at: Place, waited: Duration },
    /// The configured credentials could not be had, and upstream gives nothing without.
    #[error("{at}: upstream wants credentials, and those configured are not available: {detail}")]
    Credentials { at: Place, detail: String },
}

impl UpstreamError {
    /// A metric label: one of a fixed set.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Denied { .. } => "denied",
            Self::TooManyRequests { .. } => "too_many_requests",
            Self::Unreachable { .. } => "unreachable",
            Self::Stalled { .. } => "stalled",
            Self::Broken { .. } => "broken",
            Self::Status { .. } => "status",
            Self::TooLarge { .. } => "too_large",
            Self::Protocol { .. } => "protocol",
            Self::Busy { .. } => "busy",
            Self::Credentials { .. } => "credentials",
        }
    }

    /// Whether the same request may succeed a moment later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        super::retry::is_retryable(self)
    }

    /// Whether upstream said that it does not have it.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the name of the host did not resolve.
    pub(super) fn is_unresolved(&self) -> bool {
        matches!(self, Self::Unreachable { unresolved: true, .. })
    }

    /// What went wrong in `error`, a failure of the HTTP client.
    pub(super) fn from_client(at: &Place, error: reqwest::Error) -> Self {
        // The URL may be a CDN's, with a signature in its query.
        let error = error.without_url();
        let (at, detail) = (at.clone(), chain(cause(&error)));
        let unresolved = sources(&error).any(|source| source.is::<super::client::Unresolved>());
        let malformed = sources(&error).filter_map(|source| source.downcast_ref::<hyper::Error>()).any(hyper::Error::is_parse);
        if error.is_connect() || unresolved {
            Self::Unreachable { at, detail: with_hint(detail), unresolved }
        } else if error.is_builder() || malformed {
            Self::Protocol { at, detail }
        } else {
            Self::Broken { at, detail }
        }
    }
}

/// The first error in the chain that says more than that a request failed.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let says_little = |error: &(dyn Error + 'static)| error.is::<reqwest::Error>() || error.to_string().starts_with("client error (");
    let is_wrapping = |error: &&(dyn Error + 'static)| error.source().is_some() && says_little(*error);
    sources(error).find(|error| !is_wrapping(error)).unwrap_or(error)
}

/// A TLS handshake that is answered in plain HTTP is the most common mistake with registries on a local network.
fn with_hint(detail: String) -> String {
    if detail.contains("InvalidContentType") { format!("{detail} (does it speak plain HTTP? then set plainHttp)") } else { detail }
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The error and everything that caused it, in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for source in sources(error) {
        let part = source.to_string();
        // Some libraries repeat the source in the error's own text.
        if text.ends_with(&part) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
    }
    text
}

/// Why [`super::Upstream::new`] failed: one line that names the file.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamSetupError {
    /// A file that the configuration names cannot be read.
    #[error("cannot read {what} {}", path.display())]
    Read {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A CA file holds no certificates, or something else besides.
    #[error("{}: expected PEM certificates of authorities: {detail}", path.display())]
    Ca { path: PathBuf, detail: String },
    /// The credentials file is not what docker writes.
    #[error("{}: {key}: {detail}", path.display())]
    Auth { path: PathBuf, key: String, detail: String },
}
