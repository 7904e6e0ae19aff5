//! One operation, asked of one endpoint after the other until one gives an answer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use reqwest::Url;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::auth::{Asker, Auth};
use super::body::{Body, Meter, excerpt};
use super::challenge::Challenge;
use super::client::{Clients, Courier, Incoming, Outgoing};
use super::credentials::Credential;
use super::endpoints::{Endpoint, EndpointId, Endpoints};
use super::error::{Place, UpstreamError};
use super::limits::{Circuits, Lane, Turn, Turns};
use super::{Observer, limits, retry};
use crate::config::UpstreamConfig;
use crate::oci::Repository;
use crate::requester::Requester;

/// A failure that took longer than this is not retried on the same endpoint: the caller has waited enough.
const QUICK: Duration = Duration::from_secs(1);

/// One thing to ask of a registry.
pub(super) trait Operation: Sync {
    /// What it gives.
    type Output: Send;

    /// How it is asked.
    fn question(&self) -> Question;

    /// Whose turns it takes.
    fn lane(&self) -> Lane {
        Lane::Questions
    }

    /// It is a list, which registries limit apart from pulls.
    fn is_list(&self) -> bool {
        false
    }

    /// Whether an answer with this status is [`Operation::read`], and not an error.
    fn accepts(&self, incoming: &Incoming) -> bool {
        incoming.status().is_success()
    }

    /// Makes the answer what was asked for.
    fn read(&self, answer: Answer) -> impl Future<Output = Result<Self::Output, UpstreamError>> + Send;
}

/// How an operation is asked.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) method: Method,
    /// Below the repository, such as `tags/list`.
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) headers: HeaderMap,
}

/// An accepted answer and its surroundings.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) incoming: Incoming,
    pub(super) at: Place,
    /// For failures after [`Operation::read`] has returned.
    pub(super) blame: Blame,
    stall_timeout: Duration,
    turn: Turn,
}

impl Answer {
    /// The rest of it.
    pub(super) fn into_body(self) -> Body {
        Body::new(self.incoming.response.into_body(), self.stall_timeout, self.at, self.blame.meter, Some(self.turn))
    }

    pub(super) fn protocol(&self, detail: String) -> UpstreamError {
        UpstreamError::Protocol { at: self.at.clone(), detail }
    }
}

/// Where an endpoint's failures are noted.
#[derive(Debug, Clone)]
pub(super) struct Blame {
    meter: Meter,
    endpoints: Endpoints,
    pub(super) endpoint: EndpointId,
}

impl Blame {
    pub(super) fn add(&self, error: &UpstreamError) {
        self.meter.error(error.reason());
        self.endpoints.punish(&self.endpoint, error);
    }
}

/// Everything that is shared between requests.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) config: UpstreamConfig,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) clients: Clients,
    pub(super) endpoints: Endpoints,
    pub(super) turns: Turns,
    pub(super) circuits: Circuits,
    pub(super) auth: Auth,
}

impl Asking {
    /// Asks the endpoints of the repository's registry in order, those in `avoid` last, until one answers.
    pub(super) async fn ask<O: Operation>(
        &self,
        requester: &Requester,
        repository: &Repository,
        operation: &O,
        avoid: &[EndpointId],
    ) -> Result<O::Output, UpstreamError> {
        let settings = self.config.registries.get(&repository.registry);
        let max = settings.and_then(|settings| settings.max_connections).unwrap_or(self.config.max_connections_per_registry);
        let meter = Meter { observer: Arc::clone(&self.observer), registry: repository.registry.clone() };
        let turn = self.turns.take(repository, operation.lane(), max).await.inspect_err(|error| meter.error(error.reason()))?;
        let endpoints = self.endpoints.of(&self.config, &repository.registry);
        let order = self.endpoints.order(&endpoints, avoid);
        let mut failures = Failures::default();
        for (nth, &at) in order.iter().enumerate() {
            let endpoint = &endpoints[at];
            if endpoint.is_guess && !self.may_guess(&endpoints) {
                continue;
            }
            let is_last = nth + 1 == order.len() || order[nth + 1..].iter().all(|&at| endpoints[at].is_guess);
            let attempt = Attempt { asking: self, endpoint, requester, repository, meter: &meter, turn: &turn };
            match attempt.run(operation, is_last).await {
                Ok(output) => return Ok(output),
                Err(error) => {
                    if order[nth + 1..].iter().any(|&at| !endpoints[at].is_guess || self.may_guess(&endpoints)) {
                        warn!(registry = %repository.registry, repository = %repository.name, "asking the next endpoint: {error}");
                    }
                    failures.add(at, endpoint.is_guess, error);
                }
            }
        }
        Err(failures.most_telling())
    }

    /// kuik v1 wrote `host:port` as `host-port`; that is meant only where there is no such host.
    fn may_guess(&self, endpoints: &[Endpoint]) -> bool {
        endpoints.iter().filter(|endpoint| !endpoint.is_guess).all(|endpoint| self.endpoints.is_unresolved(&endpoint.id))
    }
}

/// What the endpoints of one registry failed with.
#[derive(Debug, Default)]
struct Failures(Vec<(usize, bool, UpstreamError)>);

impl Failures {
    fn add(&mut self, at: usize, is_guess: bool, error: UpstreamError) {
        self.0.push((at, is_guess, error));
    }

    /// What the last endpoint in the configuration said, which is commonly the registry itself. But `NotFound` only if all said so,
    /// and a guess that led nowhere counts for nothing.
    fn most_telling(mut self) -> UpstreamError {
        let has_other = self.0.len() > 1;
        self.0.retain(|(_, is_guess, error)| !(has_other && *is_guess && matches!(error, UpstreamError::Unreachable { .. })));
        let all_not_found = self.0.iter().all(|(_, _, error)| error.is_not_found());
        self.0
            .into_iter()
            .max_by_key(|(at, _, error)| (all_not_found || !error.is_not_found(), *at))
            .map(|(_, _, error)| error)
            .expect("a registry must have an endpoint that is no guess")
    }
}

/// One endpoint being asked.
struct Attempt<'a> {
    asking: &'a Asking,
    endpoint: &'a Endpoint,
    requester: &'a Requester,
    repository: &'a Repository,
    meter: &'a Meter,
    turn: &'a Turn,
}

impl Attempt<'_> {
    /// Asks, and once more after a quick failure if there is no other endpoint to turn to. A broken connection may be one that was idle
    /// for too long and says nothing about the endpoint.
    async fn run<O: Operation>(&self, operation: &O, is_last: bool) -> Result<O::Output, UpstreamError> {
        let began = Instant::now();
        let may_retry = |error: &UpstreamError| {
            let is_broken = matches!(error, UpstreamError::Broken { .. });
            (is_last || is_broken) && error.is_retryable() && !error.is_unresolved() && began.elapsed() < QUICK
        };
        match self.once(operation).await {
            Err(error) if may_retry(&error) => {
                debug!(registry = %self.repository.registry, "asking once more: {error}");
                tokio::time::sleep(retry::quick()).await;
                self.once(operation).await
            }
            other => other,
        }
    }

    fn blame(&self) -> Blame {
        Blame { meter: self.meter.clone(), endpoints: self.asking.endpoints.clone(), endpoint: self.endpoint.id.clone() }
    }

    async fn once<O: Operation>(&self, operation: &O) -> Result<O::Output, UpstreamError> {
        let at = Place::new(self.repository, &self.endpoint.id);
        let result = self.as_anyone(operation, &at).await;
        if let Err(error) = &result {
            self.blame().add(error);
        }
        result
    }

    /// Tries the credentials in turn, then none.
    async fn as_anyone<O: Operation>(&self, operation: &O, at: &Place) -> Result<O::Output, UpstreamError> {
        let courier = self.asking.clients.get(&self.endpoint.trust, at)?;
        let candidates = self.asking.auth.candidates(self.endpoint, self.requester, self.repository).await;
        let mut refusal = None;
        for (nth, credential) in candidates.credentials.iter().enumerate() {
            let is_last = nth + 1 == candidates.credentials.len();
            match self.as_one(operation, credential, &courier, at).await {
                Err(error @ UpstreamError::Denied { .. }) => refusal = Some(refusal.unwrap_or(error)),
                // Some registries hide what one may not see.
                Err(error @ UpstreamError::NotFound { .. }) if !is_last => refusal = Some(error),
                other => return other,
            }
        }
        match self.as_one(operation, &Credential::ANONYMOUS, &courier, at).await {
            Err(UpstreamError::Denied { .. }) if candidates.problem.is_some() => {
                Err(UpstreamError::Credentials { at: at.clone(), detail: candidates.problem.unwrap_or_default() })
            }
            Err(UpstreamError::Denied { status, detail, at }) => Err(refusal.unwrap_or(UpstreamError::Denied { status, detail, at })),
            other => other,
        }
    }

    async fn as_one<O: Operation>(
        &self,
        operation: &O,
        credential: &Credential,
        courier: &Courier,
        at: &Place,
    ) -> Result<O::Output, UpstreamError> {
        let (circuits, circuit) = (&self.asking.circuits, (self.endpoint.id.clone(), credential.id(), operation.is_list()));
        if let Some(retry_after) = circuits.remaining(&circuit) {
            return Err(UpstreamError::TooManyRequests { at: at.clone(), retry_after });
        }
        let asker = Asker {
            endpoint: self.endpoint,
            requester: self.requester,
            repository: self.repository,
            credential,
            courier,
            stall_timeout: self.asking.config.stall_timeout,
            at,
            meter: self.meter,
        };
        let result = self.exchange(operation, asker).await;
        match &result {
            Err(UpstreamError::TooManyRequests { retry_after, .. }) => circuits.open(circuit, *retry_after),
            Ok(_) if !credential.is_anonymous() => self.asking.auth.remember_worked(asker),
            _ => {}
        }
        result
    }

    /// One request, and a second one if the first was challenged.
    async fn exchange<O: Operation>(&self, operation: &O, asker: Asker<'_>) -> Result<O::Output, UpstreamError> {
        let auth = &self.asking.auth;
        let outgoing = self.outgoing(operation.question(), asker.at)?;
        let mut proof = auth.prepare(asker).await?;
        let mut incoming = self.send(&outgoing, proof.header(), asker).await?;
        // Another host's challenge is not for us to answer: our credentials are not its business. A token that was refreshed after one
        // challenge may meet another scope in the next, so there are two rounds.
        for _ in 0..2 {
            if incoming.status().as_u16() != 401 || incoming.redirected {
                break;
            }
            let Some(challenge) = Challenge::choose(incoming.response.headers()) else { break };
            let Some(next) = auth.answer(asker, challenge, &proof).await? else { break };
            proof = next;
            incoming = self.send(&outgoing, proof.header(), asker).await?;
        }
        if operation.accepts(&incoming) {
            let answer = Answer {
                incoming,
                at: asker.at.clone(),
                blame: self.blame(),
                stall_timeout: asker.stall_timeout,
                turn: Arc::clone(self.turn),
            };
            return operation.read(answer).await;
        }
        Err(refuse(incoming, asker.at).await)
    }

    fn outgoing(&self, question: Question, at: &Place) -> Result<Outgoing, UpstreamError> {
        let Question { method, path, query, headers } = question;
        let url = self.endpoint.url(&format!("{}/{path}", self.repository.name), query.as_deref());
        let url = Url::parse(&url).map_err(|error| UpstreamError::Protocol { at: at.clone(), detail: error.to_string() })?;
        Ok(Outgoing { method, url, headers, authorization: None, form: None, plain_http: self.endpoint.plain_http })
    }

    async fn send(
        &self,
        outgoing: &Outgoing,
        authorization: Option<http::HeaderValue>,
        asker: Asker<'_>,
    ) -> Result<Incoming, UpstreamError> {
        let began = Instant::now();
        self.meter.request();
        let incoming = asker.courier.send(Outgoing { authorization, ..outgoing.clone() }, asker.at).await?;
        debug!(
            registry = %self.repository.registry,
            repository = %self.repository.name,
            endpoint = %self.endpoint.id,
            method = %outgoing.method,
            path = outgoing.url.path(),
            status = incoming.status().as_u16(),
            redirected = incoming.redirected,
            ms = began.elapsed().as_millis(),
            "upstream answered"
        );
        Ok(incoming)
    }
}

/// The error that an answer stands for.
async fn refuse(incoming: Incoming, at: &Place) -> UpstreamError {
    let at = at.clone();
    match incoming.status().as_u16() {
        404 | 410 => UpstreamError::NotFound { at },
        429 => UpstreamError::TooManyRequests { at, retry_after: limits::retry_after(incoming.response.headers()) },
        status @ (401 | 403) => UpstreamError::Denied { at, status, detail: excerpt(incoming).await },
        status => UpstreamError::Status { at, status, detail: excerpt(incoming).await },
    }
}
