//! What the control API counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CallLabels {
    pub(super) call: &'static str,
    pub(super) status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResultLabels {
    pub(super) result: &'static str,
}

/// The families. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(super) requests: Family<CallLabels, Counter>,
    pub(super) forwarded: Family<ResultLabels, Counter>,
    pub(super) polls: Gauge,
    pub(super) token_reviews: Family<ResultLabels, Counter>,
    pub(super) report_bytes: Counter,
}

impl Metrics {
    /// Registers every family.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let r = registry.sub_registry_with_prefix("control");
        r.register("requests", "Calls of agents, by call and class of the answer's status", metrics.requests.clone());
        r.register("forwarded", "Calls passed on to the leader, by result: answered, failed, given_up", metrics.forwarded.clone());
        r.register("polls", "Calls that wait for news", metrics.polls.clone());
        r.register(
            "token_reviews",
            "Tokens that the API server was asked about, by result: granted, denied, failed",
            metrics.token_reviews.clone(),
        );
        r.register_with_unit("report", "Bytes of reports taken", Unit::Bytes, metrics.report_bytes.clone());
        metrics
    }
}
