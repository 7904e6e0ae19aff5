//! The keys as the leader holds them: kept in a Secret, and told to agents.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, ResourceExt as _};
use kuik_crd::pull_token::{PullSigner, PullSignerError};

use super::keys::{Found, KeyEvent, State, Told, step};
use super::metrics::Metrics;
use super::{owner, store};
use crate::board::Board;
use crate::config::Auth;
use crate::naming::Names;

/// Why the keys are not up to date.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    #[error("neither our ClusterRole nor our webhook configuration can be read, one of which is to own the Secrets")]
    Owner(#[source] kube::Error),
    #[error("the Secret of the pull keys cannot be read")]
    Read(#[source] kube::Error),
    #[error("the Secret of the pull keys cannot be written")]
    Write(#[source] kube::Error),
    #[error("a pull key cannot be made or read")]
    Make(#[source] PullSignerError),
}

impl RingError {
    /// The value of the metric's label.
    pub(super) fn step(&self) -> &'static str {
        match self {
            Self::Owner(_) => "owner",
            Self::Read(_) => "read",
            Self::Write(_) => "write",
            Self::Make(_) => "make",
        }
    }
}

/// What tokens are written with.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) signer: PullSigner,
    pub(super) owner: OwnerReference,
}

/// The keys of one leader's time.
pub(super) struct Ring {
    client: Client,
    names: Arc<Names>,
    auth: Auth,
    board: Board,
    metrics: Metrics,
    /// What was last written or read.
    state: Option<State>,
    told: Told,
}

impl Ring {
    pub(super) fn new(client: Client, names: Arc<Names>, auth: Auth, board: Board, metrics: Metrics) -> Self {
        Self { client, names, auth, board, metrics, state: None, told: Told::new() }
    }

    /// Brings the Secret up to date, then tells agents, and gives what may sign from then on; and when to look again, from `now`.
    pub(super) async fn turn(&mut self, now: u64) -> Result<(Held, Duration), RingError> {
        let owner = owner::owner(&self.client, &self.names).await.map_err(RingError::Owner)?;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.names.namespace);
        let secret = api.get_opt(&self.names.pull_keys_secret()).await.map_err(RingError::Read)?;
        let (kept, damaged) = secret.as_ref().map(store::read).unwrap_or_default();
        let done = step(self.whole(&kept), &self.told, now, &self.auth).map_err(RingError::Make)?;
        let is_owned = secret.as_ref().is_some_and(|secret| secret.owner_references().iter().any(|one| one.uid == owner.uid));
        if !damaged.is_empty() {
            let (secret, entries) = (self.names.pull_keys_secret(), damaged.join(" "));
            tracing::error!(entries, "the Secret {secret} of the pull keys is damaged, and written anew");
        }
        if kept != done.state.clone().into() || !damaged.is_empty() || !is_owned {
            store::write(&self.client, &self.names, secret, &done.state, &owner).await.map_err(RingError::Write)?;
            done.events.iter().for_each(|event| self.note(*event));
        }
        let signer = done.state.signer().map_err(RingError::Make)?;
        self.tell(&done.state, now);
        self.state = Some(done.state);
        Ok((Held { signer, owner }, done.next_check))
    }

    /// What was found, or what this leader knows if the key in use was lost or damaged meanwhile.
    fn whole(&self, kept: &Found) -> Found {
        let is_usable = kept.current.as_ref().is_some_and(|current| PullSigner::read(&current.pair.pkcs8).is_ok());
        match &self.state {
            Some(state) if !is_usable => state.clone().into(),
            _ => kept.clone(),
        }
    }

    fn tell(&mut self, state: &State, now: u64) {
        let published = state.published();
        if !self.board.publish_pull_keys(&published) {
            // Agents are told nothing at present.
            return self.told.clear();
        }
        self.told.retain(|id, _| published.iter().any(|key| key.id == *id));
        for key in published {
            self.told.entry(key.id).or_insert(now);
        }
    }

    fn note(&self, event: KeyEvent) {
        self.metrics.key_event(event.as_str());
        let secret = self.names.pull_keys_secret();
        match event {
            KeyEvent::Made => tracing::info!("made a key for pull tokens, kept in the Secret {secret}"),
            KeyEvent::Prepared => tracing::info!("made the next key for pull tokens; agents are told of it, and it signs later"),
            KeyEvent::Replaced => tracing::info!("the next key signs pull tokens from now on"),
            KeyEvent::Forgotten => tracing::info!("the previous key of pull tokens has no valid token any more: agents forget it"),
        }
    }
}
