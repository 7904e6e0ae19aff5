//! Pull tokens: what a pod's namespace shows to the agents, in a Secret `kuik-pull` of each namespace whose pods may be rewritten.
//!
//! ```text
//!  keys (pure) ──▶ ring ──writes──▶ Secret of the keys
//!                    ├──tells──────▶ board ──▶ control ──▶ agents: public keys
//!                    ▼ signer
//!  namespaces ──▶ plan (pure) ──▶ write ──▶ Secrets kuik-pull ──▶ kubelets, and by them agents
//!  Secrets ──────▶
//! ```
//!
//! The leader does all of this. A Secret is written when the namespace appears, when half of its token's life is over, when another key
//! signs, and when somebody has changed or deleted it. It goes when the namespace is ignored from then on, with the release (its owner
//! is a `ClusterRole` of it), and when `auth.mode` becomes `none`.
//!
//! *Unsupported:* a Secret of this name that is not ours. It is left alone, with an Event; what it holds is no token.

mod keeper;
mod keys;
mod metrics;
mod owner;
mod plan;
mod remove;
mod ring;
mod secret;
mod store;
#[cfg(test)]
mod tests;
mod write;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio_util::sync::CancellationToken;

use self::keeper::Keeper;
pub use self::metrics::Metrics;
use self::remove::remove_all;
use crate::board::{Board, Leadership};
use crate::config::{AuthMode, Settings};
use crate::lifecycle;
use crate::naming::Names;

/// What ended by itself begins anew after this.
const PAUSE: Duration = Duration::from_secs(5);

/// What pull tokens are made with.
pub struct PullParts {
    /// The Kubernetes API.
    pub client: Client,
    /// Whose objects these are.
    pub names: Arc<Names>,
    /// Which namespaces, and how long tokens and keys live.
    pub settings: Arc<Settings>,
    /// Keys out, and who leads.
    pub board: Board,
    /// What is counted.
    pub metrics: Metrics,
    /// What Events are counted by.
    pub lifecycle_metrics: lifecycle::Metrics,
}

impl fmt::Debug for PullParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullParts").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Keeps pull tokens whenever this replica leads. Returns on `stop`.
///
/// # Errors
/// Never.
pub async fn run(parts: PullParts, stop: CancellationToken) -> Result<(), Infallible> {
    let mut leadership = parts.board.leadership();
    let led = async {
        // Fails when the board is gone, which ends with the program.
        while leadership.wait_for(|leader| *leader == Leadership::Us).await.is_ok() {
            tokio::select! {
                deposed = leadership.wait_for(|leader| *leader != Leadership::Us) => drop(deposed),
                () = lead(&parts) => {}
            }
            parts.metrics.unplanned();
        }
    };
    stop.run_until_cancelled(led).await;
    Ok(())
}

/// Returns only if something has ended that should not.
async fn lead(parts: &PullParts) {
    let PullParts { client, names, settings, board, metrics, lifecycle_metrics } = parts;
    match settings.auth.mode {
        AuthMode::None => {
            board.publish_pull_keys(&[]);
            remove_all(client, names).await;
            std::future::pending().await
        }
        AuthMode::Namespace => {
            let keeper = Keeper {
                client: client.clone(),
                names: Arc::clone(names),
                settings: Arc::clone(settings),
                board: board.clone(),
                metrics: metrics.clone(),
                lifecycle_metrics: lifecycle_metrics.clone(),
            };
            keeper.work().await;
            tokio::time::sleep(PAUSE).await;
        }
    }
}
