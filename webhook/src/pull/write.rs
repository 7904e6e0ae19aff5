//! Writes the Secrets that a plan says: a few at a time, held to a rate, and what failed again later and later.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::iter;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kuik_crd::pull_token::{PullSigner, SECRET_NAME};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::metrics::{Metrics, Written};
use super::plan::{Action, Step};
use super::secret::render;
use crate::lifecycle::pace::Pace;

/// Requests at the same time.
const CONCURRENT_MAX: usize = 8;

/// Writes in a second, and at once.
const RATE: (u32, u32) = (20, 50);

/// Steps that are taken before the next plan.
const BATCH_MAX: usize = 100;

/// The most that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A write that was not seen within this is planned again.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// So many writes to one Secret follow each other at once. Who goes on changing it after that is answered later and later,
const WRITES_AT_ONCE: u32 = 3;

/// up to this.
const FOUGHT_FOR_MAX: Duration = Duration::from_secs(60);

/// What failed is tried again after this at first, and after twice that each time,
const FAILED_FOR: Duration = Duration::from_secs(2);

/// until it is this.
const FAILED_FOR_MAX: Duration = Duration::from_secs(300);

/// What is written into Secrets.
#[derive(Debug)]
pub(super) struct Stamp<'a> {
    /// What rewritten images begin with.
    pub(super) host: &'a str,
    pub(super) owner: &'a OwnerReference,
    pub(super) signer: &'a PullSigner,
    /// Until when the tokens are good, in seconds since 1970.
    pub(super) until: u64,
}

/// Writes Secrets.
pub(super) struct Writer {
    client: Client,
    metrics: Metrics,
    pace: Pace,
    /// Namespaces that were written to: they are left alone until the watch shows another version of the Secret, or for a while.
    settling: HashMap<Arc<str>, Settled>,
}

#[derive(Debug)]
struct Settled {
    /// The version that was written to.
    version: Option<String>,
    until: Instant,
    /// Failures without a success between.
    failures: u32,
    /// Writes that followed each other.
    writes: u32,
}

/// How a write ended.
#[derive(Debug)]
enum Outcome {
    Done,
    /// Somebody else was faster, or the namespace is going: it is planned again.
    Stale,
    Failed(String),
}

impl Writer {
    pub(super) fn new(client: Client, metrics: Metrics) -> Self {
        Self { client, metrics, pace: Pace::new(RATE.0, RATE.1), settling: HashMap::new() }
    }

    /// Takes the first steps of a plan that are not to wait. How many were done, and whether steps are left that need not wait.
    pub(super) async fn execute(&mut self, mut steps: Vec<Step>, stamp: &Stamp<'_>) -> (usize, bool) {
        self.forget();
        steps.retain(|step| !self.is_settling(step));
        let is_more = steps.len() > BATCH_MAX;
        steps.truncate(BATCH_MAX);
        let this = &*self;
        let ended: Vec<(Step, Outcome)> = iter(steps)
            .map(|step| async move {
                this.pace.turn().await;
                let outcome = this.write(&step, stamp).await;
                (step, outcome)
            })
            .buffer_unordered(CONCURRENT_MAX)
            .collect()
            .await;
        let done = ended.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Done)).count();
        ended.into_iter().for_each(|(step, outcome)| self.ended(step, &outcome));
        (done, is_more)
    }

    /// When a namespace that was left alone may be written to again.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        let now = Instant::now();
        self.settling.values().map(|settled| settled.until).filter(|until| *until > now).min()
    }

    fn ended(&mut self, step: Step, outcome: &Outcome) {
        let (namespace, action) = (&step.namespace, step.action.as_str());
        let (failures, writes) = self.settling.get(namespace).map_or((0, 0), |settled| (settled.failures, settled.writes));
        let (failures, writes) = match outcome {
            Outcome::Done => {
                debug!(%namespace, action, "wrote the Secret {SECRET_NAME} of the namespace {namespace}");
                (0, writes + 1)
            }
            Outcome::Stale => {
                debug!(%namespace, action, "the Secret {SECRET_NAME} of the namespace {namespace} changed meanwhile: planned again");
                (failures, writes + 1)
            }
            Outcome::Failed(error) => {
                warn!(%namespace, action, error, "the Secret {SECRET_NAME} of the namespace {namespace} could not be written: tried again");
                (failures + 1, writes)
            }
        };
        self.metrics.wrote(match outcome {
            Outcome::Done => step.action.written(),
            Outcome::Stale => Written::Stale,
            Outcome::Failed(_) => Written::Failed,
        });
        let span = match (failures, writes.saturating_sub(WRITES_AT_ONCE)) {
            (0, 0) => SEEN_WITHIN,
            (0, more) => doubled(more).min(FOUGHT_FOR_MAX),
            (failures, _) => doubled(failures).min(FAILED_FOR_MAX),
        };
        let version = step.action.version().map(str::to_owned);
        self.settling.insert(step.namespace, Settled { version, until: Instant::now() + span, failures, writes });
    }

    async fn write(&self, step: &Step, stamp: &Stamp<'_>) -> Outcome {
        match timeout(REQUEST_TIMEOUT, self.request(step, stamp)).await {
            Ok(Ok(())) => Outcome::Done,
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) || is_ending(&status) => Outcome::Stale,
            Ok(Err(error)) => Outcome::Failed(error.to_string()),
            Err(_) => Outcome::Failed(format!("no answer in {REQUEST_TIMEOUT:?}")),
        }
    }

    async fn request(&self, step: &Step, stamp: &Stamp<'_>) -> kube::Result<()> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &step.namespace);
        let post = PostParams::default();
        let mut secret = render(stamp.host, &step.namespace, &stamp.signer.sign(&step.namespace, stamp.until), stamp.owner);
        match &step.action {
            Action::Create => drop(api.create(&post, &secret).await?),
            Action::Replace { version } => {
                secret.metadata.resource_version.clone_from(version);
                drop(api.replace(SECRET_NAME, &post, &secret).await?);
            }
            Action::Delete { uid, version } => {
                let preconditions = Preconditions { resource_version: version.clone(), uid: uid.clone() };
                drop(api.delete(SECRET_NAME, &DeleteParams::default().preconditions(preconditions)).await?);
            }
        }
        Ok(())
    }

    fn is_settling(&self, step: &Step) -> bool {
        let is_waited_for = |settled: &Settled| settled.writes > WRITES_AT_ONCE || settled.version.as_deref() == step.action.version();
        self.settling.get(&step.namespace).is_some_and(|settled| settled.until > Instant::now() && is_waited_for(settled))
    }

    /// Forgets what is over, and for how long it has gone on a while later.
    fn forget(&mut self) {
        let now = Instant::now();
        let remembered = |settled: &Settled| if settled.failures > 0 { FAILED_FOR_MAX } else { FOUGHT_FOR_MAX };
        self.settling.retain(|_, settled| settled.until + remembered(settled) > now);
    }
}

/// The pause after the first time, and twice that after each more.
fn doubled(times: u32) -> Duration {
    FAILED_FOR * 2_u32.pow(times.saturating_sub(1).min(10))
}

/// The namespace is being deleted, which the watch is about to tell.
fn is_ending(status: &kube::core::Status) -> bool {
    status.code == 403 && status.message.contains("being terminated")
}

impl Action {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Replace { .. } => "replace",
            Self::Delete { .. } => "delete",
        }
    }

    fn written(&self) -> Written {
        match self {
            Self::Create => Written::Created,
            Self::Replace { .. } => Written::Replaced,
            Self::Delete { .. } => Written::Deleted,
        }
    }

    /// The version of the Secret that the plan was made for.
    fn version(&self) -> Option<&str> {
        match self {
            Self::Create => None,
            Self::Replace { version } | Self::Delete { version, .. } => version.as_deref(),
        }
    }
}
