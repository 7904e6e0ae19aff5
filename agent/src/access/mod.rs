//! Who may have what: between a request and the cache.
//!
//! ```text
//!  request ──▶ token ──▶ namespace ──▶ rights: proven lately? ──▶ Requester ──▶ cache
//!                            ▲            │ no                        ▲
//!                            │            └─▶ prove: upstream is asked with that namespace's pull secrets
//!      open to everybody? ───┴─ rights: known, or upstream is asked with nothing
//! ```
//! A repository is open if upstream gave it to somebody who showed nothing. Everything else takes a proof per namespace and repository: a
//! request with that namespace's own pull secrets which upstream granted within `auth.proofTTL`. Both outlive a restart, and, by
//! `auth.onUpstreamDown`, an upstream that is away.
//!
//! What was open and is not any more may have become private, or be gone: then what the node got while it was open is still given to
//! everybody, and what came later is not.

mod ask;
mod keyring;
mod refusal;
mod refusals;
mod rights;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use http::HeaderValue;
use kuik_crd::PullKey;
use kuik_crd::control::Refused;
use tokio::sync::watch;

pub use keyring::{NoSecrets, Secrets, Wallet};
pub use refusal::Refusal;
pub use refusals::Refusals;

use crate::cache::{Asked, Cache, CacheError};
use crate::config::{AuthConfig, AuthMode};
use crate::metrics::Metrics;
use crate::oci::{Image, Repository};
use crate::requester::Requester;
use crate::store::{Store, now_seconds};
use ask::Everybody;
use keyring::Ring;
use rights::Rights;

/// Decides who may have what. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: AuthConfig,
    cache: Cache,
    rights: Arc<Rights>,
    ring: Arc<Ring>,
    /// What tokens are checked with. Held for a look, never across an await.
    keys: watch::Sender<Vec<PullKey>>,
    refusals: Refusals,
    /// Repositories whose registry could not be asked a moment ago, by somebody or by anybody, and why.
    away: moka::sync::Cache<(Option<Requester>, Repository), CacheError>,
    metrics: Arc<Metrics>,
}

impl Access {
    /// Knows what was proven before the last stop, and has upstream shown the pull secrets of namespaces.
    pub async fn new(config: AuthConfig, store: &Store, cache: &Cache, metrics: &Arc<Metrics>) -> Self {
        let rights = Arc::new(Rights::recall(store).await);
        let ring = Arc::new(Ring::new(Arc::clone(&rights), config.proof_ttl));
        if config.mode == AuthMode::Namespace {
            cache.join(Arc::clone(&ring) as _);
        }
        let inner = Inner {
            config,
            cache: cache.clone(),
            rights,
            ring,
            keys: watch::Sender::new(Vec::new()),
            refusals: Refusals::default(),
            away: moka::sync::Cache::builder().max_capacity(10_000).time_to_live(ask::AWAY_FOR).build(),
            metrics: Arc::clone(metrics),
        };
        Self { inner: Arc::new(inner) }
    }

    /// From here on pull secrets come from `wallet`.
    pub fn join(&self, wallet: Arc<dyn Wallet>) {
        self.inner.ring.join(wallet);
    }

    /// Tokens are checked with these keys from now on.
    pub fn set_keys(&self, keys: &[PullKey]) {
        self.inner.keys.send_if_modified(|known| {
            let differs = known != keys;
            if differs {
                keys.clone_into(known);
            }
            differs
        });
    }

    /// Keeps what is proven on disk, as long as it runs.
    pub async fn run(self, store: Store) {
        self.inner.rights.keep(&store).await;
    }

    /// Writes what is proven and not written yet.
    pub async fn flush(&self, store: &Store) {
        self.inner.rights.flush(store).await;
    }

    /// Namespaces that have proven their right to a repository, in order, and counts changes.
    #[must_use]
    pub fn proven(&self, repository: &Repository) -> Vec<String> {
        self.inner.rights.namespaces(repository, now_seconds(), self.inner.config.proof_ttl.as_secs())
    }

    /// Counts changes of what is proven.
    #[must_use]
    pub fn watch_proven(&self) -> watch::Receiver<u64> {
        self.inner.rights.watch()
    }

    /// Who was refused what, until somebody has taken note.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.inner.refusals
    }

    /// Finds out whether everybody may have an image that nobody has asked for yet, if that is not known: with its registry away it could not be.
    pub async fn learn(&self, image: &Image) {
        if self.inner.config.mode == AuthMode::Namespace {
            self.as_everybody(image.repository(), &Asked::Manifest(image.target())).await;
        }
    }

    /// Decides a request for something of a repository, with `shown` as its `Authorization`.
    ///
    /// # Errors
    /// When it is not to be answered; the error is the answer.
    pub async fn admit(&self, shown: Option<&HeaderValue>, repository: &Repository, asked: &Asked) -> Result<Requester, Refusal> {
        if self.inner.config.mode == AuthMode::None {
            return Ok(Requester::Anyone);
        }
        let was_open_until = match self.as_everybody(repository, asked).await {
            Everybody::As(requester) => return Ok(requester),
            Everybody::Until(since) => Some(since),
            Everybody::No => None,
        };
        let namespace = match token::read(shown, &self.inner.keys.borrow(), now_seconds()) {
            Ok(Some(namespace)) => namespace,
            Ok(None) => return Err(Refusal::challenge(repository)),
            Err(error) => {
                self.inner.metrics.access_refused("token");
                return Err(Refusal::bad_token(repository, &error));
            }
        };
        let outcome = self.admit_namespace(&namespace, repository, asked, was_open_until).await;
        // What was open once is given to whoever shows a token that is good, if its namespace has no right of its own, which would also show
        // it what came later. Not with the agent's own credentials: what they would fetch came later, too.
        if outcome.is_err() && self.was_got(repository, asked, was_open_until).await {
            return Ok(Requester::Nobody);
        }
        if let Err(refusal) = &outcome {
            self.inner.metrics.access_refused(refusal.reason());
            if let Some(image) = asked.image(repository) {
                let (reason, message) = (refusal.reason().to_owned(), refusal.to_string());
                self.inner.refusals.note(Refused { image, namespace: namespace.to_string(), at: now_seconds(), reason, message });
            }
        }
        outcome
    }
}
