//! Pull secrets of namespaces, for agents that ask in the name of a pod on their node.
//!
//! ```text
//!  control ──▶ PullSecrets::ask ──▶ flight          one look for all who ask; what it found is remembered for moments
//!                                      └─▶ look ──▶ cluster    pods, service accounts, Secrets: from the API server itself
//!                                            ├────▶ secret     what is in a Secret (pure)
//!                                            └────▶ helpers    cloud identities
//! ```
//! Nobody is given the secrets of a namespace that has nothing to pull on their node. Secrets are in memory for as long as an answer is
//! remembered, are overwritten then, and are in no log and no `Debug`.

mod cluster;
mod flight;
mod helpers;
mod look;
mod metrics;
mod secret;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kube::Client;
use kuik_crd::Repository;
use tokio::time::timeout;

use self::cluster::Cluster;
use self::flight::Flights;
use self::helpers::Clouds;
use self::look::{Looker, Outcome};
pub use self::metrics::Metrics;
use self::metrics::ResultLabels;
use crate::config::CredentialHelper;

/// Who asks gets an answer within this: agents wait 5 s for one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Whose secrets, for what, on which node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The namespace: a DNS label.
    pub namespace: String,
    /// What is to be pulled.
    pub repository: Repository,
    /// The node that asks, as its token says.
    pub node: Arc<str>,
}

/// What there is to show for a namespace.
#[derive(Clone)]
pub struct Found {
    /// The answer as JSON: a [`kuik_crd::credentials::CredentialsAnswer`]. Overwritten when the last who has it drops it.
    pub json: Bytes,
    /// How many credentials are in it.
    pub credentials: usize,
    /// Names of the Secrets that were looked at.
    pub tried: Vec<String>,
    /// A line for each that could not be used.
    pub problems: Vec<String>,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { json: _, credentials, tried, problems } = self;
        let mut debug = f.debug_struct("Found");
        debug.field("credentials", credentials).field("tried", tried).field("problems", problems).finish_non_exhaustive()
    }
}

/// Why nothing is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has nothing to pull there.
    #[error(
        "the namespace {namespace} has no pod on the node {node} that is not finished: a node is given the pull secrets of namespaces with pods \
         on it, and of no others"
    )]
    NoPod {
        /// Whose secrets.
        namespace: String,
        /// Who asked.
        node: Arc<str>,
    },
    /// It cannot be said now.
    #[error("{0}: ask again")]
    Later(String),
}

/// Finds pull secrets. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PullSecrets {
    flights: Arc<Flights<Wanted, Outcome>>,
    looker: Arc<Looker>,
    metrics: Metrics,
}

impl PullSecrets {
    /// Looks where the client leads, and has `helpers` asked besides.
    #[must_use]
    pub fn new(client: Client, helpers: Vec<CredentialHelper>, metrics: Metrics) -> Self {
        let clouds = Clouds::new(helpers, None, metrics.clone());
        Self::with(client, clouds, metrics)
    }

    fn with(client: Client, clouds: Clouds, metrics: Metrics) -> Self {
        Self { flights: Arc::default(), looker: Arc::new(Looker::new(Cluster::new(client), clouds)), metrics }
    }

    /// What there is to show.
    ///
    /// # Errors
    /// When nothing is to be given, or nothing can be said now.
    ///
    /// # Cancel safety
    /// A look goes on when those who wait for it have gone.
    pub async fn ask(&self, wanted: Wanted) -> Outcome {
        let outcome = self.outcome(wanted).await;
        let result = match &outcome {
            Ok(found) if found.credentials > 0 => "answered",
            Ok(_) => "none",
            Err(Refused::NoPod { .. }) => "forbidden",
            Err(Refused::Later(_)) => "failed",
        };
        self.metrics.requests.get_or_create(&ResultLabels { result }).inc();
        outcome
    }

    async fn outcome(&self, wanted: Wanted) -> Outcome {
        let look = || Arc::clone(&self.looker).look(wanted.clone());
        let Some(mut heard) = self.flights.join(&wanted, look) else {
            return Err(Refused::Later("too many pull secrets are being looked for".to_owned()));
        };
        match timeout(ANSWER_TIMEOUT, heard.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(|| Err(broken())),
            // Looking ended without a word.
            Ok(Err(_)) => Err(broken()),
            Err(_) => Err(Refused::Later(format!("the pull secrets were not found within {} s", ANSWER_TIMEOUT.as_secs()))),
        }
    }
}

fn broken() -> Refused {
    Refused::Later("looking for the pull secrets failed, which is a defect of the webhook".to_owned())
}
