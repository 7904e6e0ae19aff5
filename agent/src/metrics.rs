//! Every metric family, registered once. No label holds a digest, a tag or a repository; registries are counted by name up to a bound.

mod disk;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kuik_crd::control::Traffic;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry as Registered, Unit};

use crate::oci::Registry;
use crate::store::Store;

/// Registries that are counted by name; those beyond are counted as `other`.
const REGISTRIES_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub kind: &'static str,
    pub method: &'static str,
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AnswerLabels {
    pub kind: &'static str,
    pub origin: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    pub kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RegistryLabels {
    pub registry: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabels {
    pub registry: String,
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabels {
    pub result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WorkLabels {
    pub kind: &'static str,
    pub result: &'static str,
}

/// The families.
#[derive(Debug)]
pub struct Metrics {
    pub requests: Family<RequestLabels, Counter>,
    pub answers: Family<AnswerLabels, Counter>,
    pub stale: Family<ReasonLabels, Counter>,
    pub served_bytes: Counter,
    pub first_byte: Family<KindLabels, Histogram>,
    pub duration: Family<KindLabels, Histogram>,
    pub connections: Gauge,
    pub streams_detached: Counter,
    pub control_up: Gauge,
    control_last_success: Gauge,
    control_reports: Family<ResultLabels, Counter>,
    control_desired: Family<KindLabels, Gauge>,
    control_pulls: Family<WorkLabels, Counter>,
    dropped_images: Counter,
    access_refused: Family<ReasonLabels, Counter>,
    access_proofs: Family<ResultLabels, Counter>,
    dropped_bytes: Counter,
    disk: disk::DiskMetrics,
    fills: Gauge,
    /// Of all registries together.
    fetched_total: AtomicU64,
    fetched_bytes: Family<RegistryLabels, Counter>,
    upstream_requests: Family<RegistryLabels, Counter>,
    upstream_errors: Family<ErrorLabels, Counter>,
    /// Held for a lookup or an insertion, never across an await.
    registries: Mutex<BTreeSet<String>>,
}

impl Metrics {
    /// Registers every family.
    pub fn register(registered: &mut Registered) -> Arc<Self> {
        let metrics = Self {
            requests: Family::default(),
            answers: Family::default(),
            stale: Family::default(),
            served_bytes: Counter::default(),
            first_byte: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_25, 4.0, 9))),
            duration: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 4.0, 10))),
            connections: Gauge::default(),
            streams_detached: Counter::default(),
            control_up: Gauge::default(),
            control_last_success: Gauge::default(),
            control_reports: Family::default(),
            control_desired: Family::default(),
            control_pulls: Family::default(),
            dropped_images: Counter::default(),
            access_refused: Family::default(),
            access_proofs: Family::default(),
            dropped_bytes: Counter::default(),
            disk: disk::DiskMetrics::default(),
            fills: Gauge::default(),
            fetched_total: AtomicU64::new(0),
            fetched_bytes: Family::default(),
            upstream_requests: Family::default(),
            upstream_errors: Family::default(),
            registries: Mutex::default(),
        };
        metrics.register_into(registered);
        Arc::new(metrics)
    }

    fn register_into(&self, r: &mut Registered) {
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        r.register("build", "The version of the agent", Info::new(version));
        r.register("requests", "Requests of clients, by kind of route, method and status", self.requests.clone());
        r.register("answers", "Answers by kind and by where they came from: hit, miss, revalidated, stale", self.answers.clone());
        r.register("stale_answers", "Tags answered from the cache because upstream could not confirm them, by reason", self.stale.clone());
        r.register_with_unit("served", "Bytes of manifests and blobs sent to clients", Unit::Bytes, self.served_bytes.clone());
        r.register_with_unit("first_byte", "Time until an answer began", Unit::Seconds, self.first_byte.clone());
        r.register_with_unit("request_duration", "Time until an answer was complete", Unit::Seconds, self.duration.clone());
        r.register("connections", "Open connections of clients", self.connections.clone());
        r.register("detached_streams", "Responses that went on from upstream after the disk gave up", self.streams_detached.clone());
        r.register("fills_in_flight", "Blobs being fetched from upstream", self.fills.clone());
        r.register_with_unit("fetched", "Bytes received from upstream, by registry", Unit::Bytes, self.fetched_bytes.clone());
        r.register("upstream_requests", "Requests to upstream, by registry", self.upstream_requests.clone());
        r.register("upstream_errors", "Failed requests to upstream, by registry and reason", self.upstream_errors.clone());
        r.register("dropped_images", "Images deleted because the control API said so", self.dropped_images.clone());
        r.register_with_unit("dropped", "Bytes deleted with these images", Unit::Bytes, self.dropped_bytes.clone());
        self.disk.register_into(r);
    }

    /// Registers what only an agent with a control API has.
    pub fn register_control(&self, r: &mut Registered) {
        r.register("control_up", "Whether every call to the control API succeeded the last time", self.control_up.clone());
        let help = "When a call to the control API last succeeded, in seconds since 1970";
        r.register_with_unit("control_last_success_timestamp", help, Unit::Seconds, self.control_last_success.clone());
        r.register("control_reports", "Reports to the control API, by what became of them", self.control_reports.clone());
        r.register(
            "control_desired",
            "What the control API wants: images to keep, to refresh, to drop, pinned",
            self.control_desired.clone(),
        );
        r.register("access_refused", "Requests for private images that were refused, by reason", self.access_refused.clone());
        r.register("access_proofs", "Rights of namespaces that had to be proven, by result", self.access_proofs.clone());
        r.register(
            "control_pulls",
            "Images fetched or asked for again on behalf of the control API, by result",
            self.control_pulls.clone(),
        );
    }

    /// A request for a private image was refused.
    pub fn access_refused(&self, reason: &'static str) {
        self.access_refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// A namespace had to prove its right.
    pub fn access_proven(&self, result: &'static str) {
        self.access_proofs.get_or_create(&ResultLabels { result }).inc();
    }

    /// A call to the control API succeeded.
    pub fn control_succeeded(&self) {
        self.control_last_success.set(i64::try_from(crate::store::now_seconds()).unwrap_or(i64::MAX));
    }

    /// A report ended so.
    pub fn control_report(&self, result: &'static str) {
        self.control_reports.get_or_create(&ResultLabels { result }).inc();
    }

    /// The control API wants so many of a kind.
    pub fn control_desired(&self, kind: &'static str, count: usize) {
        self.control_desired.get_or_create(&KindLabels { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Work on an image that the control API wanted ended so.
    pub fn control_pull(&self, kind: &'static str, succeeded: bool) {
        let result = if succeeded { "ok" } else { "error" };
        self.control_pulls.get_or_create(&WorkLabels { kind, result }).inc();
    }

    /// An image was deleted.
    pub fn dropped(&self, bytes: u64) {
        self.dropped_images.inc();
        self.dropped_bytes.inc_by(bytes);
    }

    /// Traffic since the start, as reports have it.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let answers = |origins: &[&'static str]| {
            let kinds = ["manifest", "blob"].into_iter();
            let labels = kinds.flat_map(|kind| origins.iter().map(move |origin| AnswerLabels { kind, origin }));
            labels.filter_map(|labels| Some(self.answers.get(&labels)?.get())).sum()
        };
        Traffic {
            hits: answers(&["hit", "revalidated", "stale"]),
            misses: answers(&["miss"]),
            served_bytes: self.served_bytes.get(),
            fetched_bytes: self.fetched_total.load(Ordering::Relaxed),
        }
    }

    /// Counts a fill as long as the guard lives.
    pub fn fill_started(&self) -> FillGuard {
        self.fills.inc();
        FillGuard(self.fills.clone())
    }

    /// Counts a failure of upstream.
    pub fn upstream_error(&self, registry: &Registry, reason: &'static str) {
        self.upstream_errors.get_or_create(&ErrorLabels { registry: self.label(registry), reason }).inc();
    }

    fn label(&self, registry: &Registry) -> String {
        let name = registry.to_string();
        let mut known = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&name) || known.len() < REGISTRIES_MAX {
            known.insert(name.clone());
            name
        } else {
            "other".to_owned()
        }
    }
}

impl crate::upstream::Observer for Metrics {
    fn request(&self, registry: &Registry) {
        self.upstream_requests.get_or_create(&RegistryLabels { registry: self.label(registry) }).inc();
    }

    fn error(&self, registry: &Registry, reason: &'static str) {
        self.upstream_error(registry, reason);
    }

    fn bytes(&self, registry: &Registry, count: u64) {
        self.fetched_total.fetch_add(count, Ordering::Relaxed);
        self.fetched_bytes.get_or_create(&RegistryLabels { registry: self.label(registry) }).inc_by(count);
    }
}

/// Lowers the gauge of running fills when it is dropped.
#[derive(Debug)]
pub struct FillGuard(Gauge);

impl Drop for FillGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Reads the store's figures when metrics are scraped; there are none before it is open. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct StoreCollector(Arc<OnceLock<Store>>);

impl StoreCollector {
    /// The store is open.
    pub fn opened(&self, store: &Store) {
        // There is one store, and it is opened once.
        let _ = self.0.set(store.clone());
    }
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(store) = self.0.get() else {
            return Ok(());
        };
        let usage = store.usage();
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let bytes = Some(&Unit::Bytes);
        let size = encoder.encode_descriptor("store", "Bytes of committed blobs", bytes, MetricType::Gauge)?;
        gauge(usage.blob_bytes).encode(size)?;
        let room = store.room();
        let used = encoder.encode_descriptor("cache_used", "What the data directory takes on its file system", bytes, MetricType::Gauge)?;
        gauge(room.used).encode(used)?;
        let help = "What the data directory may take now; absent where there is no limit";
        if room.limit < u64::MAX {
            gauge(room.limit).encode(encoder.encode_descriptor("cache_budget", help, bytes, MetricType::Gauge)?)?;
        }
        let reserved = encoder.encode_descriptor("cache_reserved", "What downloads may still add", bytes, MetricType::Gauge)?;
        gauge(room.promised).encode(reserved)?;
        let blobs = encoder.encode_descriptor("store_blobs", "Committed blobs", None, MetricType::Gauge)?;
        gauge(usage.blobs).encode(blobs)?;
        let index = encoder.encode_descriptor("index", "Bytes of the index on disk", bytes, MetricType::Gauge)?;
        gauge(usage.index_bytes).encode(index)?;
        let bad = encoder.encode_descriptor("quarantined_blobs", "Blobs found with wrong bytes", None, MetricType::Counter)?;
        ConstCounter::new(usage.quarantined).encode(bad)?;
        let rebuilds =
            encoder.encode_descriptor("index_rebuilds", "Walks of the directory to mend the index", None, MetricType::Counter)?;
        ConstCounter::new(usage.index_rebuilds).encode(rebuilds)
    }
}

/// Seconds of a duration, for a histogram.
#[must_use]
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
