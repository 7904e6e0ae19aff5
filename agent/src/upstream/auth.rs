//! Who we are for an endpoint: what it challenged us with, which credential worked, and the header that follows from both.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::HeaderValue;
use moka::sync::Cache;

use super::body::Meter;
use super::challenge::{Bearer, Challenge};
use super::client::Courier;
use super::credentials::{Candidates, Credential, CredentialId, Credentials};
use super::endpoints::{Endpoint, EndpointId};
use super::error::{Place, UpstreamError};
use super::keyring::{Keyring, Keys};
use super::token::{Had, TokenKey, TokenRequest, Tokens, basic_header};
use crate::oci::{Repository, RepositoryName};
use crate::requester::Requester;

const ENDPOINTS_MAX: u64 = 1024;
const REPOSITORIES_MAX: u64 = 16_384;

type RepositoryKey = (EndpointId, RepositoryName);

/// Namespaces whose pull secrets the agent tries for its own work on an image.
const PROVEN_TRIED_MAX: usize = 3;

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
    worked: Cache<(Requester, RepositoryKey), CredentialId>,
    /// Nothing for an agent on its own.
    keyring: OnceLock<Arc<dyn Keyring>>,
}

/// One request's side of an exchange.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) requester: &'a Requester,
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
            keyring: OnceLock::new(),
        }
    }

    /// The credentials to try, the one that worked last time first.
    pub(super) async fn candidates(&self, endpoint: &Endpoint, requester: &Requester, repository: &Repository) -> Candidates {
        let mut candidates = match requester {
            Requester::Nobody => Candidates::default(),
            Requester::Anyone => self.credentials.candidates(&endpoint.host, &repository.name).await,
            Requester::Namespace(namespace) => self.pull_secrets(namespace, repository).await,
            Requester::Agent => self.of_agent(endpoint, repository).await,
        };
        if candidates.credentials.len() > 1
            && let Some(worked) = self.worked.get(&(requester.clone(), (endpoint.id.clone(), repository.name.clone())))
        {
            candidates.credentials.sort_by_key(|credential| credential.id() != worked);
        }
        candidates
    }

    pub(super) fn has_credentials(&self, repository: &Repository) -> bool {
        self.credentials.has_any(&repository.registry, &repository.name)
    }

    async fn pull_secrets(&self, namespace: &Arc<str>, repository: &Repository) -> Candidates {
        let Some(keyring) = self.keyring.get() else {
            return Candidates { credentials: Vec::new(), problem: Some("there is no control API to get pull secrets from".to_owned()) };
        };
        let Keys { credentials, problem } = keyring.of_namespace(Arc::clone(namespace), repository.clone()).await;
        Candidates { credentials, problem }
    }

    async fn of_agent(&self, endpoint: &Endpoint, repository: &Repository) -> Candidates {
        let mut candidates = self.credentials.candidates(&endpoint.host, &repository.name).await;
        let proven = self.keyring.get().map(|keyring| keyring.proven(repository)).unwrap_or_default();
        for namespace in proven.iter().take(PROVEN_TRIED_MAX) {
            let more = self.pull_secrets(namespace, repository).await;
            candidates.credentials.extend(more.credentials);
            candidates.problem = candidates.problem.or(more.problem);
        }
        candidates
    }

    pub(super) fn keyring(&self) -> Option<&Arc<dyn Keyring>> {
        self.keyring.get()
    }

    pub(super) fn join(&self, keyring: Arc<dyn Keyring>) {
        // There is one control API, and it is joined once.
        let _ = self.keyring.set(keyring);
    }

    pub(super) fn remember_worked(&self, asker: Asker<'_>) {
        self.worked.insert((asker.requester.clone(), asker.key()), asker.credential.id());
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
