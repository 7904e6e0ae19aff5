//! The validated configuration of a running agent: newtypes and durations, nothing that is still to be checked.
//!
//! `file` reads the YAML file, `load` lays flags over it; both finish before any port is bound.

mod amount;
mod auth;
mod cache;
mod control;
mod endpoint;
mod error;
mod file;
mod load;
mod platform;
mod reload;
mod scalar;
#[cfg(test)]
mod tests;

pub use amount::{Amount, Watermark};
pub use auth::{AuthConfig, AuthMode, OnUpstreamDown};
pub use cache::{CacheConfig, Scope, ScrubConfig};
pub use control::{ControlAddress, ControlConfig, ControlUrl, HostPort};
pub use error::{ConfigError, Place};
pub use platform::own_platform;
pub use reload::Reload;
pub use scalar::{Address, Host, ScalarError, Span, Timeout};

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::oci::Registry;
use crate::telemetry::{LogFilter, LogFormat};

/// Where containerd asks, if nothing else is said.
pub const DEFAULT_PORT: u16 = 7439;

/// Where probes and the command line ask, if nothing else is said.
pub const DEFAULT_ADMIN_PORT: u16 = 7441;

/// Everything that `kuik-agent serve` runs by.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where containerd asks.
    pub listen: Vec<SocketAddr>,
    /// Nobody chose `listen`: an address that this machine does not have is no error.
    pub listen_is_default: bool,
    /// Where probes, metrics and the command line ask.
    pub admin_listen: SocketAddr,
    /// Where probes and metrics alone are asked for too, for those who come from elsewhere.
    pub metrics_listen: Option<SocketAddr>,
    /// The node that this agent runs on.
    pub node_name: Option<String>,
    /// The cluster's control API; without it the agent is on its own.
    pub control: Option<ControlConfig>,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// How long streams may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// When a tag is asked for again.
    pub tags: TagsConfig,
    /// What clients may take.
    pub limits: LimitsConfig,
    /// How upstream is asked.
    pub upstream: UpstreamConfig,
    /// Who may have private images.
    pub auth: AuthConfig,
    /// What the cache may take of the disk.
    pub cache: CacheConfig,
    /// How that is read again while the agent runs.
    pub reload: Option<Reload>,
    /// What is logged, and how.
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, DEFAULT_PORT).into(), (Ipv6Addr::LOCALHOST, DEFAULT_PORT).into()],
            listen_is_default: true,
            admin_listen: (Ipv4Addr::LOCALHOST, DEFAULT_ADMIN_PORT).into(),
            metrics_listen: None,
            node_name: None,
            control: None,
            data_dir: "/var/lib/kuik".into(),
            drain_timeout: Duration::from_secs(30),
            tags: TagsConfig::default(),
            limits: LimitsConfig::default(),
            upstream: UpstreamConfig::default(),
            auth: AuthConfig::default(),
            cache: CacheConfig::default(),
            reload: None,
            log: LogConfig::default(),
        }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Default)]
pub struct LogConfig {
    /// One line or one object per event.
    pub format: LogFormat,
    /// Which events.
    pub filter: LogFilter,
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
