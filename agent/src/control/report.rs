//! Telling the control API what this node holds and has seen: soon after something changed, but never in quick succession.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kuik_crd::control::{Desired, Disk, Finding, Held, PROVEN_NAMES_MAX, REPORT_MAX_BYTES, Refused, Report, UpstreamState};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Parts;
use super::backoff::jitter;
use super::client::ControlError;
use super::delta::{Ledger, bound};
use crate::cache::{Blobs, HeldImage, Holding, ImageDetail};
use crate::oci::{Digest, Image, Repository, Target};
use crate::store::{UpstreamStatus, now_seconds};
use crate::telemetry;

/// Tells, again and again.
pub(super) async fn run(parts: Arc<Parts>, mut desired: watch::Receiver<Option<Desired>>) {
    let mut changes = parts.store.watch_changes();
    let mut findings = parts.cache.findings().watch();
    let mut refusals = parts.access.refusals().watch();
    let mut proven = parts.access.watch_proven();
    let mut reporter = Reporter::new(parts, desired.clone());
    let mut failures = 0;
    loop {
        changes.mark_unchanged();
        findings.mark_unchanged();
        refusals.mark_unchanged();
        proven.mark_unchanged();
        desired.mark_unchanged();
        match reporter.report().await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                reporter.parts.link.failed("report", &error);
                reporter.parts.metrics.control_report(error.reason());
                reporter.parts.wait_after(&error, failures).await;
                continue;
            }
        }
        loop {
            let changed = async {
                tokio::select! {
                    // The senders live as long as store, cache and polls.
                    _ = changes.changed() => {}
                    _ = findings.changed() => {}
                    _ = refusals.changed() => {}
                    _ = proven.changed() => {}
                    // Other digests may be pinned.
                    _ = desired.changed() => {}
                }
            };
            let due = reporter.due();
            if tokio::time::timeout_at(due, changed).await.is_err() {
                break;
            }
            reporter.settle(&mut changes).await;
            if reporter.is_worth_it().await {
                break;
            }
        }
    }
}

struct Reporter {
    parts: Arc<Parts>,
    boot: String,
    started_at: u64,
    /// Of the last report that may have arrived.
    sequence: u64,
    ledger: Ledger,
    desired: watch::Receiver<Option<Desired>>,
    pinned: Pinned,
    full_wanted: bool,
    last_full: Option<Instant>,
    last: Instant,
    /// The next report must not be sent before.
    earliest: Instant,
}

/// Digests that are pinned. Where an image with a tag contains one, nothing that is listed as held has its name.
#[derive(Debug, Default)]
struct Pinned {
    digests: HashMap<Repository, HashSet<Digest>>,
    /// What was found of them, and in which image: another look is due when something of that changed.
    found: HashMap<(Repository, Digest), (Blobs, Part)>,
}

/// What is here of a manifest that an image with a tag contains.
#[derive(Debug, Clone, Copy)]
struct Part {
    size_bytes: u64,
    complete: bool,
}

impl Reporter {
    fn new(parts: Arc<Parts>, mut desired: watch::Receiver<Option<Desired>>) -> Self {
        desired.mark_changed();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            parts,
            boot: format!("{}-{:x}", std::process::id(), now.as_nanos()),
            started_at: now.as_secs(),
            sequence: 0,
            ledger: Ledger::default(),
            desired,
            pinned: Pinned::default(),
            full_wanted: true,
            last_full: None,
            last: Instant::now(),
            earliest: Instant::now(),
        }
    }

    /// When a report is due, whether anything changes or not.
    fn due(&self) -> Instant {
        if self.full_wanted { self.earliest } else { self.earliest.max(self.last + self.parts.pace.heartbeat) }
    }

    /// Waits until nothing has changed for a moment, and until a report may be sent.
    async fn settle(&self, changes: &mut tokio::sync::watch::Receiver<u64>) {
        let pace = &self.parts.pace;
        let latest = Instant::now() + pace.settle_max;
        while tokio::time::timeout_at(latest.min(Instant::now() + pace.settle), changes.changed()).await.is_ok() {}
        tokio::time::sleep_until(self.earliest).await;
    }

    /// Whether there is more to tell than times of use. They go with the next report; until then nobody looks again for a while.
    async fn is_worth_it(&mut self) -> bool {
        let held = self.held().await;
        let has_news = !self.parts.cache.findings().waiting().is_empty() || !self.parts.access.refusals().waiting().is_empty();
        let worth_it = has_news || self.ledger.delta(&held).is_essential;
        if !worth_it {
            self.earliest = Instant::now() + self.parts.pace.settle_max;
        }
        worth_it
    }

    async fn held(&mut self) -> Vec<Held> {
        // What the index does not know yet is not gone.
        while self.parts.store.settled().await {}
        let holdings = self.parts.cache.holdings().await;
        let mut held = self.pinned_parts(&holdings).await;
        held.extend(holdings.into_iter().map(|holding| self.of_cache(&holding.repository, holding.held)));
        bound(held)
    }

    /// The pinned digests that images with tags contain, such as one platform's manifest of an index.
    async fn pinned_parts(&mut self, holdings: &[Holding]) -> Vec<Held> {
        if self.desired.has_changed().unwrap_or(false) {
            self.pinned.digests = by_digest(self.desired.borrow_and_update().as_ref());
        }
        let mut found = HashMap::new();
        for holding in holdings.iter().filter(|holding| matches!(holding.target, Target::Tag(_))) {
            let Some(pinned) = self.pinned.digests.get(&holding.repository) else { continue };
            let below = holding.manifests.iter().filter(|digest| **digest != holding.held.digest && pinned.contains(*digest));
            for digest in below {
                let key = (holding.repository.clone(), *digest);
                if found.contains_key(&key) {
                    continue;
                }
                let part = match self.pinned.found.get(&key) {
                    Some((blobs, part)) if Arc::ptr_eq(blobs, &holding.blobs) => *part,
                    _ => self.look_at(&key).await,
                };
                found.insert(key, (Arc::clone(&holding.blobs), part));
            }
        }
        self.pinned.found = found;
        let is_here = self.pinned.found.iter().filter(|(_, (_, part))| part.size_bytes > 0);
        is_here.map(|((repository, digest), (_, part))| self.of_part(repository, digest, *part)).collect()
    }

    async fn look_at(&self, (repository, digest): &(Repository, Digest)) -> Part {
        let detail = self.parts.cache.image(&Image::new(repository.clone(), None, Some(*digest))).await;
        detail.map_or(Part { size_bytes: 0, complete: false }, |ImageDetail { image, .. }| Part {
            size_bytes: image.size_bytes,
            complete: image.complete,
        })
    }

    fn of_part(&self, repository: &Repository, digest: &Digest, Part { size_bytes, complete }: Part) -> Held {
        let image = Image::new(repository.clone(), None, Some(*digest)).to_string();
        let used_at = self.parts.store.blob_record(digest).map_or(0, |record| record.used);
        self.of_cache(repository, HeldImage { image, digest: *digest, size_bytes, complete, used_at, tag: None })
    }

    /// An image that is here, with the namespaces that have proven their right to it.
    fn of_cache(&self, repository: &Repository, image: HeldImage) -> Held {
        let HeldImage { image, digest, size_bytes, complete, used_at, tag } = image;
        let upstream = tag.as_ref().map_or(UpstreamState::Unknown, |tag| match tag.upstream_status {
            UpstreamStatus::Ok => UpstreamState::Available,
            UpstreamStatus::NotFound => UpstreamState::NotFound,
            UpstreamStatus::Denied => UpstreamState::Denied,
            UpstreamStatus::RateLimited => UpstreamState::RateLimited,
            UpstreamStatus::Unavailable => UpstreamState::Unavailable,
        });
        let validated_at = tag.as_ref().map_or(0, |tag| tag.validated_at);
        // A clock that was set back must not make a check look like one of tomorrow.
        let checked_at = tag.as_ref().map_or(0, |tag| tag.checked_at.max(tag.validated_at)).min(now_seconds());
        let mut proven = self.parts.access.proven(repository);
        let proven_count = proven.len() as u64;
        proven.truncate(PROVEN_NAMES_MAX);
        let digest = digest.to_string();
        Held { image, digest, size_bytes, complete, used_at, checked_at, validated_at, upstream, proven, proven_count }
    }

    async fn report(&mut self) -> Result<(), ControlError> {
        self.parts.client.check()?;
        let looked_at = now_seconds();
        let held = self.held().await;
        let findings = self.parts.cache.findings().waiting();
        let refusals = self.parts.access.refusals().waiting();
        let full = self.full_wanted || self.last_full.is_none_or(|at| at.elapsed() >= self.parts.pace.full_every);
        let report = self.compose(full, &held, (findings.clone(), refusals.clone())).await;
        let (images, sequence) = (report.images.len(), report.sequence);
        let body = fit(report);
        let bytes = body.len();
        let answer = match self.parts.client.report(body).await {
            Ok(answer) => answer,
            Err(error) => {
                if !error.is_refusal() {
                    // It may have arrived all the same: then this number is taken.
                    self.sequence = sequence;
                }
                return Err(error);
            }
        };
        // From the answer on: to the server, too, the next one must not come sooner.
        self.last = Instant::now();
        self.earliest = self.last + self.parts.pace.report_interval + jitter(self.parts.pace.report_jitter);
        tracing::debug!(sequence, full, images, bytes, findings = findings.len(), full_wanted = answer.full_wanted, "reported");
        self.parts.link.succeeded("report");
        self.parts.metrics.control_report("ok");
        self.parts.cache.findings().told(&findings);
        self.parts.access.refusals().told(&refusals);
        self.sequence = sequence;
        self.ledger.settle(&held);
        if full {
            self.last_full = Some(self.last);
        }
        self.full_wanted = answer.full_wanted;
        if !answer.full_wanted {
            self.parts.heard_until.send_replace(looked_at);
        }
        Ok(())
    }

    async fn compose(&self, full: bool, held: &[Held], (findings, refusals): (Vec<Finding>, Vec<Refused>)) -> Report {
        let (images, removed) = if full {
            (held.to_vec(), Vec::new())
        } else {
            let delta = self.ledger.delta(held);
            (delta.images, delta.removed)
        };
        Report {
            boot: self.boot.clone(),
            sequence: self.sequence + 1,
            full,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            disk: self.disk().await,
            traffic: self.parts.metrics.traffic(),
            images,
            removed,
            findings,
            refusals,
        }
    }

    async fn disk(&self) -> Disk {
        let usage = self.parts.store.usage();
        let (capacity_bytes, free_bytes) = match self.parts.store.space().await {
            Ok(space) => (space.capacity, space.free),
            Err(error) => {
                tracing::debug!(error = %telemetry::chain(&error), "the file system does not say how much room there is");
                (0, 0)
            }
        };
        let status = self.parts.disk.status().borrow().clone();
        Disk {
            capacity_bytes,
            free_bytes,
            used_bytes: self.parts.store.room().used,
            budget_bytes: status.budget_bytes,
            blobs: usage.blobs,
            evicted_images: status.evicted_images,
            evicted_last_hour: status.evicted_last_hour,
            pressure: status.pressure,
            quarantined_blobs: usage.quarantined,
            last_quarantined: usage.last_quarantined.map(|digest| digest.to_string()),
        }
    }
}

/// The report as it is sent: as many of its images as there is room for. What is left out is told by a later full one, or never was of use
/// for long.
fn fit(mut report: Report) -> Vec<u8> {
    loop {
        let body = serde_json::to_vec(&report).expect("a report must serialise: it holds only numbers and strings");
        if body.len() <= REPORT_MAX_BYTES || report.images.is_empty() {
            return body;
        }
        report.images.sort_by_key(|held| std::cmp::Reverse(held.used_at));
        report.images.truncate(report.images.len() * 9 / 10);
    }
}

/// What is pinned by its digest.
fn by_digest(desired: Option<&Desired>) -> HashMap<Repository, HashSet<Digest>> {
    let mut digests: HashMap<Repository, HashSet<Digest>> = HashMap::new();
    for image in desired.into_iter().flat_map(|desired| &desired.pins).filter_map(|pin| pin.image.parse::<Image>().ok()) {
        if let Some(digest) = image.digest() {
            digests.entry(image.repository().clone()).or_default().insert(*digest);
        }
    }
    digests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_is_too_large_names_fewer_images() {
        let held = |number: u64| Held { image: "n".repeat(2000), used_at: number, ..Held::default() };
        let body = fit(Report { images: (0..6000).map(held).collect(), ..Report::default() });
        assert!(body.len() <= REPORT_MAX_BYTES && body.len() > REPORT_MAX_BYTES / 2, "{}", body.len());
        let report: Report = serde_json::from_slice(&body).unwrap();
        assert!(report.images.iter().all(|held| held.used_at >= 6000 - report.images.len() as u64));
    }
}
