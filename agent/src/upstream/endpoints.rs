//! Where to ask for a registry, and in which order.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use super::error::UpstreamError;
use crate::config::{self, RegistryConfig, UpstreamConfig};
use crate::oci::Registry;

/// The host that answers for Docker Hub.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// An endpoint that could not be connected or stalled is asked last for so long.
const PENALTY: Duration = Duration::from_secs(10);
/// More registries than a cluster pulls from; one that was evicted costs a few allocations.
const REGISTRIES_MAX: u64 = 1024;

/// A place that answers for a registry: `scheme://host[:port][/prefix]`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EndpointId(Arc<str>);

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Which certificates an endpoint may show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Trust {
    /// PEM files with authorities besides the public ones.
    pub(super) authorities: BTreeSet<PathBuf>,
    /// Any certificate will do.
    pub(super) anything: bool,
}

/// One place to ask, and how.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) id: EndpointId,
    /// Whose credentials it gets.
    pub(super) host: Registry,
    pub(super) plain_http: bool,
    pub(super) trust: Trust,
    /// Asked only if the registry's name does not resolve: what kuik v1's `host-port` may have meant.
    pub(super) is_guess: bool,
}

impl Endpoint {
    fn new(config: &UpstreamConfig, settings: &RegistryConfig, place: &config::Endpoint, is_guess: bool) -> Self {
        // A mirror is listed under another registry, and may have settings of its own.
        let own = config.registries.get(&place.registry);
        let plain_http = place.plain_http.unwrap_or(settings.plain_http || own.is_some_and(|own| own.plain_http));
        let scheme = if plain_http { "http" } else { "https" };
        let id = EndpointId(format!("{scheme}://{}{}", authority(&place.registry), place.prefix).into());
        let trust = Trust {
            authorities: settings.ca.iter().chain(own.and_then(|own| own.ca.as_ref())).cloned().collect(),
            anything: settings.insecure_skip_verify || own.is_some_and(|own| own.insecure_skip_verify),
        };
        Self { id, host: place.registry.clone(), plain_http, trust, is_guess }
    }

    /// The address of `path` and `query` below `/v2/`.
    pub(super) fn url(&self, path: &str, query: Option<&str>) -> String {
        match query {
            Some(query) => format!("{}/v2/{path}?{query}", self.id),
            None => format!("{}/v2/{path}", self.id),
        }
    }
}

fn authority(registry: &Registry) -> String {
    if *registry == Registry::docker_hub() { DOCKER_HUB_HOST.to_owned() } else { registry.to_string() }
}

/// All places that answer for `registry`, in order.
fn of(config: &UpstreamConfig, registry: &Registry) -> Vec<Endpoint> {
    let meant = if config.registries.contains_key(registry) { None } else { registry.v1_host_port() };
    match meant {
        None => listed(config, registry, false),
        // No host has the name: somebody knows the registry that it means, or it is an address, and no top-level domain is `1-5000`.
        // Names are not looked up for it, which would take long where the resolver is away.
        Some(meant) if config.registries.contains_key(&meant) || meant.host().parse::<Ipv4Addr>().is_ok() => listed(config, &meant, false),
        Some(meant) => [listed(config, registry, false), listed(config, &meant, true)].concat(),
    }
}

fn listed(config: &UpstreamConfig, registry: &Registry, is_guess: bool) -> Vec<Endpoint> {
    let default = RegistryConfig::default();
    let settings = config.registries.get(registry).unwrap_or(&default);
    let itself = [config::Endpoint { registry: registry.clone(), plain_http: None, prefix: String::new() }];
    let places = if settings.endpoints.is_empty() { &itself[..] } else { &settings.endpoints };
    places.iter().map(|place| Endpoint::new(config, settings, place, is_guess)).collect()
}

#[derive(Debug, Clone, Copy)]
struct Penalty {
    until: Instant,
    unresolved: bool,
}

/// The endpoints of every registry, and which of them failed a moment ago. Clones share what they know.
#[derive(Debug, Clone)]
pub(super) struct Endpoints {
    by_registry: Cache<Registry, Arc<[Endpoint]>>,
    penalties: Cache<EndpointId, Penalty>,
}

impl Endpoints {
    pub(super) fn new() -> Self {
        Self { by_registry: Cache::new(REGISTRIES_MAX), penalties: Cache::new(REGISTRIES_MAX) }
    }

    pub(super) fn of(&self, config: &UpstreamConfig, registry: &Registry) -> Arc<[Endpoint]> {
        self.by_registry.get_with_by_ref(registry, || of(config, registry).into())
    }

    /// The positions in `endpoints` in the order to ask: as configured, but first those that did well lately and that the caller does
    /// not want to avoid.
    pub(super) fn order(&self, endpoints: &[Endpoint], avoid: &[EndpointId]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..endpoints.len()).collect();
        order.sort_by_key(|&at| {
            let id = &endpoints[at].id;
            (avoid.contains(id), self.penalty(id).is_some())
        });
        order
    }

    /// The endpoint failed with `error`. If it could not be connected or stalled, it is asked last for a while.
    pub(super) fn punish(&self, id: &EndpointId, error: &UpstreamError) {
        if matches!(error, UpstreamError::Unreachable { .. } | UpstreamError::Stalled { .. }) {
            let penalty = Penalty { until: Instant::now() + PENALTY, unresolved: error.is_unresolved() };
            self.penalties.insert(id.clone(), penalty);
        }
    }

    /// Whether its name did not resolve a moment ago.
    pub(super) fn is_unresolved(&self, id: &EndpointId) -> bool {
        self.penalty(id).is_some_and(|penalty| penalty.unresolved)
    }

    fn penalty(&self, id: &EndpointId) -> Option<Penalty> {
        self.penalties.get(id).filter(|penalty| penalty.until > Instant::now())
    }
}
