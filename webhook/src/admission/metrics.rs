//! What the admission server counts. No label holds an image or a namespace.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::mutate::Outcome;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// How a review ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Images were rewritten, or labels and annotations added.
    Patched,
    /// There was nothing to do.
    Unpatched,
    /// The request was no review of a pod.
    Malformed,
    /// We failed, and the pod was let through as it was.
    Failed,
    /// The request took too long, or too many were there.
    Overloaded,
}

/// The families of the admission server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    reviews: Family<ResultLabels, Counter>,
    duration: Histogram,
    rewritten: Counter,
    skipped: Family<ReasonLabels, Counter>,
}

impl Metrics {
    /// Registers every family.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reviews: Family::default(),
            // 20 µs to 1.3 s.
            duration: Histogram::new(exponential_buckets(0.000_02, 2.0, 17)),
            rewritten: Counter::default(),
            skipped: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("admission");
        registry.register("reviews", "Admission reviews, by how they ended", metrics.reviews.clone());
        let help = "Time from a review's first byte to its answer";
        registry.register_with_unit("review_duration", help, Unit::Seconds, metrics.duration.clone());
        registry.register("images_rewritten", "Images of containers that were rewritten", metrics.rewritten.clone());
        registry.register("images_skipped", "Images of containers that were left as they were, by reason", metrics.skipped.clone());
        metrics
    }

    pub(super) fn ended(&self, ended: Ended, took: Duration) {
        let result = match ended {
            Ended::Patched => "patched",
            Ended::Unpatched => "unpatched",
            Ended::Malformed => "malformed",
            Ended::Failed => "failed",
            Ended::Overloaded => "overloaded",
        };
        self.reviews.get_or_create(&ResultLabels { result }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(super) fn outcome(&self, outcome: &Outcome) {
        self.rewritten.inc_by(outcome.changes.len() as u64);
        for reason in &outcome.skips {
            self.skipped.get_or_create(&ReasonLabels { reason: reason.as_str() }).inc();
        }
    }
}
