//! Writes what a plan says: a few at a time, held to a rate, and never twice before the first write has been seen.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::iter;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource as _, ResourceExt as _};
use kuik_crd::{CachedImage, NodeCache};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::events::Events;
use super::metrics::Metrics;
use super::pace::Pace;
use super::plan::{Action, Expired, Note, Step, Target};

/// Requests at the same time.
const CONCURRENT_MAX: usize = 8;

/// Writes in a second, and at once.
const RATE: (u32, u32) = (50, 50);

/// Steps of one plan; the rest is planned again.
pub(super) const BATCH_MAX: usize = 100;

/// The most that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A write that was not seen within this is planned again.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// What failed is tried again after this at first, and after twice that each time,
const FAILED_FOR: Duration = Duration::from_secs(5);

/// until it is this.
const FAILED_FOR_MAX: Duration = Duration::from_secs(300);

/// Writes to the API.
#[derive(Debug)]
pub(super) struct Executor {
    images: Api<CachedImage>,
    node_caches: Api<NodeCache>,
    events: Events,
    metrics: Metrics,
    pace: Pace,
    settling: Settling,
}

/// Objects that were written to: they are left alone until the watch shows another version of them, or for a while.
#[derive(Debug, Default)]
struct Settling {
    objects: HashMap<(&'static str, String), Settled>,
}

#[derive(Debug)]
struct Settled {
    /// The version that was written to.
    version: Option<String>,
    until: Instant,
    failures: u32,
}

/// How a write ended.
#[derive(Debug)]
enum Outcome {
    Done(Option<ObjectReference>),
    /// Somebody else was faster: it is planned again.
    Stale,
    Failed(String),
}

impl Executor {
    pub(super) fn new(client: &Client, events: Events, metrics: Metrics) -> Self {
        Self {
            images: Api::all(client.clone()),
            node_caches: Api::all(client.clone()),
            events,
            metrics,
            pace: Pace::new(RATE.0, RATE.1),
            settling: Settling::default(),
        }
    }

    /// Takes the first steps of a plan. Says which images were deleted because they had expired, and whether steps are left.
    pub(super) async fn execute(&mut self, mut steps: Vec<Step>) -> (Vec<Expired>, bool) {
        self.settling.forget();
        steps.retain(|step| !self.settling.is_settling(&step.action));
        let is_more = steps.len() > BATCH_MAX;
        steps.truncate(BATCH_MAX);
        let this = &*self;
        let ended: Vec<(Step, Outcome)> = iter(steps)
            .map(|step| async move {
                this.pace.turn().await;
                let outcome = this.write(&step.action).await;
                (step, outcome)
            })
            .buffer_unordered(CONCURRENT_MAX)
            .collect()
            .await;
        let expired = ended.into_iter().filter_map(|(step, outcome)| self.ended(step, outcome)).collect();
        (expired, is_more)
    }

    /// Says something that no write goes with.
    pub(super) fn tell(&self, notes: Vec<(ObjectReference, Note)>) {
        notes.into_iter().for_each(|(about, note)| self.events.say(about, note));
    }

    /// When an object that was left alone may be written to again.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        self.settling.next()
    }

    fn ended(&mut self, step: Step, outcome: Outcome) -> Option<Expired> {
        let (kind, result) = (step.action.kind(), outcome.result());
        let name = step.action.name().to_owned();
        self.metrics.wrote(kind, result);
        match outcome {
            Outcome::Done(about) => {
                debug!(object = name, kind, "written");
                self.settling.wrote(&step.action);
                self.say(&step.action, about, step.notes);
                if let Action::DeleteImage(_, Some(expired)) = step.action {
                    info!(object = name, image = expired.image, "nothing has used the image until its expiry: deleted");
                    return Some(expired);
                }
            }
            Outcome::Stale => {
                debug!(object = name, kind, "changed meanwhile: planned again");
                self.settling.wrote(&step.action);
            }
            Outcome::Failed(error) => {
                warn!(object = name, kind, error, "could not be written: tried again");
                self.settling.failed(&step.action);
                if matches!(step.action, Action::DeleteImage(_, Some(_))) {
                    let text = format!("it could not be deleted at its expiry, and that will be tried again: {error}");
                    self.say(&step.action, None, vec![Note { is_warning: true, reason: "ExpiringFailed", text }]);
                }
            }
        }
        None
    }

    fn say(&self, action: &Action, about: Option<ObjectReference>, notes: Vec<Note>) {
        let about = about.unwrap_or_else(|| action.reference());
        for note in notes {
            self.events.say(about.clone(), note);
        }
    }

    async fn write(&self, action: &Action) -> Outcome {
        match timeout(REQUEST_TIMEOUT, self.request(action)).await {
            Ok(Ok(about)) => Outcome::Done(about),
            // Where a new object finds nothing, its definition is missing: that may last.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 || (status.code == 404 && !action.is_create()) => Outcome::Stale,
            Ok(Err(error)) => Outcome::Failed(error.to_string()),
            Err(_) => Outcome::Failed(format!("no answer in {REQUEST_TIMEOUT:?}")),
        }
    }

    async fn request(&self, action: &Action) -> kube::Result<Option<ObjectReference>> {
        let (post, patch) = (PostParams::default(), PatchParams::default());
        match action {
            Action::CreateImage(object) => return self.images.create(&post, object).await.map(|made| Some(made.object_ref(&()))),
            Action::PatchImage(target, change) => drop(self.images.patch(&target.name, &patch, &Patch::Merge(change)).await?),
            Action::WriteImageStatus(object) => drop(self.images.replace_status(&object.name_any(), &post, object).await?),
            Action::DeleteImage(target, _) => drop(self.images.delete(&target.name, &unchanged(target)).await?),
            Action::CreateNodeCache(object) => drop(self.node_caches.create(&post, object).await?),
            Action::WriteNodeCacheStatus(object) => drop(self.node_caches.replace_status(&object.name_any(), &post, object).await?),
            Action::DeleteNodeCache(target) => drop(self.node_caches.delete(&target.name, &unchanged(target)).await?),
        }
        Ok(None)
    }
}

/// Deletes the object that was meant, and as it was.
fn unchanged(target: &Target) -> DeleteParams {
    let preconditions = Preconditions { resource_version: target.version.clone(), uid: target.uid.clone() };
    DeleteParams::default().preconditions(preconditions)
}

impl Outcome {
    fn result(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Stale => "stale",
            Self::Failed(_) => "failed",
        }
    }
}

impl Action {
    fn kind(&self) -> &'static str {
        match self {
            Self::CreateImage(_) => "create_image",
            Self::PatchImage(..) => "patch_image",
            Self::WriteImageStatus(_) => "image_status",
            Self::DeleteImage(..) => "delete_image",
            Self::CreateNodeCache(_) => "create_node_cache",
            Self::WriteNodeCacheStatus(_) => "node_cache_status",
            Self::DeleteNodeCache(_) => "delete_node_cache",
        }
    }

    fn is_create(&self) -> bool {
        matches!(self, Self::CreateImage(_) | Self::CreateNodeCache(_))
    }

    /// The kind of the object and its name.
    fn object(&self) -> (&'static str, &str) {
        let is_image = matches!(self, Self::CreateImage(_) | Self::PatchImage(..) | Self::WriteImageStatus(_) | Self::DeleteImage(..));
        (if is_image { "CachedImage" } else { "NodeCache" }, self.name())
    }

    fn name(&self) -> &str {
        match self {
            Self::CreateImage(object) | Self::WriteImageStatus(object) => object.metadata.name.as_deref().unwrap_or_default(),
            Self::CreateNodeCache(object) | Self::WriteNodeCacheStatus(object) => object.metadata.name.as_deref().unwrap_or_default(),
            Self::PatchImage(target, _) | Self::DeleteImage(target, _) | Self::DeleteNodeCache(target) => &target.name,
        }
    }

    /// The version of the object that the plan was made for.
    fn version(&self) -> Option<&str> {
        match self {
            Self::CreateImage(_) | Self::CreateNodeCache(_) => None,
            Self::WriteImageStatus(object) => object.metadata.resource_version.as_deref(),
            Self::WriteNodeCacheStatus(object) => object.metadata.resource_version.as_deref(),
            Self::PatchImage(target, _) | Self::DeleteImage(target, _) | Self::DeleteNodeCache(target) => target.version.as_deref(),
        }
    }

    fn reference(&self) -> ObjectReference {
        let uid = match self {
            Self::CreateImage(object) | Self::WriteImageStatus(object) => object.uid(),
            Self::CreateNodeCache(object) | Self::WriteNodeCacheStatus(object) => object.uid(),
            Self::PatchImage(target, _) | Self::DeleteImage(target, _) | Self::DeleteNodeCache(target) => target.uid.clone(),
        };
        let (kind, name) = self.object();
        let api_version = Some(format!("{}/{}", kuik_crd::names::GROUP, kuik_crd::names::VERSION));
        ObjectReference { api_version, kind: Some(kind.to_owned()), name: Some(name.to_owned()), uid, ..ObjectReference::default() }
    }
}

impl Settling {
    /// A write went out, or came too late.
    fn wrote(&mut self, action: &Action) {
        self.settle(action, SEEN_WITHIN, 0);
    }

    fn failed(&mut self, action: &Action) {
        let failures = self.get(action).map_or(0, |settled| settled.failures);
        self.settle(action, (FAILED_FOR * 2_u32.pow(failures.min(10))).min(FAILED_FOR_MAX), failures + 1);
    }

    fn settle(&mut self, action: &Action, span: Duration, failures: u32) {
        let (kind, name) = action.object();
        let settled = Settled { version: action.version().map(str::to_owned), until: Instant::now() + span, failures };
        self.objects.insert((kind, name.to_owned()), settled);
    }

    fn is_settling(&self, action: &Action) -> bool {
        self.get(action).is_some_and(|settled| settled.version.as_deref() == action.version() && settled.until > Instant::now())
    }

    fn get(&self, action: &Action) -> Option<&Settled> {
        let (kind, name) = action.object();
        self.objects.get(&(kind, name.to_owned()))
    }

    /// When the next object may be written to again.
    fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        self.objects.values().map(|settled| settled.until).filter(|until| *until > now).min()
    }

    /// Forgets what is over; failures are remembered for as long again as they are waited for.
    fn forget(&mut self) {
        let now = Instant::now();
        self.objects.retain(|_, settled| settled.until > now || (settled.failures > 0 && settled.until + FAILED_FOR_MAX > now));
    }
}

#[cfg(test)]
mod tests;
