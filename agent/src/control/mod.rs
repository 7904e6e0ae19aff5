//! What the cluster wants of this node, and what it is told: the agent's side of the control API.
//!
//! ```text
//!  control API ◀──TLS, token── client ◀── poll (desired, agents) ──▶ work: keep, refresh, drop ──▶ cache, store
//!                                 ▲           │ last said, on disk
//!                                 ├────────── report ◀── delta ◀── what the cache holds
//!                                 └── credentials ◀── access: pull secrets of a namespace
//! ```
//! Serving waits for none of it: with the control API away the agent goes on with what it was told last, across its own restart too.
//! `client.rs` alone names reqwest; `link.rs` says in the log when the connection is lost and when it is back.

mod backoff;
mod client;
mod credentials;
mod delta;
mod link;
mod pace;
mod poll;
mod report;
mod work;

use std::sync::Arc;
use std::time::Duration;

use kuik_crd::control::{AGENTS_PATH, Agents, DESIRED_PATH, Desired};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use backoff::Backoff;
pub use pace::Pace;

use client::{Client, ControlError};
use credentials::Purse;
use link::Link;
use poll::Subject;

use crate::access::Access;
use crate::cache::Cache;
use crate::config::ControlConfig;
use crate::disk::{self, Disk};
use crate::metrics::Metrics;
use crate::store::Store;

const DESIRED: Subject = Subject { path: DESIRED_PATH, name: "desired" };
const AGENTS: Subject = Subject { path: AGENTS_PATH, name: "agents" };

/// What all loops need.
#[derive(Debug)]
struct Parts {
    client: Client,
    link: Link,
    pace: Pace,
    store: Store,
    /// One that leaves times of use as they are.
    cache: Cache,
    metrics: Arc<Metrics>,
    disk: Disk,
    access: Access,
    /// What was used here up to this time has been reported.
    heard_until: watch::Sender<u64>,
}

impl Parts {
    /// Waits before the next attempt; less long if there are other authorities to trust meanwhile.
    async fn wait_after(&self, error: &ControlError, failures: u32) {
        let wait = match error {
            ControlError::NoAuthorities { .. } => self.pace.trust_every / 2 + backoff::jitter(self.pace.trust_every / 2),
            _ => self.pace.reconnect.wait(failures).max(error.retry_after().unwrap_or(Duration::ZERO)),
        };
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            tokio::time::sleep_until(deadline.min(Instant::now() + self.pace.trust_every)).await;
            if self.client.authorities_changed() {
                return;
            }
        }
    }
}

/// What the control API said last. Cheap to clone.
#[derive(Debug, Clone)]
pub struct View {
    agents: watch::Receiver<Option<Agents>>,
}

impl View {
    /// The agents of the cluster.
    #[must_use]
    pub fn agents(&self) -> Option<Agents> {
        self.agents.borrow().clone()
    }
}

/// The loops.
#[derive(Debug)]
pub struct Control {
    tasks: TaskTracker,
    stop: CancellationToken,
    view: View,
}

impl Control {
    /// Recalls what was said last, and begins to ask, to work and to report.
    pub async fn start(
        config: ControlConfig,
        node: Option<&str>,
        (cache, store, disk, access, metrics): (&Cache, &Store, &Disk, &Access, &Arc<Metrics>),
        pace: Pace,
    ) -> Self {
        if let Some(address) = &config.unexpanded {
            tracing::warn!(address, url = %config.url, "--control-address still holds a variable: looking up the host of --control-url instead");
        }
        let address = config.address.as_ref().map(|address| format!("{}:{}", address.host, address.port));
        tracing::info!(node, url = %config.url, address, "working with the control API");
        let (desired, desired_seen) = watch::channel(poll::recall::<Desired>(store, DESIRED).await);
        let (agents, agents_seen) = watch::channel(poll::recall::<Agents>(store, AGENTS).await);
        let parts = Arc::new(Parts {
            client: Client::new(config),
            link: Link::new(Arc::clone(metrics)),
            pace,
            store: store.clone(),
            cache: cache.quietly(),
            metrics: Arc::clone(metrics),
            disk: disk.clone(),
            access: access.clone(),
            heard_until: watch::Sender::new(0),
        });
        disk.join(disk::Cluster { desired: desired_seen.clone(), heard_until: parts.heard_until.subscribe() });
        let control = Self { tasks: TaskTracker::new(), stop: CancellationToken::new(), view: View { agents: agents_seen } };
        if let Some(desired) = &*desired_seen.borrow() {
            access.set_keys(&desired.pull_keys);
        }
        access.join(Arc::new(Purse { parts: Arc::clone(&parts) }));
        control.spawn(hand_on_keys(access.clone(), desired_seen.clone()));
        control.spawn(poll::run(Arc::clone(&parts), DESIRED, desired));
        control.spawn(poll::run(Arc::clone(&parts), AGENTS, agents));
        control.spawn(work::run(Arc::clone(&parts), desired_seen.clone()));
        control.spawn(report::run(parts, desired_seen));
        control.tasks.close();
        control
    }

    /// What the control API said last.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Ends the loops where they stand; each is at a point from which a crash would do no harm either.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    fn spawn(&self, run: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = run => {}
            }
        });
    }
}

/// Pull tokens are checked with the keys that were said last.
async fn hand_on_keys(access: Access, mut desired: watch::Receiver<Option<Desired>>) {
    loop {
        if let Some(desired) = &*desired.borrow_and_update() {
            access.set_keys(&desired.pull_keys);
        }
        if desired.changed().await.is_err() {
            return;
        }
    }
}
