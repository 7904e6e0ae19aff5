//! One round of making room: look at the disk, plan, delete in batches, say what could not be done.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::Duration;

use kuik_crd::control::{HeldBack, Pressure};
use tokio::time::Instant;

use super::budget::Budget;
use super::plan::{Candidate, Hold, Need, Plan, plan};
use super::{Disk, Status};
use crate::cache::{Cache, Holding};
use crate::oci::Repository;
use crate::store::{Removal, Room, ShortDigest, Space, Victim, now_seconds};
use crate::telemetry;

/// Images that are deleted in one go: each go looks at the whole index, and keeps manifests from being stored meanwhile.
const BATCH: usize = 16;

/// Less than this is no room for anything: others have filled the file system.
const LIMIT_MIN: u64 = 1 << 20;

/// Pressure is said to have ended when the budget was held for so long.
const CALM_FOR: Duration = Duration::from_secs(300);

/// Damaged manifests that are fetched again in one go.
const MENDS_MAX: usize = 16;

/// Reasons that are reported with what they hold.
const REASONS_MAX: usize = 8;

/// What is held, how much it is needed, and what is to go.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) holdings: Vec<Holding>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) plan: Plan,
    /// How long planning took, without the look at what is held.
    pub(super) took: Duration,
}

/// What a round came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) freed_bytes: u64,
    pub(super) missing_bytes: u64,
}

impl Disk {
    /// Measures the disk and sets the limit by which room is given out.
    pub(super) async fn look(&self) -> (Budget, Room, Option<Space>) {
        let store = &self.inner.store;
        if let Err(error) = store.measure().await {
            tracing::debug!(error = %telemetry::chain(&error), "the index cannot be measured");
        }
        let space = match store.space().await {
            Ok(space) => Some(space),
            Err(error) => {
                tracing::debug!(error = %telemetry::chain(&error), "the file system does not say how much room there is");
                None
            }
        };
        let budget = Budget::new(&self.config(), space, store.room().used);
        store.set_limit(budget.limit, budget.high);
        let room = store.room();
        self.publish(|status| {
            status.used_bytes = room.used;
            status.budget_bytes = Some(budget.limit).filter(|limit| *limit < u64::MAX);
        });
        (budget, room, space)
    }

    /// Makes room if the high mark was passed.
    pub(super) async fn make_room(&self) -> Outcome {
        let _turn = self.inner.turn.lock().await;
        let (budget, room, _) = self.look().await;
        if budget.limit < LIMIT_MIN {
            // Nothing fits, whatever goes.
            self.pressed(0, &[], &[]);
        }
        if budget.to_free(&room) == 0 {
            if budget.limit >= LIMIT_MIN {
                self.calm_down();
            }
            return Outcome::default();
        }
        // What nobody can use goes first.
        self.inner.store.clear_quarantine().await;
        self.sweep().await;
        let to_free = budget.to_free(&self.inner.store.room());
        let planned = self.plan(to_free).await;
        let (freed_bytes, _) = self.carry_out(&planned).await;
        let (budget, room, _) = self.look().await;
        // What was used meanwhile, and what came meanwhile, is for the next round; what is held is not.
        let still = budget.to_free(&room);
        let missing_bytes = if planned.plan.missing_bytes > 0 { still } else { 0 };
        if missing_bytes > 0 {
            self.pressed(missing_bytes, &planned.candidates, &planned.holdings);
        } else {
            self.calm_down();
        }
        Outcome { freed_bytes, missing_bytes }
    }

    /// Deletes what nothing references any more, after its grace period. Gives the bytes.
    pub(super) async fn sweep(&self) -> u64 {
        let unused_since = now_seconds().saturating_sub(self.config().orphan_grace.as_secs());
        match self.inner.store.sweep(unused_since).await {
            Ok(swept) => {
                if swept.blobs > 0 {
                    tracing::info!(blobs = swept.blobs, bytes = swept.bytes, "deleted blobs that no manifest references");
                    self.inner.metrics.evicted_bytes("orphan", swept.bytes);
                }
                swept.bytes
            }
            Err(error) => {
                tracing::error!(error = %telemetry::chain(&error), "blobs that no manifest references cannot be deleted");
                0
            }
        }
    }

    /// Looks at what is held, and plans.
    pub(super) async fn plan(&self, to_free: u64) -> Planned {
        // What the index does not know yet may be needed, and may be what takes the room.
        while self.inner.store.settled().await {}
        let holdings = self.inner.cache.holdings().await;
        let needs = self.needs();
        let began = Instant::now();
        let unreadable: HashSet<&Repository> =
            holdings.iter().filter(|holding| is_unreadable(holding)).map(|holding| &holding.repository).collect();
        let standing = |holding: &Holding| match needs.standing(holding) {
            Ok(_) if unreadable.contains(&holding.repository) => Err(Hold::Uncertain),
            standing => standing,
        };
        let candidate = |holding: &Holding| Candidate {
            standing: standing(holding),
            used_at: holding.held.used_at,
            blobs: std::sync::Arc::clone(&holding.blobs),
        };
        let candidates: Vec<Candidate> = holdings.iter().map(candidate).collect();
        let plan = plan(&candidates, to_free);
        let took = began.elapsed();
        let used = candidates.iter().map(|candidate| candidate.used_at).filter(|used_at| *used_at > 0);
        self.inner.metrics.oldest_image(used.min(), now_seconds());
        Planned { holdings, candidates, plan, took }
    }

    /// Fetches manifests again that are named here and cannot be read; as long as one cannot, nothing beside it can be evicted.
    pub(super) async fn mend(&self) {
        let Planned { holdings, .. } = self.plan(0).await;
        for Holding { held, .. } in holdings.iter().filter(|holding| is_unreadable(holding)).take(MENDS_MAX) {
            match self.inner.cache.refetch(&held.digest, Some(held.used_at)).await {
                Ok(_) => tracing::info!(image = %held.image, "a manifest that could not be read was fetched again"),
                Err(error) => tracing::warn!(image = %held.image, %error, "a manifest that cannot be read cannot be fetched again now"),
            }
        }
    }

    /// Deletes what the plan says, batch after batch. Gives the bytes of the blobs that went, and the places of the images that did.
    pub(super) async fn carry_out(&self, planned: &Planned) -> (u64, Vec<usize>) {
        let (mut freed, mut gone) = (0, Vec::new());
        for batch in planned.plan.evict.chunks(BATCH) {
            // Anew for each batch: it may have changed meanwhile.
            let needs = self.needs();
            let batch: Vec<usize> = batch.iter().copied().filter(|at| needs.standing(&planned.holdings[*at]).is_ok()).collect();
            let victims = batch.iter().map(|at| victim(&planned.holdings[*at], &self.inner.cache)).collect();
            match self.inner.store.remove_images(victims, needs.digests()).await {
                Ok(removals) => {
                    for (at, removal) in batch.into_iter().zip(removals) {
                        gone.extend(matches!(removal, Removal::Removed { .. }).then_some(at));
                        freed += self.tell(planned, at, removal);
                    }
                }
                Err(error) => {
                    tracing::error!(error = %telemetry::chain(&error), "images cannot be evicted");
                    break;
                }
            }
            self.inner.store.made_room(false);
        }
        (freed, gone)
    }

    /// Says what became of one image.
    fn tell(&self, planned: &Planned, at: usize, removal: Removal) -> u64 {
        let held = &planned.holdings[at].held;
        let image = &held.image;
        match removal {
            Removal::Removed { bytes, blobs } => {
                let need = planned.candidates[at].standing.map_or("", Need::as_str);
                tracing::info!(%image, bytes, blobs, need, used_at = held.used_at, "evicted an image");
                self.inner.metrics.evicted(need, bytes);
                self.hour().add(now_seconds());
                self.publish(|status| status.evicted_images += 1);
                bytes
            }
            Removal::Used(used_at) => {
                tracing::debug!(%image, used_at, "not evicting an image that was used a moment ago");
                0
            }
            Removal::Uncertain => {
                tracing::info!(%image, "not evicting an image beside a manifest that cannot be read");
                0
            }
            Removal::Absent | Removal::NotYet => 0,
        }
    }

    /// The budget cannot be held.
    fn pressed(&self, missing_bytes: u64, candidates: &[Candidate], holdings: &[Holding]) {
        *self.calm_since() = None;
        let held = held(candidates, holdings);
        if self.inner.status.borrow().pressure.is_none() {
            let why: Vec<String> = held.iter().map(|held| format!("{} {} ({} bytes)", held.images, held.reason, held.bytes)).collect();
            tracing::warn!(
                missing_bytes,
                held = why.join(", "),
                "the cache cannot make the room that it should: what comes passes through"
            );
        }
        self.publish(|status| {
            let since = status.pressure.as_ref().map_or_else(now_seconds, |pressure| pressure.since);
            status.pressure = Some(Pressure { since, missing_bytes, held });
        });
    }

    /// The budget is held. That is said after a while: every pull that finds no room would otherwise be a change to and fro.
    fn calm_down(&self) {
        let calm_for = self.calm_since().get_or_insert_with(Instant::now).elapsed();
        self.publish(|status| {
            if calm_for >= CALM_FOR {
                status.pressure = None;
            }
        });
    }

    fn calm_since(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.inner.calm_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, change: impl FnOnce(&mut Status)) {
        let evicted_last_hour = self.hour().count(now_seconds());
        self.inner.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            status.evicted_last_hour = evicted_last_hour;
            *status != before
        });
    }
}

/// An image whose own manifest is not here as it should be: what it needs is not known.
pub(super) fn is_unreadable(holding: &Holding) -> bool {
    let own = ShortDigest::from(&holding.held.digest);
    !holding.blobs.iter().any(|(digest, bytes)| *digest == own && *bytes > 0)
}

fn victim(holding: &Holding, cache: &Cache) -> Victim {
    Victim {
        repository: holding.repository.clone(),
        target: holding.target.clone(),
        unused_since: holding.held.used_at,
        only_if_certain: true,
        is_open: cache.is_open(&holding.repository),
    }
}

/// What holds what does not go, the largest first.
fn held(candidates: &[Candidate], holdings: &[Holding]) -> Vec<HeldBack> {
    let mut by_reason: std::collections::BTreeMap<Hold, HeldBack> = std::collections::BTreeMap::new();
    for (candidate, holding) in candidates.iter().zip(holdings) {
        if let Err(hold) = candidate.standing {
            let entry = by_reason.entry(hold).or_insert_with(|| HeldBack { reason: hold.as_str().to_owned(), ..HeldBack::default() });
            entry.images += 1;
            entry.bytes += holding.held.size_bytes;
        }
    }
    let mut held: Vec<HeldBack> = by_reason.into_values().collect();
    held.sort_by_key(|held| std::cmp::Reverse(held.bytes));
    held.truncate(REASONS_MAX);
    held
}
