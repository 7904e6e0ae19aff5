//! What the leader does: keeps the Secret up to date, and tells everybody whom to trust.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::loaded::Certificates;
use super::plan::{Event, Step, step};
use super::publish::Told;
use super::x509::X509Error;
use super::{Lifetimes, publish, store};
use crate::board::Leadership;
use crate::naming::Names;

/// How often everything is looked at, at least: others may take out what was published.
const INTERVAL: Duration = Duration::from_secs(10);

/// The pause after a failure, and while there is nobody to rewrite for.
const PAUSE: Duration = Duration::from_secs(2);

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaderError {
    #[error("the Secret of the certificates cannot be read")]
    Read(#[source] kube::Error),
    #[error("the Secret of the certificates cannot be written")]
    Write(#[source] kube::Error),
    #[error("certificates cannot be made")]
    Make(#[source] X509Error),
    #[error("the authority cannot be published in the ConfigMap for agents")]
    ConfigMap(#[source] kube::Error),
    #[error("the authority cannot be published in the webhook configuration")]
    WebhookConfiguration(#[source] kube::Error),
}

impl LeaderError {
    fn step(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Write(_) => "write",
            Self::Make(_) => "make",
            Self::ConfigMap(_) => "publish_config_map",
            Self::WebhookConfiguration(_) => "publish_webhook_configuration",
        }
    }
}

/// Where certificates come from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// This program makes them.
    Own(Lifetimes),
    /// Files: only their authority is published, and only for agents.
    Files,
}

/// The leader's part.
pub(super) struct Leader {
    pub(super) client: Client,
    pub(super) names: Arc<Names>,
    pub(super) origin: Origin,
    pub(super) certificates: Certificates,
}

impl Leader {
    /// Works whenever this replica leads, until `stop`.
    pub(super) async fn run(self, mut leadership: watch::Receiver<Leadership>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = async {
                let mut complained = None;
                while leadership.wait_for(|leader| *leader == Leadership::Us).await.is_ok() {
                    let pause = self.pause_after_round(&mut complained).await;
                    let deposed = leadership.wait_for(|leader| *leader != Leadership::Us);
                    if let Ok(Err(_)) = tokio::time::timeout(pause, deposed).await {
                        return;
                    }
                }
            } => {}
        }
    }

    async fn pause_after_round(&self, complained: &mut Option<String>) -> Duration {
        match self.round(now()).await {
            Ok(next_check) => {
                *complained = None;
                next_check.min(INTERVAL)
            }
            Err(error) => {
                self.certificates.metrics().error(error.step());
                let line = super::chain(&error);
                if complained.as_ref() != Some(&line) {
                    tracing::error!("{line}");
                    *complained = Some(line);
                }
                PAUSE
            }
        }
    }

    /// One look at everything. Returns when the next is due at the latest.
    pub(super) async fn round(&self, now: u64) -> Result<Duration, LeaderError> {
        match &self.origin {
            Origin::Files => {
                let bundle = self.certificates.ca_bundle().borrow().clone();
                if let Some(bundle) = bundle {
                    self.publish_to_agents(&String::from_utf8_lossy(&bundle)).await?;
                }
                Ok(INTERVAL)
            }
            Origin::Own(lifetimes) => {
                let Step { state, next_check, .. } = self.keep(lifetimes, now).await?;
                let bundle = state.bundle();
                // Agents still get theirs when the API server's cannot be written.
                let told = self.publish_to_api_server(&bundle).await;
                self.publish_to_agents(&bundle).await?;
                told.map(|told| if told == Told::NoAgents { PAUSE } else { next_check })
            }
        }
    }

    /// Brings the Secret up to date.
    async fn keep(&self, lifetimes: &Lifetimes, now: u64) -> Result<Step, LeaderError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.names.namespace);
        let secret = api.get_opt(&self.names.tls_secret()).await.map_err(LeaderError::Read)?;
        let found = secret.as_ref().map(store::read).unwrap_or_default();
        let done = step(found.clone(), now, lifetimes, &self.names.hosts()).map_err(LeaderError::Make)?;
        if found != done.state.clone().into() {
            store::write(&self.client, &self.names, secret, &done.state).await.map_err(LeaderError::Write)?;
            for event in &done.events {
                self.note(*event);
            }
        }
        Ok(done)
    }

    fn note(&self, event: Event) {
        self.certificates.metrics().event(event.as_str());
        let secret = self.names.tls_secret();
        match event {
            Event::AuthorityMade => tracing::info!("made a certificate authority, kept in Secret {secret}"),
            Event::AuthorityPrepared => tracing::info!("made the next certificate authority; it signs after an overlap"),
            Event::AuthorityReplaced => tracing::info!("the next certificate authority signs from now on"),
            Event::AuthorityForgotten => tracing::info!("the previous certificate authority is not trusted any more"),
            Event::CertificateMade => tracing::info!("made a serving certificate, kept in Secret {secret}"),
        }
    }

    async fn publish_to_agents(&self, bundle: &str) -> Result<(), LeaderError> {
        if publish::to_config_map(&self.client, &self.names, bundle).await.map_err(LeaderError::ConfigMap)? {
            tracing::info!("published the certificate authority in ConfigMap {}", self.names.ca_config_map());
        }
        Ok(())
    }

    async fn publish_to_api_server(&self, bundle: &str) -> Result<Told, LeaderError> {
        let told = publish::to_webhook_configuration(&self.client, &self.names, bundle).await.map_err(LeaderError::WebhookConfiguration)?;
        match told {
            Told::Before => {}
            Told::Now => {
                tracing::info!(
                    "published the certificate authority in MutatingWebhookConfiguration {}",
                    self.names.webhook_configuration()
                );
            }
            Told::NoAgents => tracing::debug!("no pod is rewritten yet: no agent is ready"),
        }
        Ok(told)
    }
}

/// Certificates are about the calendar, not about time passed.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
