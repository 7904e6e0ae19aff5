//! Pull secrets of namespaces, from the control API: kept in memory for moments, and never on disk.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use kuik_crd::credentials::Login;
use moka::sync::Cache;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::rights::{Openness, Rights};
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
}

/// Whoever can be asked for pull secrets.
pub trait Wallet: Send + Sync + fmt::Debug {
    /// The pull secrets of a namespace for a repository; the error says for people why there are none.
    fn fetch(&self, namespace: Arc<str>, repository: Repository) -> BoxFuture<'_, Result<Secrets, String>>;
}

#[derive(Debug, Clone)]
struct Kept {
    answer: Result<Secrets, String>,
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
    wallet: OnceLock<Arc<dyn Wallet>>,
    slots: Slots,
}

impl Ring {
    pub(super) fn new(rights: Arc<Rights>) -> Self {
        Self { rights, wallet: OnceLock::new(), slots: Cache::builder().max_capacity(ANSWERS_MAX).time_to_idle(STALE_FOR).build() }
    }

    pub(super) fn join(&self, wallet: Arc<dyn Wallet>) {
        // There is one control API, and it is joined once.
        let _ = self.wallet.set(wallet);
    }

    /// What a namespace has to show, from memory or from the control API.
    pub(super) async fn secrets(&self, namespace: &Arc<str>, repository: &Repository) -> Result<Secrets, String> {
        let slot = self.slots.get_with((Arc::clone(namespace), repository.clone()), Arc::default);
        let mut slot = slot.lock().await;
        if let Some(kept) = slot.as_ref().filter(|kept| kept.until > Instant::now()) {
            return kept.answer.clone();
        }
        let answer = self.ask(namespace, repository).await;
        let now = Instant::now();
        *slot = Some(match (answer, slot.take()) {
            (Ok(secrets), _) => Kept { answer: Ok(secrets), at: now, until: now + FRESH_FOR },
            (Err(_), Some(old)) if old.answer.is_ok() && old.at.elapsed() < STALE_FOR => Kept { until: now + FAILED_FOR, ..old },
            (Err(why), _) => Kept { answer: Err(why), at: now, until: now + FAILED_FOR },
        });
        slot.as_ref().map_or_else(|| Ok(Secrets::default()), |kept| kept.answer.clone())
    }

    async fn ask(&self, namespace: &Arc<str>, repository: &Repository) -> Result<Secrets, String> {
        let wallet = self.wallet.get().ok_or("the agent has no control API to ask")?;
        let asked = wallet.fetch(Arc::clone(namespace), repository.clone());
        let late = |_| format!("the control API gave no answer within {} s", ANSWER_TIMEOUT.as_secs());
        tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(late)?
    }
}

impl Keyring for Ring {
    fn of_namespace(&self, namespace: Arc<str>, repository: Repository) -> BoxFuture<'_, Keys> {
        Box::pin(async move {
            match self.secrets(&namespace, &repository).await {
                Ok(Secrets { logins, .. }) => Keys::new(logins, None),
                Err(why) => Keys::new([], Some(why)),
            }
        })
    }

    fn is_open(&self, repository: &Repository) -> bool {
        matches!(self.rights.openness(repository), Openness::Open { .. })
    }

    fn proven(&self, repository: &Repository) -> Vec<Arc<str>> {
        self.rights.latest(repository)
    }
}
