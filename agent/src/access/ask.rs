//! Asking upstream who may have what, when that is not known or was asked too long ago.
//!
//! What is known already is asked for again for `tags.revalidateTimeout` at most: then it counts as upstream being away.

use std::sync::Arc;
use std::time::Duration;

use super::rights::Openness;
use super::{Access, Refusal};
use crate::cache::{Asked, CacheError};
use crate::config::OnUpstreamDown;
use crate::oci::Repository;
use crate::requester::Requester;
use crate::store::now_seconds;
use crate::upstream::UpstreamError;

/// A repository that was not open is asked about again after this, in seconds.
const PRIVATE_SECONDS: u64 = 600;

/// What upstream says of a right.
enum Said {
    Granted,
    /// It refused, in these words.
    Refused(String),
    /// It does not have it, or hides it.
    Absent(CacheError),
    /// It could not be asked.
    Away(CacheError),
}

impl Said {
    fn of(outcome: Result<(), CacheError>) -> Self {
        match outcome {
            Ok(()) => Self::Granted,
            Err(CacheError::Upstream(error @ (UpstreamError::Denied { .. } | UpstreamError::Credentials { .. }))) => {
                Self::Refused(error.to_string())
            }
            Err(error) if error.is_not_found() => Self::Absent(error),
            Err(error) => Self::Away(error),
        }
    }
}

impl Access {
    /// Whether everybody may have it.
    pub(super) async fn is_open(&self, repository: &Repository, asked: &Asked) -> bool {
        let known = self.inner.rights.openness(repository);
        let known = if self.is_lately_known(known) { known } else { self.ask_openness(known, repository, asked).await };
        match known {
            Openness::Open { .. } => true,
            Openness::Closed { since, .. } => self.inner.cache.was_got_until(repository, asked, since).await,
            Openness::Private { .. } | Openness::Unknown => false,
        }
    }

    fn is_lately_known(&self, known: Openness) -> bool {
        let now = now_seconds();
        let is_within = |at: u64, seconds: u64| at <= now && now - at < seconds;
        match known {
            Openness::Open { at } => is_within(at, self.inner.config.proof_ttl.as_secs()),
            Openness::Closed { at, .. } | Openness::Private { at } => is_within(at, PRIVATE_SECONDS),
            Openness::Unknown => false,
        }
    }

    /// Asks upstream whether a repository is open. If it is away, what is known stays.
    async fn ask_openness(&self, known: Openness, repository: &Repository, asked: &Asked) -> Openness {
        // Where somebody has proven a right it was not open, and a pull does not wait for a registry that is away.
        let is_new = known == Openness::Unknown && !self.inner.rights.has_proofs(repository);
        let said = if is_new {
            Said::of(self.inner.cache.ask_leave(&self.as_nobody(), repository, asked).await)
        } else {
            self.ask_again(&self.as_nobody(), repository, asked).await
        };
        let now_known = match said {
            Said::Granted => known.after(true, now_seconds()),
            Said::Refused(_) | Said::Absent(_) => known.after(false, now_seconds()),
            Said::Away(_) => return known,
        };
        if matches!((known, now_known), (Openness::Open { .. }, Openness::Closed { .. })) {
            tracing::warn!(%repository, "upstream does not give the repository to everybody any more: what came until now is still open here");
        }
        self.inner.rights.set_openness(repository, now_known);
        now_known
    }

    /// With `auth.shareRegistryAuth`, what the agent's own credentials open is open to everybody.
    fn as_nobody(&self) -> Requester {
        if self.inner.config.share_registry_auth { Requester::Anyone } else { Requester::Nobody }
    }

    /// Whether a namespace may have it.
    pub(super) async fn admit_namespace(&self, namespace: &Arc<str>, repository: &Repository, asked: &Asked) -> Result<Requester, Refusal> {
        let requester = Requester::Namespace(Arc::clone(namespace));
        let (now, ttl) = (now_seconds(), self.inner.config.proof_ttl.as_secs());
        let proven_at = self.inner.rights.proven_at(repository, namespace);
        if proven_at.is_some_and(|at| at <= now && now - at < ttl) {
            return Ok(requester);
        }
        let said = match proven_at {
            Some(_) => self.ask_again(&requester, repository, asked).await,
            None => Said::of(self.inner.cache.ask_leave(&requester, repository, asked).await),
        };
        let may_go_by_the_last = proven_at.is_some() && self.inner.config.on_upstream_down == OnUpstreamDown::LastProven;
        match said {
            Said::Granted => {
                self.inner.rights.prove(repository, namespace, now_seconds());
                self.inner.metrics.access_proven("granted");
                Ok(requester)
            }
            Said::Refused(said) => {
                // Where its pull secrets could not be had, nothing was shown, and the refusal says nothing of the namespace.
                match self.inner.ring.secrets(namespace, repository).await {
                    Err(_) if may_go_by_the_last => Ok(self.by_the_last_proof(requester, repository)),
                    Err(why) => Err(Refusal::no_credentials(namespace, repository, &why)),
                    Ok(secrets) => {
                        self.inner.rights.disprove(repository, namespace);
                        self.inner.metrics.access_proven("refused");
                        Err(Refusal::denied(namespace, repository, &secrets, &said))
                    }
                }
            }
            Said::Absent(_) | Said::Away(_) if may_go_by_the_last => Ok(self.by_the_last_proof(requester, repository)),
            Said::Absent(error) | Said::Away(error) => Err(Refusal::unproven(namespace, repository, error)),
        }
    }

    fn by_the_last_proof(&self, requester: Requester, repository: &Repository) -> Requester {
        tracing::warn!(%repository, %requester, "going by the last proof of its right: upstream cannot confirm it");
        self.inner.metrics.access_proven("last");
        requester
    }

    async fn ask_again(&self, by: &Requester, repository: &Repository, asked: &Asked) -> Said {
        let limit: Duration = self.inner.cache.revalidate_timeout();
        match tokio::time::timeout(limit, self.inner.cache.ask_leave(by, repository, asked)).await {
            Ok(outcome) => Said::of(outcome),
            Err(_) => Said::Away(CacheError::Late { waited: limit }),
        }
    }
}
