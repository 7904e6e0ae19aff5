//! What is counted about pull secrets.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResultLabels {
    pub(super) result: &'static str,
}

/// The families. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(super) requests: Family<ResultLabels, Counter>,
    pub(super) helper_runs: Family<ResultLabels, Counter>,
}

impl Metrics {
    /// Registers every family.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let r = registry.sub_registry_with_prefix("credentials");
        r.register("requests", "Requests for pull secrets, by result: answered, none, forbidden, failed", metrics.requests.clone());
        r.register("helper_runs", "Runs of credential helpers, by result: answered, none, failed", metrics.helper_runs.clone());
        metrics
    }
}
