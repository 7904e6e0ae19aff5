//! Who we are for an endpoint: what it challenged us with, which credential worked, and the header that follows from both.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use moka::sync::Cache;

use super::body::Meter;
use super::challenge::{Bearer, Challenge};
use super::client::Courier;
use super::credentials::{Candidates, Credential, CredentialId, Credentials};
use super::endpoints::{Endpoint, EndpointId};
use super::error::{Place, UpstreamError};
use super::token::{Had, TokenKey, TokenRequest, Tokens, basic_header};
use crate::oci::{Repository, RepositoryName};

const ENDPOINTS_MAX: u64 = 1024;
const REPOSITORIES_MAX: u64 = 16_384;

type RepositoryKey = (EndpointId, RepositoryName);

/// What an endpoint wants of everyone, without the scope, which is a repository's.
#[derive(Debug, Clone)]
enum Wanted {
    Basic,
    Bearer(Arc<Bearer>),
}

/// What is remembered of earlier exchanges. All of it may be lost at any time: it saves round trips.
#[derive(Debug)]
pub(super) struct Auth {
    credentials: Credentials,
    tokens: Tokens,
    wanted: Cache<EndpointId, Wanted>,
    /// Scopes that are not `repository:<name>:pull`.
    scopes: Cache<RepositoryKey, String>,
    worked: Cache<RepositoryKey, CredentialId>,
}

/// One request's side of an exchange.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) repository: &'a Repository,
    pub(super) credential: &'a Credential,
    pub(super) courier: &'a Courier,
    pub(super) stall_timeout: Duration,
    pub(super) at: &'a Place,
    pub(super) meter: &'a Meter,
}

impl Asker<'_> {
    fn key(&self) -> RepositoryKey {
        (self.endpoint.id.clone(), self.repository.name.clone())
    }
}

/// What a request proves who we are with.
#[derive(Debug)]
pub(super) enum Proof {
    Nothing,
    Basic(HeaderValue),
    Bearer { key: TokenKey, had: Had },
}

impl Proof {
    pub(super) fn header(&self) -> Option<HeaderValue> {
        match self {
            Self::Nothing => None,
            Self::Basic(header) => Some(header.clone()),
            Self::Bearer { had, .. } => Some(had.token.header.clone()),
        }
    }
}

impl Auth {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            tokens: Tokens::new(),
            wanted: Cache::new(ENDPOINTS_MAX),
            scopes: Cache::new(REPOSITORIES_MAX),
            worked: Cache::new(REPOSITORIES_MAX),
        }
    }

    /// The credentials to try, the one that worked last time first.
    pub(super) async fn candidates(&self, endpoint: &Endpoint, repository: &Repository) -> Candidates {
        let mut candidates = self.credentials.candidates(&endpoint.host, &repository.name).await;
        if candidates.credentials.len() > 1
            && let Some(worked) = self.worked.get(&(endpoint.id.clone(), repository.name.clone()))
        {
            candidates.credentials.sort_by_key(|credential| credential.id() != worked);
        }
        candidates
    }

    pub(super) fn remember_worked(&self, asker: Asker<'_>) {
        self.worked.insert(asker.key(), asker.credential.id());
    }

    /// What to send before being challenged: what earlier challenges of this endpoint asked for.
    pub(super) async fn prepare(&self, asker: Asker<'_>) -> Result<Proof, UpstreamError> {
        match self.wanted.get(&asker.endpoint.id) {
            None => Ok(Proof::Nothing),
            Some(Wanted::Basic) => Ok(basic_header(asker.credential).map_or(Proof::Nothing, Proof::Basic)),
            Some(Wanted::Bearer(bearer)) => {
                let scope = self.scopes.get(&asker.key()).unwrap_or_else(|| default_scope(asker.repository));
                let proof = self.bearer(asker, bearer, scope).await;
                if proof.as_ref().is_err_and(|error| !matches!(error, UpstreamError::Denied { .. } | UpstreamError::TooManyRequests { .. }))
                {
                    // The token service may have moved: the next challenge tells.
                    self.wanted.invalidate(&asker.endpoint.id);
                }
                proof
            }
        }
    }

    /// What to send after a challenge to a request with `sent`; `None` if nothing that we have would change the answer.
    pub(super) async fn answer(&self, asker: Asker<'_>, challenge: Challenge, sent: &Proof) -> Result<Option<Proof>, UpstreamError> {
        if let Proof::Bearer { key, had: Had { token, .. } } = sent {
            self.tokens.reject(key, token);
        }
        match challenge {
            Challenge::Basic => {
                self.wanted.insert(asker.endpoint.id.clone(), Wanted::Basic);
                let sent_already = matches!(sent, Proof::Basic(_));
                Ok(basic_header(asker.credential).filter(|_| !sent_already).map(Proof::Basic))
            }
            Challenge::Bearer(Bearer { realm, service, scope }) => {
                let scope = scope.unwrap_or_else(|| default_scope(asker.repository));
                let bearer = Arc::new(Bearer { realm, service, scope: None });
                self.remember_bearer(asker, &bearer, &scope);
                let is_fresh = |key: &TokenKey, had: &Had| !had.cached && key.scope == scope && key.bearer == bearer;
                if matches!(sent, Proof::Bearer { key, had } if is_fresh(key, had)) {
                    return Ok(None);
                }
                self.bearer(asker, bearer, scope).await.map(Some)
            }
        }
    }

    fn remember_bearer(&self, asker: Asker<'_>, bearer: &Arc<Bearer>, scope: &str) {
        self.wanted.insert(asker.endpoint.id.clone(), Wanted::Bearer(Arc::clone(bearer)));
        if scope == default_scope(asker.repository) {
            self.scopes.invalidate(&asker.key());
        } else {
            self.scopes.insert(asker.key(), scope.to_owned());
        }
    }

    async fn bearer(&self, asker: Asker<'_>, bearer: Arc<Bearer>, scope: String) -> Result<Proof, UpstreamError> {
        let key = TokenKey { endpoint: asker.endpoint.id.clone(), bearer, scope, credential: asker.credential.id() };
        let request = TokenRequest {
            key: key.clone(),
            credential: asker.credential.clone(),
            courier: asker.courier.clone(),
            plain_http: asker.endpoint.plain_http,
            stall_timeout: asker.stall_timeout,
            at: asker.at.clone(),
            meter: asker.meter.clone(),
        };
        let had = self.tokens.get(request).await?;
        Ok(Proof::Bearer { key, had })
    }
}

fn default_scope(repository: &Repository) -> String {
    format!("repository:{}:pull", repository.name)
}
