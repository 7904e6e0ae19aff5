//! Pull secrets of namespaces, from the control API: kept in memory for moments, and never on disk.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use kuik_crd::credentials::Login;
use moka::sync::Cache;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::rights::{Openness, Rights, is_within};
use crate::oci::Repository;
use crate::upstream::{Keyring, Keys};

/// An answer is good for so long: a secret that was changed or deleted counts within a minute, the control API's own memory included.
const FRESH_FOR: Duration = Duration::from_secs(30);

/// With the control API away, the last answer is used for so long.
const STALE_FOR: Duration = Duration::from_secs(600);

/// The control API must have answered after this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// After a failure it is asked again after this.
const FAILED_FOR: Duration = Duration::from_secs(2);

const ANSWERS_MAX: u64 = 10_000;

/// What a namespace has to show for a repository.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// Best first.
    pub logins: Vec<Login>,
    /// What each of them came from, for people: `Secret regcred`.
    pub shown: Vec<String>,
    /// Names of the Secrets that were looked at.
    pub tried: Vec<String>,
    /// A line for each that could not be used.
    pub problems: Vec<String>,
    /// Something that may hold a login could not be looked at: that none of these opens the repository says nothing of the namespace's right.
    pub incomplete: bool,
}

/// Why there are no pull secrets, for people.
#[derive(Debug, Clone)]
pub enum NoSecrets {
    /// Whoever has them did not answer.
    Away(String),
    /// They are not given to this node.
    Refused(String),
}

/// Whoever can be asked for pull secrets.
pub trait Wallet: Send + Sync + fmt::Debug {
    /// The pull secrets of a namespace for a repository.
    fn fetch(&self, namespace: Arc<str>, repository: Repository) -> BoxFuture<'_, Result<Secrets, NoSecrets>>;
}

#[derive(Debug, Clone)]
struct Kept {
    answer: Result<Secrets, NoSecrets>,
    /// When it was had.
    at: Instant,
    until: Instant,
}

/// By namespace and repository. The lock is held while the control API is asked, so that it is asked once for all who wait.
type Slots = Cache<(Arc<str>, Repository), Arc<Mutex<Option<Kept>>>>;

/// The pull secrets that are known at the moment.
#[derive(Debug)]
pub(super) struct Ring {
    rights: Arc<Rights>,
    proof_ttl: Duration,
    wallet: OnceLock<Arc<dyn Wallet>>,
    slots: Slots,
}

impl Ring {
    pub(super) fn new(rights: Arc<Rights>, proof_ttl: Duration) -> Self {
        Self {
            rights,
            proof_ttl,
            wallet: OnceLock::new(),
            slots: Cache::builder().max_capacity(ANSWERS_MAX).time_to_idle(STALE_FOR).build(),
        }
    }

    pub(super) fn join(&self, wallet: Arc<dyn Wallet>) {
        // There is one control API, and it is joined once.
        let _ = self.wallet.set(wallet);
    }

    /// What a namespace has to show, from memory or from the control API.
    pub(super) async fn secrets(&self, namespace: &Arc<str>, repository: &Repository) -> Result<Secrets, NoSecrets> {
        let slot = self.slots.get_with((Arc::clone(namespace), repository.clone()), Arc::default);
        let mut slot = slot.lock().await;
        if let Some(kept) = slot.as_ref().filter(|kept| kept.until > Instant::now()) {
            return kept.answer.clone();
        }
        let answer = self.ask(namespace, repository).await;
        let now = Instant::now();
        *slot = Some(match (answer, slot.take()) {
            (Ok(secrets), _) => Kept { answer: Ok(secrets), at: now, until: now + FRESH_FOR },
            (Err(NoSecrets::Away(_)), Some(old)) if old.answer.is_ok() && old.at.elapsed() < STALE_FOR => {
                Kept { until: now + FAILED_FOR, ..old }
            }
            (Err(why), _) => Kept { answer: Err(why), at: now, until: now + FAILED_FOR },
        });
        slot.as_ref().map_or_else(|| Ok(Secrets::default()), |kept| kept.answer.clone())
    }

    async fn ask(&self, namespace: &Arc<str>, repository: &Repository) -> Result<Secrets, NoSecrets> {
        let no_api = || NoSecrets::Away("the agent has no control API to ask".to_owned());
        let wallet = self.wallet.get().ok_or_else(no_api)?;
        let asked = wallet.fetch(Arc::clone(namespace), repository.clone());
        let late = |_| NoSecrets::Away(format!("the control API gave no answer within {} s", ANSWER_TIMEOUT.as_secs()));
        tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(late)?
    }
}

impl Keyring for Ring {
    fn of_namespace(&self, namespace: Arc<str>, repository: Repository) -> BoxFuture<'_, Keys> {
        Box::pin(async move {
            match self.secrets(&namespace, &repository).await {
                Ok(Secrets { logins, incomplete, problems, .. }) => Keys::new(logins, incomplete.then(|| problems.join("; "))),
                Err(NoSecrets::Away(why) | NoSecrets::Refused(why)) => Keys::new([], Some(why)),
            }
        })
    }

    fn is_open(&self, repository: &Repository) -> bool {
        matches!(self.rights.openness(repository), Openness::Open { .. })
    }

    fn may(&self, namespace: &Arc<str>, repository: &Repository) -> bool {
        self.rights.proven_at(repository, namespace).is_some_and(|at| is_within(at, self.proof_ttl.as_secs()))
    }

    fn proven(&self, repository: &Repository) -> Vec<Arc<str>> {
        self.rights.latest(repository)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex as StdMutex;

    #[derive(Debug)]
    struct Script(StdMutex<Vec<Result<Secrets, NoSecrets>>>);

    impl Wallet for Script {
        fn fetch(&self, _: Arc<str>, _: Repository) -> BoxFuture<'_, Result<Secrets, NoSecrets>> {
            let next = self.0.lock().unwrap().remove(0);
            Box::pin(async move { next })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_outlives_who_gave_it_for_a_while_and_no_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(dir.path()).unwrap();
        let ring = Ring::new(Arc::new(Rights::recall(&store).await), Duration::ZERO);
        let given = Secrets { shown: vec!["Secret regcred".to_owned()], ..Secrets::default() };
        let away = || Err(NoSecrets::Away("away".to_owned()));
        let script = vec![Ok(given), away(), Err(NoSecrets::Refused("no pod here".to_owned())), away()];
        ring.join(Arc::new(Script(StdMutex::new(script))));
        let (team, app) = (Arc::from("team"), Repository::from_path("registry.test/app").unwrap());
        assert!(ring.secrets(&team, &app).await.is_ok());
        tokio::time::advance(FRESH_FOR).await;
        assert_eq!(ring.secrets(&team, &app).await.unwrap().shown, ["Secret regcred"], "the last answer");
        tokio::time::advance(FAILED_FOR).await;
        assert!(matches!(ring.secrets(&team, &app).await, Err(NoSecrets::Refused(_))));
        tokio::time::advance(FAILED_FOR).await;
        assert!(matches!(ring.secrets(&team, &app).await, Err(NoSecrets::Away(_))), "what was refused is forgotten");
    }
}
