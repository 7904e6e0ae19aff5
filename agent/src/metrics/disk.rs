//! What is counted about the disk: evictions, pressure, hashing anew.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry as Registered, Unit};

use super::{Metrics, ReasonLabels};
use crate::store::StoreError;

/// The families about the disk.
#[derive(Debug, Default)]
pub(super) struct DiskMetrics {
    pass_through: Family<ReasonLabels, Counter>,
    evicted_images: Family<ReasonLabels, Counter>,
    evicted_bytes: Family<ReasonLabels, Counter>,
    pressure: Counter<f64, AtomicU64>,
    oldest_image: Gauge,
    scrubbed_bytes: Counter,
    scrub_rounds: Counter,
}

impl DiskMetrics {
    pub(super) fn register_into(&self, r: &mut Registered) {
        let help = "Manifests and blobs served and not kept, by reason: no_room (the budget), disk (full, read-only or failing)";
        r.register("pass_through_pulls", help, self.pass_through.clone());
        let help = "Images evicted to make room, by how much they were needed: unused, used elsewhere, used here";
        r.register("evicted_images", help, self.evicted_images.clone());
        let help = "Bytes evicted with these images; orphan: of blobs that no manifest references";
        r.register_with_unit("evicted", help, Unit::Bytes, self.evicted_bytes.clone());
        let help = "Time in which the budget could not be held because what is left must stay";
        r.register_with_unit("pressure", help, Unit::Seconds, self.pressure.clone());
        let help = "Time since the image that is unused for longest was used";
        r.register_with_unit("oldest_image_age", help, Unit::Seconds, self.oldest_image.clone());
        r.register_with_unit("scrubbed", "Bytes of stored blobs hashed anew", Unit::Bytes, self.scrubbed_bytes.clone());
        r.register("scrub_rounds", "Rounds in which every stored blob was hashed anew", self.scrub_rounds.clone());
    }
}

impl Metrics {
    /// Something was served and not kept.
    pub fn passed_through(&self, error: &StoreError) {
        let reason = if matches!(error, StoreError::NoRoom { .. }) { "no_room" } else { "disk" };
        self.disk.pass_through.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// An image was evicted.
    pub fn evicted(&self, reason: &'static str, bytes: u64) {
        self.disk.evicted_images.get_or_create(&ReasonLabels { reason }).inc();
        self.evicted_bytes(reason, bytes);
    }

    /// Blobs were deleted to make room.
    pub fn evicted_bytes(&self, reason: &'static str, bytes: u64) {
        self.disk.evicted_bytes.get_or_create(&ReasonLabels { reason }).inc_by(bytes);
    }

    /// The budget could not be held for so long.
    pub fn pressure(&self, elapsed: Duration) {
        self.disk.pressure.inc_by(elapsed.as_secs_f64());
    }

    /// The image that is unused for longest was used at this time.
    pub fn oldest_image(&self, used_at: Option<u64>, now: u64) {
        let age = used_at.map_or(0, |used_at| now.saturating_sub(used_at));
        self.disk.oldest_image.set(i64::try_from(age).unwrap_or(i64::MAX));
    }

    /// So much was hashed anew.
    pub fn scrubbed(&self, bytes: u64) {
        self.disk.scrubbed_bytes.inc_by(bytes);
    }

    /// Everything was hashed anew.
    pub fn scrub_round(&self) {
        self.disk.scrub_rounds.inc();
    }
}
