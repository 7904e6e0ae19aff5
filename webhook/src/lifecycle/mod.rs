//! The life of cached images, on the one replica that leads: which there are, who uses them, when they go, and what agents should do.
//!
//! ```text
//!  Kubernetes API ──watch──▶ mirror ─┐                       ┌─▶ execute ──write──▶ Kubernetes API
//!                                    ├─▶ world ──▶ plan ──▶ ─┤     └─▶ events
//!  board ────────reports────▶ copies ┘      (pure)           └─▶ board: wishes
//! ```
//! `leader` says who leads. `plan` is a pure function; everything around it only carries: what it is given and what it answers.

mod cluster;
mod copies;
mod crds;
pub(crate) mod events;
mod execute;
mod holders;
mod lead;
mod leader;
mod metrics;
pub(crate) mod mirror;
#[cfg(test)]
pub(crate) mod mock;
pub(crate) mod pace;
mod plan;
mod tombstones;
mod usage;
mod world;

use std::net::IpAddr;
use std::sync::Arc;

use kube::Client;
use tokio_util::sync::CancellationToken;

use self::lead::Leader;
use self::leader::Elector;
pub use self::metrics::Metrics;
pub(crate) use self::plan::Note;
use crate::board::Board;
use crate::config::Settings;
use crate::naming::Names;

/// Why the lifecycle cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// Without our own address, the other replicas could not find us while we lead.
    #[error("the address of our own pod is {0:?}, which is no IP address: set --pod-ip (KUIK_POD_IP) from status.podIP")]
    PodAddress(String),
}

/// Takes part in the election, and leads whenever this replica is elected. Returns on `stop`.
///
/// # Errors
/// When it cannot take part.
pub async fn run(
    client: Client,
    names: Arc<Names>,
    settings: Arc<Settings>,
    board: Board,
    install_crds: bool,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), LifecycleError> {
    if names.pod_ip.parse::<IpAddr>().is_err() {
        return Err(LifecycleError::PodAddress(names.pod_ip.clone()));
    }
    let elector = Elector::new(client.clone(), &names, board.clone());
    let leader = Leader { client, names, settings, board, metrics, install_crds };
    elector.run(&stop, |stop| Box::pin(leader.lead(stop))).await;
    Ok(())
}
