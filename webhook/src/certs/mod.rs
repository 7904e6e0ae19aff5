//! The certificate that admission and the control API serve with.
//!
//! ```text
//!            plan (pure) ──▶ leader ──writes──▶ Secret ──watched by every replica──▶ loaded ──▶ TLS handshakes
//!                              │
//!                              └──publishes──▶ webhook configuration (API server), ConfigMap (agents)
//! ```
//!
//! The leader makes an authority and a serving certificate, and replaces both in time. Every replica, the leader's too, serves with what
//! the Secret says, and takes up a new certificate without a restart. With `--tls-dir`, files take the Secret's place.

mod files;
mod leader;
mod loaded;
mod metrics;
mod plan;
mod publish;
mod store;
#[cfg(test)]
mod tests;
mod x509;

pub use loaded::Certificates;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::board::Leadership;
use crate::naming::Names;
use leader::{Leader, Origin};

/// How long certificates live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// The serving certificate; it is renewed after two thirds of this.
    pub certificate: Duration,
    /// The authority; its successor is made after two thirds of this.
    pub authority: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { certificate: Duration::from_secs(90 * 86_400), authority: Duration::from_secs(3650 * 86_400) }
    }
}

/// Starts to load certificates, and to make them when this replica leads; from files, if `tls_dir` says where.
pub fn spawn(
    client: Client,
    names: Arc<Names>,
    lifetimes: Lifetimes,
    tls_dir: Option<PathBuf>,
    leadership: watch::Receiver<Leadership>,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> Certificates {
    let certificates = Certificates::new();
    let origin = match tls_dir {
        Some(dir) => {
            tasks.spawn(files::follow(dir, certificates.clone(), stop.clone()));
            Origin::Files
        }
        None => {
            tasks.spawn(follow_secret(client.clone(), Arc::clone(&names), certificates.clone(), stop.clone()));
            Origin::Own(lifetimes)
        }
    };
    let leader = Leader { client, names, origin, certificates: certificates.clone() };
    tasks.spawn(leader.run(leadership, stop));
    certificates
}

/// Loads what the Secret holds, whenever it changes, until `stop`. A Secret that is deleted or damaged changes nothing here: the leader
/// makes it anew.
async fn follow_secret(client: Client, names: Arc<Names>, certificates: Certificates, stop: CancellationToken) {
    let api: Api<Secret> = Api::namespaced(client, &names.namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", names.tls_secret()));
    let secrets = watcher(api, only).default_backoff().take_until(stop.cancelled());
    tokio::pin!(secrets);
    while let Some(event) = secrets.next().await {
        match event {
            Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) => load(&secret, &certificates),
            Ok(watcher::Event::Init | watcher::Event::InitDone | watcher::Event::Delete(_)) => {}
            Err(error) => {
                certificates.metrics().error("watch");
                tracing::warn!("the Secret {} cannot be watched, trying again: {}", names.tls_secret(), chain(&error));
            }
        }
    }
}

fn load(secret: &Secret, certificates: &Certificates) {
    let found = store::read(secret);
    let Some(serving) = &found.serving else {
        return;
    };
    if let Err(error) = certificates.load(serving, &found.bundle()) {
        certificates.metrics().error("load");
        tracing::error!("the certificate in the Secret cannot be used: {}", chain(&error));
    }
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
