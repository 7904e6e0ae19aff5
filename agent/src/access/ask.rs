//! Asking upstream who may have what, when that is not known or was asked too long ago.
//!
//! What is known already is asked for again for `tags.revalidateTimeout` at most: then it counts as upstream being away.

use std::sync::Arc;
use std::time::Duration;

use super::rights::{Openness, is_within};
use super::{Access, NoSecrets, Refusal};
use crate::cache::{Asked, CacheError, Leave};
use crate::config::OnUpstreamDown;
use crate::oci::Repository;
use crate::requester::Requester;
use crate::store::now_seconds;
use crate::upstream::UpstreamError;

/// A repository that was not open is asked about again after this, in seconds.
const PRIVATE_SECONDS: u64 = 600;

/// With its registry away, what is known of a repository is not asked for again for so long: each request of a pull would wait for it.
pub(super) const AWAY_FOR: Duration = Duration::from_secs(10);

/// What upstream says of a right.
enum Said {
    Granted(Leave),
    /// It refused, in these words.
    Refused(String),
    /// It refused, and not everything was shown that there is.
    NotShown(String),
    /// It does not have it, or hides it.
    Absent(CacheError),
    /// It could not be asked.
    Away(CacheError),
}

impl Said {
    fn of(outcome: Result<Leave, CacheError>) -> Self {
        match outcome {
            Ok(leave) => Self::Granted(leave),
            Err(CacheError::Upstream(error @ UpstreamError::Denied { .. })) => Self::Refused(error.to_string()),
            Err(CacheError::Upstream(error @ UpstreamError::Credentials { .. })) => Self::NotShown(error.to_string()),
            Err(error) if error.is_not_found() => Self::Absent(error),
            Err(error) => Self::Away(error),
        }
    }
}

/// Whether everybody may have something.
#[derive(Debug)]
pub(super) enum Everybody {
    /// Everybody may, and is this.
    As(Requester),
    /// Everybody might until this time, in seconds since 1970.
    Until(u64),
    No,
}

/// How far a repository is open, as upstream says at the moment.
enum Found {
    /// As it is known from here on.
    Known(Openness),
    /// It gave this one thing, which says nothing of others.
    ThisOnce,
}

impl Access {
    /// Whether everybody may have it.
    pub(super) async fn as_everybody(&self, repository: &Repository, asked: &Asked) -> Everybody {
        let known = self.inner.rights.openness(repository);
        let found = if self.is_lately_known(known) { Found::Known(known) } else { self.ask_openness(known, repository, asked).await };
        match found {
            Found::Known(Openness::Open { .. }) => Everybody::As(Requester::Anyone),
            Found::ThisOnce => Everybody::As(self.as_nobody()),
            Found::Known(Openness::Closed { since, .. }) => Everybody::Until(since),
            Found::Known(Openness::Private { .. } | Openness::Unknown) => Everybody::No,
        }
    }

    fn is_lately_known(&self, known: Openness) -> bool {
        match known {
            Openness::Open { at } => is_within(at, self.inner.config.proof_ttl.as_secs()),
            Openness::Closed { at, .. } | Openness::Private { at } => is_within(at, PRIVATE_SECONDS),
            Openness::Unknown => false,
        }
    }

    /// Asks upstream whether a repository is open. If it is away, what is known stays.
    async fn ask_openness(&self, known: Openness, repository: &Repository, asked: &Asked) -> Found {
        // Where somebody has proven a right it was not open, and a pull does not wait for a registry that is away.
        let is_new = known == Openness::Unknown && !self.inner.rights.has_proofs(repository);
        let said = if is_new {
            Said::of(self.inner.cache.ask_leave(&self.as_nobody(), repository, asked).await)
        } else {
            self.ask_again(&self.as_nobody(), repository, asked).await
        };
        let now_known = match said {
            Said::Granted(Leave::Manifest) => known.after(true, now_seconds()),
            Said::Granted(Leave::Other) if !matches!(known, Openness::Open { .. }) => return Found::ThisOnce,
            Said::Refused(_) | Said::Absent(_) => known.after(false, now_seconds()),
            Said::Away(CacheError::Upstream(UpstreamError::TooManyRequests { .. }))
                if known == Openness::Unknown && self.seems_open(repository).await =>
            {
                known.after(true, now_seconds())
            }
            // Less than a manifest changes nothing that is known.
            Said::Granted(_) | Said::NotShown(_) | Said::Away(_) => return Found::Known(known),
        };
        if matches!((known, now_known), (Openness::Open { .. }, Openness::Closed { .. })) {
            tracing::warn!(%repository, "upstream does not give the repository to everybody any more: what came until now is still open here");
        }
        self.inner.rights.set_openness(repository, now_known);
        Found::Known(now_known)
    }

    /// Whether upstream gives the list of tags to who shows nothing, to whom it gives no manifest at the moment because there were too many.
    /// The agent's own credentials, which are there for that, may then fetch it.
    async fn seems_open(&self, repository: &Repository) -> bool {
        let cache = &self.inner.cache;
        let is_given = cache.has_own_credentials(repository) && cache.ask_for_list(&self.as_nobody(), repository).await.is_ok();
        if is_given {
            tracing::info!(%repository, "upstream limits pulls by those who show nothing, and lists the repository's tags to them: taking it for open");
        }
        is_given
    }

    /// With `auth.shareRegistryAuth`, what the agent's own credentials open is open to everybody.
    fn as_nobody(&self) -> Requester {
        if self.inner.config.share_registry_auth { Requester::Anyone } else { Requester::Nobody }
    }

    /// Whether a namespace may have it.
    pub(super) async fn admit_namespace(
        &self,
        namespace: &Arc<str>,
        repository: &Repository,
        asked: &Asked,
        was_open_until: Option<u64>,
    ) -> Result<Requester, Refusal> {
        let requester = Requester::Namespace(Arc::clone(namespace));
        let proven_at = self.inner.rights.proven_at(repository, namespace);
        if proven_at.is_some_and(|at| is_within(at, self.inner.config.proof_ttl.as_secs())) {
            return Ok(requester);
        }
        let said = match proven_at {
            Some(_) => self.ask_again(&requester, repository, asked).await,
            // What came while it was open need not wait for a registry that is away.
            None if self.was_got(repository, asked, was_open_until).await => self.ask_again(&requester, repository, asked).await,
            None => Said::of(self.inner.cache.ask_leave(&requester, repository, asked).await),
        };
        let may_go_by_the_last = proven_at.is_some() && self.inner.config.on_upstream_down == OnUpstreamDown::LastProven;
        match said {
            // A proof takes a manifest: see `Leave`.
            Said::Granted(Leave::Other) => Ok(requester),
            Said::Granted(Leave::ListInstead) if may_go_by_the_last => Ok(self.by_the_last_proof(requester, repository)),
            Said::Granted(Leave::ListInstead) => Err(Refusal::not_there(namespace, repository)),
            Said::Granted(Leave::Manifest) => {
                self.inner.rights.prove(repository, namespace, now_seconds());
                self.inner.metrics.access_proven("granted");
                Ok(requester)
            }
            Said::Refused(said) | Said::NotShown(said) => {
                // Where its pull secrets could not all be had, not all was shown, and the refusal says nothing of the namespace.
                let secrets = self.inner.ring.secrets(namespace, repository).await;
                match secrets
                    .and_then(|secrets| if secrets.incomplete { Err(NoSecrets::Away(secrets.problems.join("; "))) } else { Ok(secrets) })
                {
                    Err(NoSecrets::Away(_)) if may_go_by_the_last => Ok(self.by_the_last_proof(requester, repository)),
                    Err(NoSecrets::Away(why) | NoSecrets::Refused(why)) => Err(Refusal::no_credentials(namespace, repository, &why)),
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

    /// Whether it came until a repository was closed.
    pub(super) async fn was_got(&self, repository: &Repository, asked: &Asked, was_open_until: Option<u64>) -> bool {
        match was_open_until {
            Some(until) => self.inner.cache.was_got_until(repository, asked, until).await,
            None => false,
        }
    }

    fn by_the_last_proof(&self, requester: Requester, repository: &Repository) -> Requester {
        tracing::warn!(%repository, %requester, "going by the last proof of its right: upstream cannot confirm it");
        self.inner.metrics.access_proven("last");
        requester
    }

    async fn ask_again(&self, by: &Requester, repository: &Repository, asked: &Asked) -> Said {
        let away = &self.inner.away;
        let known = away.get(&(None, repository.clone())).or_else(|| away.get(&(Some(by.clone()), repository.clone())));
        if let Some(error) = known {
            return Said::Away(error);
        }
        let limit: Duration = self.inner.cache.revalidate_timeout();
        let said = match tokio::time::timeout(limit, self.inner.cache.ask_leave(by, repository, asked)).await {
            Ok(outcome) => Said::of(outcome),
            Err(_) => Said::Away(CacheError::Late { waited: limit }),
        };
        // A registry may be slow for one, and answer another.
        let for_whom = match &said {
            Said::Away(CacheError::Upstream(UpstreamError::Unreachable { .. })) => None,
            Said::Away(CacheError::Late { .. } | CacheError::Upstream(UpstreamError::Stalled { .. })) => Some(by.clone()),
            _ => return said,
        };
        if let Said::Away(error) = &said {
            away.insert((for_whom, repository.clone()), error.clone());
        }
        said
    }
}
