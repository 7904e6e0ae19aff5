//! The validated configuration of a running agent: newtypes and durations, nothing that is still to be checked.
//!
//! `file` reads the YAML file, `merge` lays flags over it; both finish before any port is bound.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::oci::Registry;

/// Everything that `kuik-agent serve` runs by.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where containerd asks.
    pub listen: Vec<SocketAddr>,
    /// Where probes, metrics and the command line ask.
    pub admin_listen: SocketAddr,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// How long streams may go on after SIGTERM.
    pub drain_timeout: Duration,
    pub tags: TagsConfig,
    pub limits: LimitsConfig,
    pub upstream: UpstreamConfig,
}

/// When a tag is asked for again.
#[derive(Debug, Clone)]
pub struct TagsConfig {
    /// A tag validated so recently is served without asking upstream.
    pub fresh_for: Duration,
    /// A client waits so long for a revalidation; then it gets what is there.
    pub revalidate_timeout: Duration,
}

impl Default for TagsConfig {
    fn default() -> Self {
        Self { fresh_for: Duration::from_secs(60), revalidate_timeout: Duration::from_secs(2) }
    }
}

/// What clients may take.
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    /// Open client connections; further ones wait in the listen queue.
    pub max_connections: usize,
    /// A request's head must be complete after this.
    pub header_timeout: Duration,
    /// A client that takes no byte for so long is cut off.
    pub write_timeout: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { max_connections: 4096, header_timeout: Duration::from_secs(30), write_timeout: Duration::from_secs(60) }
    }
}

/// How upstream is asked.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// No byte for so long is a stall: the download is resumed.
    pub stall_timeout: Duration,
    /// A connection must be made after this.
    pub connect_timeout: Duration,
    /// Blobs that are downloaded at one time; further ones wait.
    pub max_concurrent_fills: usize,
    /// How long a fill waits for its turn before the client is told to come back.
    pub fill_queue_timeout: Duration,
    /// Attempts without one new byte before a download is given up.
    pub max_attempts: u32,
    /// Requests to one registry at one time, unless its own limits say otherwise.
    pub max_connections_per_registry: usize,
    /// Settings by registry.
    pub registries: BTreeMap<Registry, RegistryConfig>,
    /// A docker `config.json`.
    pub auth_file: Option<PathBuf>,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            stall_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            max_concurrent_fills: 64,
            fill_queue_timeout: Duration::from_secs(60),
            max_attempts: 4,
            max_connections_per_registry: 32,
            registries: BTreeMap::new(),
            auth_file: None,
        }
    }
}

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Where to ask, in order; empty means the registry itself.
    pub endpoints: Vec<Endpoint>,
    /// HTTP instead of HTTPS for endpoints without a scheme.
    pub plain_http: bool,
    /// Certificates (PEM) of further authorities to trust.
    pub ca: Option<PathBuf>,
    /// Takes any certificate.
    pub insecure_skip_verify: bool,
    /// Requests at one time, if not the general limit.
    pub max_connections: Option<usize>,
}

/// A place that answers for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its host and port.
    pub registry: Registry,
    /// `true` for `http://`, `false` for `https://`; `None` leaves it to [`RegistryConfig::plain_http`].
    pub plain_http: Option<bool>,
    /// What stands between host and `/v2/`: empty, or `/prefix` without a slash at its end.
    pub prefix: String,
}
