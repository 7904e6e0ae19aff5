//! Doing what the control API wants: what is to be kept is fetched, tags are asked for again, what is to go is deleted.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use kuik_crd::control::{Desired, Drop as Unwanted};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::Parts;
use crate::cache::{Cache, Platforms, Refreshed};
use crate::config::own_platform;
use crate::oci::{Digest, Image};
use crate::store::{Removal, Victim, now_seconds};
use crate::telemetry;

/// Images that are fetched at one time, and tags that are asked for at one time.
const RUNNING_MAX: usize = 2;

/// Works until it is dropped.
pub(super) async fn run(parts: Arc<Parts>, mut desired: watch::Receiver<Option<Desired>>) {
    let mut changes = parts.store.watch_changes();
    let mut worker = Worker::new(parts);
    worker.told(desired.borrow_and_update().clone().unwrap_or_default());
    loop {
        if worker.look_at <= Instant::now() {
            changes.mark_unchanged();
            worker.look().await;
        }
        worker.begin();
        tokio::select! {
            // The sender lives as long as the polls.
            told = desired.changed() => match told {
                Ok(()) => worker.told(desired.borrow_and_update().clone().unwrap_or_default()),
                Err(_) => return,
            },
            Some(done) = worker.running.join_next_with_id() => worker.done(done),
            changed = changes.changed() => match changed {
                Ok(()) => worker.look_at = worker.look_at.min(Instant::now() + worker.parts.pace.look_min),
                Err(_) => return,
            },
            () = tokio::time::sleep_until(worker.look_at) => {}
        }
    }
}

/// Work on one image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Job {
    Keep(Image),
    Refresh(Image),
}

impl Job {
    fn kind(&self) -> &'static str {
        match self {
            Self::Keep(_) => "keep",
            Self::Refresh(_) => "refresh",
        }
    }

    fn image(&self) -> &Image {
        let (Self::Keep(image) | Self::Refresh(image)) = self;
        image
    }
}

/// What became of a job.
#[derive(Debug)]
enum Done {
    Good,
    /// There was nothing to do.
    Nothing,
    Failed(String),
    /// The tag moved, and what it means now is not here as a whole.
    Unfinished(String),
}

#[derive(Debug)]
struct Retry {
    failures: u32,
    not_before: Instant,
}

struct Worker {
    parts: Arc<Parts>,
    platforms: Platforms,
    keep: BTreeSet<Image>,
    /// Tags to ask for, unless that was done at this time or later.
    refresh: BTreeMap<Image, u64>,
    /// For which time each of them was asked for last.
    asked: HashMap<Image, u64>,
    /// Images to delete, unless they were used later than this. What is done, or not to be done, is taken off.
    drop: Vec<(Image, u64)>,
    /// Manifests that are wanted by digest.
    by_digest: Vec<Image>,
    /// Images that were whole before their tag moved.
    unfinished: BTreeSet<Image>,
    /// Images that were found to be whole: what they meant, and how many blobs had gone by then. Reading their manifests again each time
    /// would cost more than all the rest.
    whole: HashMap<Image, (Digest, u64)>,
    retries: HashMap<Image, Retry>,
    waiting: VecDeque<Job>,
    running: JoinSet<Done>,
    jobs: HashMap<Id, Job>,
    look_at: Instant,
}

impl Worker {
    fn new(parts: Arc<Parts>) -> Self {
        Self {
            parts,
            platforms: Platforms::One(own_platform()),
            keep: BTreeSet::new(),
            refresh: BTreeMap::new(),
            asked: HashMap::new(),
            drop: Vec::new(),
            by_digest: Vec::new(),
            unfinished: BTreeSet::new(),
            whole: HashMap::new(),
            retries: HashMap::new(),
            waiting: VecDeque::new(),
            running: JoinSet::new(),
            jobs: HashMap::new(),
            look_at: Instant::now(),
        }
    }

    /// The control API wants something else.
    fn told(&mut self, desired: Desired) {
        let Desired { keep, refresh, drop, pins, judged: _, pull_keys: _ } = desired;
        let counts = [("keep", keep.len()), ("refresh", refresh.len()), ("drop", drop.len()), ("pin", pins.len())];
        counts.into_iter().for_each(|(kind, count)| self.parts.metrics.control_desired(kind, count));
        self.keep = keep.iter().filter_map(|image| read(image)).collect();
        self.refresh = refresh.iter().filter_map(|wanted| Some((read(&wanted.image)?, wanted.since))).collect();
        self.drop = drop.iter().filter_map(|Unwanted { image, unused_since }| Some((read(image)?, *unused_since))).collect();
        self.whole.retain(|image, _| self.keep.contains(image));
        self.asked.retain(|image, _| self.refresh.contains_key(image));
        let pinned = pins.iter().filter_map(|pin| read(&pin.image));
        self.by_digest = self.keep.iter().cloned().chain(pinned).filter(|image| image.digest().is_some()).collect();
        self.retries.retain(|image, _| self.keep.contains(image) || self.unfinished.contains(image));
        self.look_at = Instant::now();
    }

    /// Compares what is wanted with what is here.
    async fn look(&mut self) {
        let now = Instant::now();
        self.look_at = now + self.parts.pace.look_max;
        // What the index does not know yet may be here.
        while self.parts.store.settled().await {}
        self.drop_all().await;
        self.waiting = self
            .refresh
            .iter()
            .filter(|(image, since)| self.is_due(image, **since))
            .map(|(image, _)| Job::Refresh(image.clone()))
            .collect();
        let losses = self.parts.store.losses();
        let wanted: Vec<Image> = self.keep.iter().chain(&self.unfinished).cloned().collect();
        for image in wanted {
            if self.retries.get(&image).is_some_and(|retry| retry.not_before > now) {
                continue;
            }
            let seen = self.root(&image).map(|root| (root, losses));
            if seen.is_some() && self.whole.get(&image) == seen.as_ref() {
                continue;
            }
            if self.parts.cache.is_whole(&image, &self.platforms).await {
                self.retries.remove(&image);
                self.unfinished.remove(&image);
                seen.and_then(|seen| self.whole.insert(image, seen));
            } else {
                self.waiting.push_back(Job::Keep(image));
            }
        }
        let next = self.retries.values().map(|retry| retry.not_before).filter(|at| *at > now).min();
        self.look_at = next.map_or(self.look_at, |next| self.look_at.min(next));
    }

    /// What an image means here and now.
    fn root(&self, image: &Image) -> Option<Digest> {
        match image.digest() {
            Some(digest) => Some(*digest),
            None => Some(self.parts.store.tag(image.repository(), image.tag()?)?.digest),
        }
    }

    /// A tag that is here, and that nobody has asked upstream about since.
    fn is_due(&self, image: &Image, since: u64) -> bool {
        if self.asked.get(image) == Some(&since) && now_seconds() < since {
            // That time has not come yet by the clock of this node; asking again now would help nobody.
            return false;
        }
        let record = image.tag().filter(|_| image.digest().is_none()).and_then(|tag| self.parts.store.tag(image.repository(), tag));
        record.is_some_and(|record| record.checked_at.max(record.validated_at) < since)
    }

    /// Begins as much of what waits as may run.
    fn begin(&mut self) {
        let mut left = VecDeque::new();
        while let Some(job) = self.waiting.pop_front() {
            let busy = self.jobs.values().any(|running| running.image() == job.image());
            let of_its_kind = self.jobs.values().filter(|running| running.kind() == job.kind()).count();
            if busy {
                // Whatever is left to do is found at the next look.
                continue;
            }
            if of_its_kind >= RUNNING_MAX {
                left.push_back(job);
                continue;
            }
            if let (Job::Refresh(image), Some(since)) = (&job, self.refresh.get(job.image())) {
                self.asked.insert(image.clone(), *since);
            }
            let task = self.running.spawn(work(Arc::clone(&self.parts), job.clone(), self.platforms.clone()));
            self.jobs.insert(task.id(), job);
        }
        self.waiting = left;
    }

    fn done(&mut self, done: Result<(Id, Done), JoinError>) {
        let (id, done) = match done {
            Ok((id, done)) => (id, done),
            Err(error) => (error.id(), Done::Failed(format!("the work ended without a result: {error}"))),
        };
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        let (image, kind) = (job.image().clone(), job.kind());
        if matches!(done, Done::Unfinished(_)) {
            self.unfinished.insert(image.clone());
        }
        match done {
            Done::Nothing => {}
            Done::Good => {
                tracing::info!(%image, kind, "did what the control API wants");
                self.retries.remove(&image);
                self.unfinished.remove(&image);
                self.parts.metrics.control_pull(kind, true);
                self.parts.cache.findings().tell(image.to_string(), None);
            }
            Done::Failed(error) | Done::Unfinished(error) => {
                tracing::warn!(%image, kind, error, "what the control API wants could not be done");
                self.parts.metrics.control_pull(kind, false);
                self.parts.cache.findings().tell(image.to_string(), Some(&error));
                if self.keep.contains(&image) || self.unfinished.contains(&image) {
                    let failures = self.retries.get(&image).map_or(1, |retry| retry.failures.saturating_add(1));
                    let not_before = Instant::now() + self.parts.pace.retry.wait(failures);
                    self.look_at = self.look_at.min(not_before);
                    self.retries.insert(image, Retry { failures, not_before });
                }
            }
        }
    }

    async fn drop_all(&mut self) {
        let mut left = Vec::new();
        for (image, unused_since) in std::mem::take(&mut self.drop) {
            let busy = self.jobs.values().any(|job| *job.image() == image);
            if busy || !self.drop_one(&image, unused_since).await {
                left.push((image, unused_since));
            }
        }
        if !left.is_empty() {
            self.look_at = self.look_at.min(Instant::now() + self.parts.pace.look_min);
        }
        self.drop = left;
    }

    /// Deletes an image if it is to go. `false` if that has to be tried again.
    async fn drop_one(&mut self, image: &Image, unused_since: u64) -> bool {
        if self.keep.contains(image) || !self.is_here(image) {
            return true;
        }
        if self.parts.disk.is_pinned(image) {
            tracing::debug!(%image, "not dropping an image that somebody pinned on this node");
            return true;
        }
        let needed: Vec<Digest> = self
            .by_digest
            .iter()
            .filter(|other| other.repository() == image.repository())
            .filter_map(|other| other.digest().copied())
            .chain(self.parts.disk.pinned_digests(image.repository()))
            .collect();
        let repository = image.repository().clone();
        let is_open = self.parts.cache.is_open(&repository);
        let victim = Victim { repository, target: image.target(), unused_since, only_if_certain: false, is_open };
        match self.parts.store.remove_image(victim, needed).await {
            Ok(Removal::Removed { bytes, blobs }) => {
                tracing::info!(%image, bytes, blobs, unused_since, "dropped an image");
                self.parts.metrics.dropped(bytes);
                self.unfinished.remove(image);
                true
            }
            Ok(Removal::Used(used_at)) => {
                tracing::info!(%image, used_at, unused_since, "not dropping an image that was used since");
                true
            }
            Ok(Removal::Absent | Removal::Uncertain) => true,
            Ok(Removal::NotYet) => false,
            Err(error) => {
                tracing::error!(%image, error = %telemetry::chain(&error), "an image cannot be dropped");
                false
            }
        }
    }

    fn is_here(&self, image: &Image) -> bool {
        let store = &self.parts.store;
        match (image.digest(), image.tag()) {
            (Some(digest), _) => store.manifest_media_type(image.repository(), digest).is_some(),
            (None, Some(tag)) => store.tag(image.repository(), tag).is_some(),
            (None, None) => false,
        }
    }
}

/// A reference as the control API writes it.
fn read(image: &str) -> Option<Image> {
    image.parse().inspect_err(|error| tracing::warn!(image, %error, "the control API named what is no image reference")).ok()
}

async fn work(parts: Arc<Parts>, job: Job, platforms: Platforms) -> Done {
    let image = job.image().clone();
    let done = fetch(&parts.cache, job, &platforms).await;
    if matches!(done, Done::Good) {
        parts.access.learn(&image).await;
    }
    done
}

async fn fetch(cache: &Cache, job: Job, platforms: &Platforms) -> Done {
    match job {
        Job::Keep(image) => match cache.fetch(&image, platforms).await {
            Ok(()) => Done::Good,
            Err(error) => Done::Failed(error.to_string()),
        },
        Job::Refresh(image) => {
            let Some(tag) = image.tag() else {
                return Done::Nothing;
            };
            let was_whole = cache.is_whole(&image, platforms).await;
            match cache.refresh(image.repository(), tag).await {
                Refreshed::Absent => Done::Nothing,
                Refreshed::Same => Done::Good,
                Refreshed::Unconfirmed(reason) => Done::Failed(reason),
                Refreshed::Moved(_) if !was_whole => Done::Good,
                Refreshed::Moved(digest) => {
                    // By digest: the tag may be a moment behind.
                    let image = Image::new(image.repository().clone(), None, Some(digest));
                    match cache.fetch(&image, platforms).await {
                        Ok(()) => Done::Good,
                        Err(error) => Done::Unfinished(error.to_string()),
                    }
                }
            }
        }
    }
}
