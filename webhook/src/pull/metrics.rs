//! What pull tokens and their keys are counted by. No label holds a namespace.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Created,
    Replaced,
    Deleted,
    /// Somebody else was faster.
    Stale,
    Failed,
}

/// The families. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    writes: Family<ResultLabels, Counter>,
    secrets: Family<StateLabels, Gauge>,
    oldest_expiry: Gauge,
    key_events: Family<EventLabels, Counter>,
    errors: Family<StepLabels, Counter>,
}

impl Metrics {
    /// Registers every family.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            writes: Family::default(),
            secrets: Family::default(),
            oldest_expiry: Gauge::default(),
            key_events: Family::default(),
            errors: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("pull");
        registry.register(
            "secret_writes",
            "Writes of the leader to Secrets that hold a namespace's token, by result",
            metrics.writes.clone(),
        );
        let help = "Namespaces, as the leader sees them, by the state of the Secret that holds their token";
        registry.register("secrets", help, metrics.secrets.clone());
        let help = "When the first token in a Secret expires, in seconds since 1970; 0 where there is none";
        registry.register("secret_oldest_expiry_timestamp_seconds", help, metrics.oldest_expiry.clone());
        registry.register("key_events", "What the leader did to the keys that tokens are signed with", metrics.key_events.clone());
        registry.register("errors", "Rounds of the leader that failed before a Secret was written, by step", metrics.errors.clone());
        metrics
    }

    pub(super) fn wrote(&self, written: Written) {
        let result = match written {
            Written::Created => "created",
            Written::Replaced => "replaced",
            Written::Deleted => "deleted",
            Written::Stale => "stale",
            Written::Failed => "failed",
        };
        self.writes.get_or_create(&ResultLabels { result }).inc();
    }

    /// Secrets that are as they should be, that are to be written, and that are not ours; and the first expiry of ours.
    pub(super) fn planned(&self, [good, waiting, foreign]: [usize; 3], oldest_expiry: Option<u64>) {
        for (state, count) in [("good", good), ("waiting", waiting), ("foreign", foreign)] {
            self.secrets.get_or_create(&StateLabels { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.oldest_expiry.set(i64::try_from(oldest_expiry.unwrap_or(0)).unwrap_or(i64::MAX));
    }

    /// This replica does not lead any more, and sees nothing.
    pub(super) fn unplanned(&self) {
        self.secrets.clear();
        self.oldest_expiry.set(0);
    }

    pub(super) fn key_event(&self, event: &'static str) {
        self.key_events.get_or_create(&EventLabels { event }).inc();
    }

    pub(super) fn error(&self, step: &'static str) {
        self.errors.get_or_create(&StepLabels { step }).inc();
    }
}
