//! The metric families of the lifecycle. No label holds an image.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::plan::Sort;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ImageLabels {
    phase: &'static str,
    cached: &'static str,
    expiring: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    result: &'static str,
}

/// The families. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    families: Arc<Families>,
}

#[derive(Debug)]
struct Families {
    leader: Gauge,
    images: Family<ImageLabels, Gauge>,
    writes: Family<WriteLabels, Counter>,
    plan_duration: Histogram,
    events_dropped: Counter,
    refusals: Family<ReasonLabels, Counter>,
}

impl Metrics {
    /// Registers every family.
    pub fn register(registry: &mut Registry) -> Self {
        let families = Families {
            leader: Gauge::default(),
            images: Family::default(),
            writes: Family::default(),
            plan_duration: Histogram::new(exponential_buckets(0.000_5, 2.0, 12)),
            events_dropped: Counter::default(),
            refusals: Family::default(),
        };
        registry.register("leader", "Whether this replica leads", families.leader.clone());
        registry.register("cached_images", "CachedImages, as the leader sees them", families.images.clone());
        registry.register("writes", "Writes of the leader to the Kubernetes API, by kind and result", families.writes.clone());
        let help = "Time that the leader took to decide what is to be done";
        registry.register_with_unit("plan_duration", help, Unit::Seconds, families.plan_duration.clone());
        registry.register("events_dropped", "Events that were not sent because too many waited", families.events_dropped.clone());
        let help = "Private images that agents refused to namespaces, as the leader heard, by reason";
        registry.register("pull_refusals", help, families.refusals.clone());
        Self { families: Arc::new(families) }
    }

    pub(super) fn leads(&self, leads: bool) {
        self.families.leader.set(i64::from(leads));
        if !leads {
            self.families.images.clear();
        }
    }

    pub(super) fn planned(&self, seconds: f64, census: &BTreeMap<Sort, i64>) {
        self.families.plan_duration.observe(seconds);
        self.families.images.clear();
        let text = |flag| if flag { "true" } else { "false" };
        for (sort, count) in census {
            let labels = ImageLabels { phase: sort.phase, cached: text(sort.cached), expiring: text(sort.expiring) };
            self.families.images.get_or_create(&labels).set(*count);
        }
    }

    pub(super) fn wrote(&self, kind: &'static str, result: &'static str) {
        self.families.writes.get_or_create(&WriteLabels { kind, result }).inc();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.families.refusals.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(super) fn event_dropped(&self) {
        self.families.events_dropped.inc();
    }
}
