//! The composition root: builds the parts, starts them, and ends them in order.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::registry::Registry as Registered;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::cache::Cache;
use crate::config::Config;
use crate::control::{Control, Pace};
use crate::disk::Disk;
use crate::http::{self, AdminParts, AdminState, Limits, ProbeState, RegistryState, Server};
use crate::metrics::{Metrics, StoreCollector};
use crate::oci::Router;
use crate::readiness::Readiness;
use crate::shutdown;
use crate::store::{Store, StoreError};
use crate::upstream::{Upstream, UpstreamSetupError};

/// How often use-times go from memory to the index.
const FLUSH_EVERY: Duration = Duration::from_secs(30);

/// After the last client, what is being stored may take so long to be whole.
const STORE_GRACE: Duration = Duration::from_secs(5);

/// Even if the clients took all the time there was.
const STORE_GRACE_MIN: Duration = Duration::from_secs(1);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Upstream(#[from] UpstreamSetupError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot listen on {address}: another agent may run on this node, or the address is not this machine's")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("none of the addresses to listen on exists on this machine")]
    NoAddress,
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
    #[error("the upkeep of the data directory ended, which it never should: this is a defect of the agent")]
    Upkeep(#[source] Option<tokio::task::JoinError>),
    #[error("the start-up work ended without a result")]
    Startup(#[source] tokio::task::JoinError),
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When a part cannot start.
pub async fn run(config: Config) -> Result<(), AppError> {
    raise_file_limit();
    // Listened to from the first moment on, heard once everything runs: a signal during start-up is not lost.
    let stop = shutdown::listen().map_err(AppError::Signals)?;
    let mut registered = Registered::with_prefix("kuik_agent");
    let metrics = Metrics::register(&mut registered);
    if config.control.is_some() {
        metrics.register_control(&mut registered);
    }
    let figures = StoreCollector::default();
    registered.register_collector(Box::new(figures.clone()));
    let readiness = Readiness::default();
    let (opening, listening) = (readiness.latch("store"), readiness.latch("listeners"));

    // Before any port is bound: what the configuration names may be wrong.
    let upstream = Upstream::new(config.upstream.clone(), Arc::clone(&metrics) as Arc<dyn crate::upstream::Observer>)?;
    let side = Side::start(&config, ProbeState { readiness, registered: Arc::new(registered) }).await?;
    let data_dir = config.data_dir.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&data_dir)).await.map_err(AppError::Startup)??;
    figures.opened(&store);
    drop(opening);

    let listeners = bind(&config.listen, config.listen_is_default).await?;
    let tasks = TaskTracker::new();
    let preparing = upstream.clone();
    let cache = Cache::new(&config, store.clone(), upstream, Arc::clone(&metrics), &tasks);
    let access = Access::new(config.auth.clone(), &store, &cache, &metrics).await;
    announce(&listeners, &side);
    // Before the first pull: what it may take must be known.
    let disk = Disk::new(config.cache.clone(), &store, &cache, &metrics).await;
    side.complete(AdminParts {
        cache: cache.clone(),
        store: store.clone(),
        disk: disk.clone(),
        access: access.clone(),
        tasks: tasks.clone(),
    });
    // Before the first pull too: the keys of pull tokens that were told last.
    let client_limits = limits(&config);
    let control = match config.control {
        Some(control) => {
            let parts = (&cache, &store, &disk, &access, &metrics);
            Some(Control::start(control, config.node_name.as_deref(), parts, Pace::default()).await)
        }
        None => None,
    };
    let ports = listeners.iter().filter_map(|listener| Some(listener.local_addr().ok()?.port())).collect();
    let registry_state =
        RegistryState { access: access.clone(), cache: cache.clone(), metrics: Arc::clone(&metrics), routes: Arc::new(Router::new(ports)) };
    let registry = Server::start(listeners, &http::registry(registry_state), &client_limits, &metrics.connections);
    drop(listening);

    tokio::task::spawn_blocking(move || preparing.prepare());
    let mut upkeep = tokio::spawn(upkeep(store.clone()));
    let mending = tokio::spawn(mend(store.clone()));
    let looking_after = tokio::spawn(disk.run(config.reload));
    let keeping = tokio::spawn(access.clone().run(store.clone()));
    let signal = tokio::select! {
        signal = stop.requested() => signal,
        ended = &mut upkeep => return Err(AppError::Upkeep(ended.err())),
    };
    tracing::info!(signal, drain_timeout_s = config.drain_timeout.as_secs(), "stopping: running answers may finish");
    let deadline = Instant::now() + config.drain_timeout;
    if let Some(control) = control {
        control.stop().await;
    }
    let drained = registry.stop(deadline).await;
    let settle_by = deadline.max(Instant::now() + STORE_GRACE_MIN).min(Instant::now() + STORE_GRACE);
    side.stop(settle_by).await;
    tasks.close();
    // A fill that nobody waits for is given up; what remains of it is deleted at the next start.
    let settled = tokio::time::timeout_at(settle_by, tasks.wait()).await.is_ok();
    // Whatever they are at: a plan half carried out is as sound as one that crashed.
    [upkeep, mending, looking_after, keeping].iter().for_each(tokio::task::JoinHandle::abort);
    access.flush(&store).await;
    tokio::task::spawn_blocking(move || store.close()).await.map_err(AppError::Startup)?;
    tracing::info!(drained, settled, "stopped");
    Ok(())
}

/// The ports beside the registry's. They answer from the first moment on, since how far start-up is may be what they are asked.
struct Side {
    admin: Server,
    probing: Server,
    /// Where they are, as far as the system says it.
    addresses: (Option<SocketAddr>, Option<SocketAddr>),
    parts: Arc<OnceLock<AdminParts>>,
}

impl Side {
    async fn start(config: &Config, probes: ProbeState) -> Result<Self, AppError> {
        let admin = listen(config.admin_listen).await?;
        let metrics = match config.metrics_listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let addresses = (admin.local_addr().ok(), metrics.as_ref().and_then(|listener| listener.local_addr().ok()));
        let parts = Arc::default();
        let state = AdminState { probes: probes.clone(), parts: Arc::clone(&parts) };
        let few = Limits { connections: 64, ..limits(config) };
        let admin = Server::start(vec![admin], &http::admin(state), &few, &Default::default());
        let probing = Server::start(metrics.into_iter().collect(), &http::probes(probes), &few, &Default::default());
        Ok(Self { admin, probing, addresses, parts })
    }

    /// Start-up has made everything: commands are answered too.
    fn complete(&self, parts: AdminParts) {
        // There is one start-up.
        let _ = self.parts.set(parts);
    }

    async fn stop(self, deadline: Instant) {
        self.admin.stop(deadline).await;
        self.probing.stop(deadline).await;
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        connections: config.limits.max_connections,
        header_timeout: config.limits.header_timeout,
        write_timeout: config.limits.write_timeout,
    }
}

/// What goes on behind serving.
async fn upkeep(store: Store) {
    if let Err(error) = store.settle().await {
        tracing::error!(error = %crate::telemetry::chain(&error), "the data directory could not be walked");
    }
    let mut tick = tokio::time::interval(FLUSH_EVERY);
    loop {
        tick.tick().await;
        let store = store.clone();
        if tokio::task::spawn_blocking(move || store.flush_use_times()).await.is_err() {
            return;
        }
    }
}

/// An index that breaks in use is replaced while serving goes on.
async fn mend(store: Store) {
    store.index_broke().await;
    if let Err(error) = store.mend().await {
        tracing::error!(error = %crate::telemetry::chain(&error), "the index could not be made anew");
    }
}

/// Of the default addresses, and of loopbacks, one that this machine does not have is left out: many have no IPv6.
async fn bind(addresses: &[SocketAddr], defaults: bool) -> Result<Vec<TcpListener>, AppError> {
    let mut listeners = Vec::new();
    for address in addresses {
        match listen(*address).await {
            Ok(listener) => listeners.push(listener),
            Err(AppError::Listen { source, .. }) if (defaults || address.ip().is_loopback()) && is_missing(&source) => {
                tracing::warn!(%address, error = %source, "not listening there: this machine does not have the address");
            }
            Err(error) => return Err(error),
        }
    }
    if listeners.is_empty() { Err(AppError::NoAddress) } else { Ok(listeners) }
}

/// The machine does not have the address, or no IPv6 at all.
fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|source| AppError::Listen { address, source })
}

/// The line that says which ports are open; scripts read it when they asked for port 0.
fn announce(listeners: &[TcpListener], side: &Side) {
    let text = |address: SocketAddr| address.to_string();
    let registry: Vec<String> = listeners.iter().map(|listener| listener.local_addr().map(text).unwrap_or_default()).collect();
    let (admin, metrics) = side.addresses;
    let (registry, admin, metrics) = (registry.join(","), admin.map(text), metrics.map(text));
    tracing::info!(registry, admin, metrics, version = env!("CARGO_PKG_VERSION"), "listening");
}

/// Every client, fill and blob being read takes a file descriptor; the soft limit is often 1024.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address for documentation, which no machine has.
    const NOWHERE: &str = "192.0.2.1:0";

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn of_the_default_addresses_one_that_is_missing_is_left_out_and_not_all() {
        let bound = bind(&addresses(&[NOWHERE, "127.0.0.1:0"]), true).await.unwrap();
        let ips: Vec<_> = bound.iter().map(|listener| listener.local_addr().unwrap().ip().to_string()).collect();
        assert_eq!(ips, ["127.0.0.1"]);
        assert!(matches!(bind(&addresses(&[NOWHERE]), true).await, Err(AppError::NoAddress)));
    }

    #[tokio::test]
    async fn an_address_that_somebody_asked_for_must_be_there() {
        let error = bind(&addresses(&["127.0.0.1:0", NOWHERE]), false).await.unwrap_err();
        assert!(matches!(error, AppError::Listen { address, .. } if address.to_string() == NOWHERE), "{error}");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_not_missing() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        for defaults in [true, false] {
            assert!(matches!(bind(&[address], defaults).await, Err(AppError::Listen { .. })), "{defaults}");
        }
    }

    #[test]
    fn a_machine_without_an_address_or_without_ipv6_says_so() {
        use rustix::io::Errno;
        let is_missing = |errno: Errno| is_missing(&errno.into());
        assert!(is_missing(Errno::ADDRNOTAVAIL) && is_missing(Errno::AFNOSUPPORT));
        assert!(!is_missing(Errno::ADDRINUSE) && !is_missing(Errno::ACCESS));
    }
}
