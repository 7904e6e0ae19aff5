//! `kuik-agent gc`: the plan for people, with the reason for each image; and carrying it out.

use serde::Serialize;

use super::Disk;
use super::evict::Planned;
use super::plan::{Hold, Need};
use crate::store::now_seconds;

/// What `gc` would do, or did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GcReport {
    /// What the data directory may take; nothing where there is no limit.
    pub budget_bytes: Option<u64>,
    /// What it takes: before `gc`, and after it where it was carried out.
    pub used_bytes: u64,
    /// What it should take at the most afterwards: the low mark.
    pub target_bytes: Option<u64>,
    /// How long planning took, in microseconds, without the look at what is held.
    pub plan_micros: u64,
    /// What cannot be freed because it is held, in bytes.
    pub missing_bytes: u64,
    /// Every image, those that go first, in the order in which they go.
    pub images: Vec<GcImage>,
    /// What nothing references.
    pub orphans: GcOrphans,
}

/// What becomes of one image, and why.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GcImage {
    pub reference: String,
    /// `evict` or `keep`.
    pub action: &'static str,
    /// How much it is needed, or what holds it.
    pub reason: &'static str,
    /// Bytes of it on this node, each blob counted once.
    pub size_bytes: u64,
    pub last_used: Option<jiff::Timestamp>,
}

/// What nothing references, and goes too.
#[derive(Debug, Default, Serialize)]
pub struct GcOrphans {
    pub blobs: usize,
    pub bytes: u64,
}

impl Disk {
    /// Evicts down to the low mark, whatever the high one says, and deletes what nothing references; or only says what would go.
    pub async fn collect(&self, dry_run: bool) -> GcReport {
        let _turn = self.inner.turn.lock().await;
        let unused_since = now_seconds().saturating_sub(self.config().orphan_grace.as_secs());
        let orphans = self.inner.store.orphans(unused_since).await.unwrap_or_default();
        if !dry_run {
            self.inner.store.clear_quarantine().await;
            self.sweep().await;
        }
        let (budget, room, _) = self.look().await;
        let planned = self.plan(budget.above_low(&room)).await;
        let goes = if dry_run { planned.plan.evict.clone() } else { self.carry_out(&planned).await.1 };
        self.look().await;
        let limit = Some(budget.limit).filter(|limit| *limit < u64::MAX);
        GcReport {
            budget_bytes: limit,
            used_bytes: self.inner.store.room().used,
            target_bytes: limit.map(|_| budget.low),
            plan_micros: u64::try_from(planned.took.as_micros()).unwrap_or(u64::MAX),
            missing_bytes: planned.plan.missing_bytes,
            images: images(&planned, &goes),
            orphans: GcOrphans { blobs: orphans.blobs, bytes: orphans.bytes },
        }
    }
}

fn images(planned: &Planned, goes: &[usize]) -> Vec<GcImage> {
    let gone: std::collections::HashSet<usize> = goes.iter().copied().collect();
    let stays = (0..planned.holdings.len()).filter(|at| !gone.contains(at));
    let image = |at: usize, action| {
        let held = &planned.holdings[at].held;
        let used = i64::try_from(held.used_at).ok().filter(|at| *at > 0);
        GcImage {
            reference: held.image.clone(),
            action,
            reason: planned.candidates[at].standing.map_or_else(Hold::as_str, Need::as_str),
            size_bytes: held.size_bytes,
            last_used: used.and_then(|at| jiff::Timestamp::from_second(at).ok()),
        }
    };
    let mut images: Vec<GcImage> = goes.iter().map(|at| image(*at, "evict")).collect();
    let mut kept: Vec<GcImage> = stays.map(|at| image(at, "keep")).collect();
    kept.sort_by(|a, b| a.reference.cmp(&b.reference));
    images.extend(kept);
    images
}
