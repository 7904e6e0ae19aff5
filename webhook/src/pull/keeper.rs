//! What the leader does: keeps the keys, and the Secret `kuik-pull` of each namespace whose pods may be rewritten.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, ObjectReference, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use kuik_crd::pull_token::{PullSigner, SECRET_NAME};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::metrics::Metrics;
use super::plan::{Ignored, IsThere, Plan, Wanted, plan, read_namespace};
use super::ring::{Held, Ring, RingError};
use super::secret::{PullSecret, fingerprint, read};
use super::write::{Stamp, Writer};
use crate::board::Board;
use crate::config::Settings;
use crate::lifecycle::events::{Events, events};
use crate::lifecycle::mirror::Mirror;
use crate::lifecycle::{self, Note};
use crate::naming::Names;

/// The least time from one round to the next.
const ROUND_EVERY: Duration = Duration::from_millis(100);

/// The most time from one round to the next, and from one look at the keys to the next.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A round that failed is tried again after this at first, and after twice that each time,
const FAILED_FOR: Duration = Duration::from_secs(1);

/// until it is this.
const FAILED_FOR_MAX: Duration = Duration::from_secs(60);

/// What the leader works with.
pub(super) struct Keeper {
    pub(super) client: Client,
    pub(super) names: Arc<Names>,
    pub(super) settings: Arc<Settings>,
    pub(super) board: Board,
    pub(super) metrics: Metrics,
    /// Events are counted among those of the lifecycle.
    pub(super) lifecycle_metrics: lifecycle::Metrics,
}

/// What the API server has.
struct Mirrors {
    namespaces: Mirror<IsThere>,
    secrets: Mirror<PullSecret>,
    /// Counts their changes.
    changes: watch::Receiver<u64>,
}

/// What is known from one round to the next.
#[derive(Default)]
struct Memory {
    held: Option<Held>,
    /// When the keys are looked at again.
    keys_due: Option<Instant>,
    /// Versions of Secrets whose token was found to be genuine, by namespace.
    genuine: HashMap<Arc<str>, Option<String>>,
    /// Versions of Secrets that are not ours and were complained about, by namespace.
    foreign: HashMap<Arc<str>, Option<String>>,
    /// The last failure, which is not told twice.
    complained: Option<String>,
    failures: u32,
}

impl Keeper {
    /// Works as long as nobody drops it; returns only if it cannot go on.
    pub(super) async fn work(&self) {
        let mut tasks = JoinSet::new();
        let (changed, changes) = watch::channel(0);
        let mirrors = Mirrors {
            namespaces: Mirror::new("Namespace", changed.clone()),
            secrets: Mirror::new("Secret of pull tokens", changed),
            changes,
        };
        let namespaces = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        tasks.spawn(mirrors.namespaces.clone().watch(namespaces, Config::default(), |namespace| read_namespace(&namespace)));
        let host = self.settings.agent_address.clone();
        // The selector is what lets RBAC limit the watch to Secrets of this name.
        let only = Config::default().fields(&format!("metadata.name={SECRET_NAME}"));
        let keep = move |secret: Secret| read(&secret, &host);
        tasks.spawn(mirrors.secrets.clone().watch(Api::all(self.client.clone()), only, keep));
        let (events, sender) = events(self.client.clone(), self.names.pod_name.clone(), self.lifecycle_metrics.clone());
        tasks.spawn(sender.run());
        tokio::select! {
            () = self.keep_on(&mirrors, &events) => {}
            Some(ended) = tasks.join_next() => {
                let reason = ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned());
                tracing::error!(reason, "a task of the keeper of pull tokens has ended: it begins anew");
            }
        }
    }

    async fn keep_on(&self, mirrors: &Mirrors, events: &Events) {
        let mut ring =
            Ring::new(self.client.clone(), Arc::clone(&self.names), self.settings.auth, self.board.clone(), self.metrics.clone());
        let mut writer = Writer::new(self.client.clone(), self.metrics.clone());
        let ignored = Ignored::new(&self.settings.ignored_namespaces, &self.names.namespace);
        let (mut memory, mut changes) = (Memory::default(), mirrors.changes.clone());
        loop {
            changes.borrow_and_update();
            let began = Instant::now();
            match self.round(mirrors, events, &ignored, (&mut ring, &mut writer, &mut memory)).await {
                Ok(next) => {
                    (memory.complained, memory.failures) = (None, 0);
                    sleep_until(began + ROUND_EVERY).await;
                    tokio::select! {
                        Ok(()) = changes.changed() => {}
                        () = sleep_until(next) => {}
                    }
                }
                Err(error) => sleep_until(began + self.pause_after(&error, &mut memory)).await,
            }
        }
    }

    fn pause_after(&self, error: &RingError, memory: &mut Memory) -> Duration {
        self.metrics.error(error.step());
        let line = crate::telemetry::chain(error);
        if memory.complained.as_ref() != Some(&line) {
            tracing::error!("no pull token is written, trying again: {line}");
            memory.complained = Some(line);
        }
        let pause = (FAILED_FOR * 2_u32.pow(memory.failures.min(10))).min(FAILED_FOR_MAX);
        memory.failures += 1;
        pause
    }

    /// One look at everything, and what follows from it. When the next is due at the latest.
    async fn round(
        &self,
        mirrors: &Mirrors,
        events: &Events,
        ignored: &Ignored,
        (ring, writer, memory): (&mut Ring, &mut Writer, &mut Memory),
    ) -> Result<Instant, RingError> {
        let now = unix_now();
        let keys_due = match (&memory.held, memory.keys_due) {
            (Some(_), Some(due)) if due > Instant::now() => due,
            _ => {
                let (held, next_check) = ring.turn(now).await?;
                let due = Instant::now() + next_check.min(LOOK_EVERY);
                (memory.held, memory.keys_due) = (Some(held), Some(due));
                due
            }
        };
        let next = keys_due;
        let Some(held) = &memory.held else { return Ok(next) };
        if !mirrors.namespaces.health().synced || !mirrors.secrets.health().synced {
            return Ok(next);
        }
        let (namespaces, secrets) = (mirrors.namespaces.objects(), mirrors.secrets.objects());
        let key = held.signer.key();
        let token_seconds = self.settings.auth.token_lifetime.as_secs();
        let wanted = Wanted { ignored, key: &key.id, owner: &held.owner.uid, token_seconds };
        let genuine = &mut memory.genuine;
        let plan = plan(&namespaces, &secrets, &wanted, |namespace, secret| is_genuine(genuine, &held.signer, namespace, secret), now);
        genuine.retain(|namespace, _| secrets.contains_key(namespace));
        self.metrics.planned([plan.good, plan.steps.len(), plan.foreign.len()], plan.oldest_expiry);
        complain(events, &mut memory.foreign, &plan, |namespace| secrets.get(namespace).map(|secret| &**secret));
        let stamp = Stamp { host: &self.settings.agent_address, owner: &held.owner, signer: &held.signer, until: now + token_seconds };
        let (done, is_more) = writer.execute(plan.steps, &stamp).await;
        if done > 0 {
            tracing::info!(done, "wrote {done} Secrets {SECRET_NAME} of namespaces");
        }
        if is_more {
            return Ok(Instant::now());
        }
        let renewal =
            plan.next_due.map_or(next, |due| Instant::now() + Duration::from_secs(due.saturating_sub(now).max(1)).min(LOOK_EVERY));
        Ok(next.min(renewal).min(writer.next_wakeup().unwrap_or(next)))
    }
}

/// Whether the token of a Secret is what our key signs for this namespace: somebody may have changed a part of it. Looked at once for each
/// version of a Secret.
fn is_genuine(known: &mut HashMap<Arc<str>, Option<String>>, signer: &PullSigner, namespace: &Arc<str>, secret: &PullSecret) -> bool {
    if known.get(namespace).is_some_and(|version| version.is_some() && *version == secret.version) {
        return true;
    }
    let is_genuine = fingerprint(&signer.sign(namespace, secret.until)) == secret.fingerprint;
    if is_genuine {
        known.insert(Arc::clone(namespace), secret.version.clone());
    }
    is_genuine
}

/// Says of each Secret that is not ours, once for each version of it, that it is in the way.
fn complain<'a>(
    events: &Events,
    said: &mut HashMap<Arc<str>, Option<String>>,
    plan: &Plan,
    secret: impl Fn(&Arc<str>) -> Option<&'a PullSecret>,
) {
    said.retain(|namespace, _| plan.foreign.contains(namespace));
    for namespace in &plan.foreign {
        let Some(found) = secret(namespace) else { continue };
        if said.insert(Arc::clone(namespace), found.version.clone()).is_some_and(|version| version == found.version) {
            continue;
        }
        let text = format!(
            "this Secret is not kube-image-keeper's and is left alone. Pods of the namespace {namespace} show it to the agents all the same, \
             and get no private image until it is deleted"
        );
        tracing::warn!(%namespace, "a Secret {SECRET_NAME} that is not ours is in the way in the namespace {namespace}");
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(SECRET_NAME.to_owned()),
            namespace: Some(namespace.to_string()),
            uid: found.uid.clone(),
            ..ObjectReference::default()
        };
        events.say(about, Note::warning("NotOurs", text));
    }
}

/// Tokens are about the calendar, not about time passed.
fn unix_now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}
