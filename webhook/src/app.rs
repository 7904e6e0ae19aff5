//! The composition root: builds the parts, starts them, and ends them in order.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::{Client, Config};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{self, Rules};
use crate::args::ServeArgs;
use crate::board::Board;
use crate::certs::{self, Lifetimes};
use crate::config::Settings;
use crate::control::{self, ControlParts, Reviewer};
use crate::credentials::{self, PullSecrets};
use crate::health::{self, HealthState};
use crate::naming::Names;
use crate::pull::{self, PullParts};
use crate::readiness::Readiness;
use crate::tls_server::{self, Limits};
use crate::words::{Address, Name};
use crate::{lifecycle, metrics, shutdown};

/// Connections of the API server, which keeps few.
const ADMISSION_CONNECTIONS: usize = 2_000;

/// Connections of agents, which wait for news on two each.
const CONTROL_CONNECTIONS: usize = 20_000;

/// After the servers, what is being written to the API server may take so long to end.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The API server's part of the network is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the webhook cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// There is no cluster.
    #[error("no Kubernetes API is known: in a pod its service account says which; elsewhere set KUBECONFIG")]
    NoCluster(#[source] Box<kube::config::InferConfigError>),
    /// What is known of the cluster cannot be used.
    #[error("no client for the Kubernetes API can be made")]
    Client(#[source] Box<kube::Error>),
    /// A port.
    #[error("{flag}: cannot listen on {address}: another process may do so, or the address is not this machine's")]
    Listen {
        /// Which one.
        flag: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The signals.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
    /// A part did not go on.
    #[error("the {part} ended, which it should not before the webhook does")]
    Ended {
        /// Which one.
        part: &'static str,
        /// Why.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
}

/// Runs the webhook until it is told to stop.
///
/// # Errors
/// When a part cannot start, or ends by itself.
pub async fn run(args: ServeArgs, settings: Settings) -> Result<(), AppError> {
    raise_file_limit();
    // Listened to from the first moment on, heard once everything runs: a signal during start-up is not lost.
    let signals = shutdown::listen().map_err(AppError::Signals)?;
    let client = client().await?;
    let readiness = Readiness::default();
    let sockets = Sockets::bind(&args)?;
    let (delay, drain) = (args.shutdown_delay.0, args.drain_timeout.0);
    let stop = CancellationToken::new();
    let mut parts = Parts::new(stop.clone());
    parts.start(client, args, settings, sockets, &readiness);

    let (signal, ended) = tokio::select! {
        signal = signals.requested() => (Some(signal), None),
        ended = parts.ended() => (None, Some(ended)),
    };
    // The kubelet, and then the Service, are told at once; the lease is given up at once; the servers go on for a while.
    let _stopping = readiness.latch("the end");
    stop.cancel();
    tracing::info!(signal, delay_s = delay.as_secs_f64(), "stopping: requests are answered until nobody sends them here any more");
    let in_time = parts.settle(Instant::now() + delay + drain + SETTLE_TIMEOUT).await;
    tracing::info!(in_time, "stopped");
    ended.map_or(Ok(()), Err)
}

/// The open ports.
#[derive(Debug)]
struct Sockets {
    admission: TcpListener,
    control: TcpListener,
    metrics: TcpListener,
}

impl Sockets {
    fn bind(args: &ServeArgs) -> Result<Self, AppError> {
        let bind = |flag, Address(address): Address| tls_server::bind(address).map_err(|source| AppError::Listen { flag, address, source });
        let sockets = Self {
            admission: bind("--admission-listen", args.admission_listen)?,
            control: bind("--control-listen", args.control_listen)?,
            metrics: bind("--metrics-listen", args.metrics_listen)?,
        };
        // The line that says which ports are open; scripts read it when they asked for port 0.
        let address = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
        let (admission, control, metrics) = (address(&sockets.admission), address(&sockets.control), address(&sockets.metrics));
        tracing::info!(admission, control, metrics, version = env!("CARGO_PKG_VERSION"), "listening");
        Ok(sockets)
    }
}

/// What runs, each part under the name that its end is told with.
#[derive(Debug)]
struct Parts {
    running: JoinSet<Result<(), Failed>>,
    names: HashMap<Id, &'static str>,
    /// Those of the certificates, which go on as long as `stop` does not come.
    certs: TaskTracker,
    stop: CancellationToken,
    /// Answers probes until all others are done.
    health: JoinSet<io::Result<()>>,
    end: CancellationToken,
}

type Failed = Box<dyn Error + Send + Sync>;

impl Parts {
    fn new(stop: CancellationToken) -> Self {
        let (health, end) = (JoinSet::new(), CancellationToken::new());
        Self { running: JoinSet::new(), names: HashMap::new(), certs: TaskTracker::new(), stop, health, end }
    }

    fn spawn<E: Error + Send + Sync + 'static>(&mut self, part: &'static str, run: impl Future<Output = Result<(), E>> + Send + 'static) {
        let id = self.running.spawn(async move { run.await.map_err(Into::into) }).id();
        self.names.insert(id, part);
    }

    /// Builds every part and starts it.
    fn start(&mut self, client: Client, args: ServeArgs, settings: Settings, sockets: Sockets, readiness: &Readiness) {
        let certificate = readiness.latch("certificate");
        let names = Arc::new(names(&args));
        let (settings, board) = (Arc::new(settings), Board::default());
        let stop = self.stop.clone();
        let lifetimes = Lifetimes { certificate: args.certificate_lifetime.0, authority: args.ca_lifetime.0 };
        let certificates =
            certs::spawn(client.clone(), Arc::clone(&names), lifetimes, args.tls_dir, board.leadership(), &self.certs, stop.clone());
        let loaded = certificates.clone();
        self.certs.spawn(stop.clone().run_until_cancelled_owned(async move {
            loaded.ready().await;
            drop(certificate);
        }));
        self.certs.close();

        let mut registry = metrics::registry();
        certificates.register(&mut registry);
        let admission_metrics = admission::Metrics::register(&mut registry);
        let control_metrics = control::Metrics::register(&mut registry);
        let credentials_metrics = credentials::Metrics::register(&mut registry);
        let lifecycle_metrics = lifecycle::Metrics::register(&mut registry);
        let pull_metrics = pull::Metrics::register(&mut registry);
        let state = HealthState { readiness: readiness.clone(), registry: Arc::new(registry) };
        self.health.spawn(health::serve(sockets.metrics, health::router(state), self.end.clone()));

        let limits = Limits { shutdown_delay: args.shutdown_delay.0, drain_timeout: args.drain_timeout.0, ..Limits::default() };
        let router = admission::router(Arc::new(Rules::new(&settings)), &admission_metrics);
        let bounds = Limits { connections: ADMISSION_CONNECTIONS, ..limits.clone() };
        self.spawn("admission server", tls_server::serve(sockets.admission, router, certificates.server_config(), bounds, stop.clone()));
        let router = control::router(ControlParts {
            reviewer: Reviewer::new(client.clone(), Arc::clone(&names)),
            secrets: PullSecrets::new(client.clone(), settings.credential_helpers.clone(), credentials_metrics),
            host: names.control_host(),
            board: board.clone(),
            authority: certificates.ca_bundle(),
            port: sockets.control.local_addr().map_or(args.control_listen.0.port(), |address| address.port()),
            metrics: control_metrics,
            stop: stop.clone(),
        });
        let bounds = Limits { connections: CONTROL_CONNECTIONS, ..limits };
        self.spawn("control server", tls_server::serve(sockets.control, router, certificates.server_config(), bounds, stop.clone()));
        let pull = PullParts {
            client: client.clone(),
            names: Arc::clone(&names),
            settings: Arc::clone(&settings),
            board: board.clone(),
            metrics: pull_metrics,
            lifecycle_metrics: lifecycle_metrics.clone(),
        };
        self.spawn("keeper of pull tokens", pull::run(pull, stop.clone()));
        self.spawn("lifecycle", lifecycle::run(client, names, settings, board, args.install_crds, lifecycle_metrics, stop));
    }

    /// Resolves when a part ended by itself.
    async fn ended(&mut self) -> AppError {
        let (part, source) = tokio::select! {
            Some(ended) = self.running.join_next_with_id() => match ended {
                Ok((id, result)) => (self.name(id), result.err()),
                Err(panicked) => (self.name(panicked.id()), Some(panicked.into())),
            },
            Some(ended) = self.health.join_next() => ("health server", ended.map_err(Failed::from).and_then(|result| Ok(result?)).err()),
            () = self.certs.wait() => ("keeper of the certificates", None),
        };
        AppError::Ended { part, source }
    }

    fn name(&self, id: Id) -> &'static str {
        self.names.get(&id).copied().unwrap_or("part")
    }

    /// Waits for all parts to end, those that answer probes last. `false` when that took too long.
    async fn settle(mut self, deadline: Instant) -> bool {
        let settled = timeout_at(deadline, async {
            while self.running.join_next().await.is_some() {}
            self.certs.wait().await;
        });
        let in_time = settled.await.is_ok();
        self.end.cancel();
        // Its own drain is bounded.
        while self.health.join_next().await.is_some() {}
        in_time
    }
}

fn names(args: &ServeArgs) -> Names {
    let Name(fullname) = args.name.clone();
    let or = |name: &Option<Name>, other: String| name.clone().map_or(other, |Name(name)| name);
    Names {
        release: or(&args.release, fullname.clone()),
        namespace: args.namespace.0.clone(),
        pod_name: args.pod_name.0.clone(),
        pod_ip: args.pod_ip.to_string(),
        agent_service_account: or(&args.agent_service_account, format!("{fullname}-agent")),
        fullname,
    }
}

/// The cluster of the pod's service account, or of `KUBECONFIG`.
async fn client() -> Result<Client, AppError> {
    let mut config = Config::infer().await.map_err(|error| AppError::NoCluster(Box::new(error)))?;
    let user_agent = HeaderValue::from_static(concat!("kuik-webhook/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, user_agent));
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Client::try_from(config).map_err(|error| AppError::Client(Box::new(error)))
}

/// Every agent holds connections here; the soft limit is often 1024.
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

    /// Why the webhook ends when one of its parts does what `run` does.
    async fn reason(run: impl Future<Output = io::Result<()>> + Send + 'static) -> String {
        let mut parts = Parts::new(CancellationToken::new());
        parts.spawn("good part", std::future::pending::<io::Result<()>>());
        parts.spawn("bad part", run);
        crate::telemetry::chain(&parts.ended().await)
    }

    #[tokio::test]
    async fn the_end_of_a_part_is_told_with_its_name_and_reason() {
        const ENDED: &str = "the bad part ended, which it should not before the webhook does";
        assert_eq!(reason(async { Ok(()) }).await, ENDED);
        assert_eq!(reason(async { Err(io::Error::other("no luck")) }).await, format!("{ENDED}: no luck"));
        let panicked = reason(async { panic!("by design") }).await;
        assert!(panicked.starts_with(ENDED) && panicked.contains("panicked"), "{panicked}");
    }

    #[tokio::test]
    async fn the_keeper_of_certificates_is_a_part() {
        let mut parts = Parts::new(CancellationToken::new());
        parts.certs.spawn(async {});
        parts.certs.close();
        assert!(parts.ended().await.to_string().starts_with("the keeper of the certificates ended"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_not_waited_for() {
        let mut parts = Parts::new(CancellationToken::new());
        parts.spawn("bad part", std::future::pending::<io::Result<()>>());
        assert!(!parts.settle(Instant::now() + Duration::from_secs(15)).await);
    }
}
