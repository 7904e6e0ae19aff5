//! What certificates are counted by.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
}

/// The families. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    expiry: Gauge,
    reloads: Counter,
    events: Family<EventLabels, Counter>,
    errors: Family<StepLabels, Counter>,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("certificate");
        let help = "When the certificate that this replica serves with expires, in seconds since 1970";
        registry.register("expiry_timestamp_seconds", help, self.expiry.clone());
        registry.register("reloads", "Certificates that this replica began to serve with", self.reloads.clone());
        let help = "What the leader did to certificates and their authority";
        registry.register("events", help, self.events.clone());
        registry.register("errors", "Failures to read, make, keep or publish certificates, by step", self.errors.clone());
    }

    pub(super) fn loaded(&self, expires_at: u64) {
        self.expiry.set(i64::try_from(expires_at).unwrap_or(i64::MAX));
        self.reloads.inc();
    }

    pub(super) fn event(&self, event: &'static str) {
        self.events.get_or_create(&EventLabels { event }).inc();
    }

    pub(super) fn error(&self, step: &'static str) {
        self.errors.get_or_create(&StepLabels { step }).inc();
    }
}
