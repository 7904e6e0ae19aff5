//! Upstream registries: asked politely, in order, and never with more than they should know.
//!
//! ```text
//!   Upstream ──▶ ask ──▶ limits          a turn at the registry; closed circuits
//!                 │ ──▶ endpoints        which hosts, in which order
//!                 │ ──▶ auth ──▶ credentials, keyring, helper, challenge, token
//!                 └───▶ client           TLS, redirects ──▶ body, blob
//! ```
//! Nothing here verifies a digest: what comes out is what upstream sent. This module alone names reqwest.

mod ask;
mod auth;
mod blob;
mod body;
mod challenge;
mod client;
mod credentials;
mod docker_config;
mod endpoints;
mod error;
mod helper;
mod keyring;
mod limits;
mod list;
mod manifest;
mod retry;
#[cfg(test)]
pub(crate) mod tests;
mod token;

use std::fmt;
use std::sync::Arc;

use ask::Asking;
use auth::Auth;
use blob::{GetBlob, HeadBlob};
use client::Clients;
use credentials::Credentials;
use endpoints::Endpoints;
use http::Method;
use limits::{Circuits, Turns};
use manifest::{GetManifest, HeadManifest};

pub use blob::{BlobBody, BlobStream};
pub use endpoints::EndpointId;
pub use error::{Place, UpstreamError, UpstreamSetupError};
pub use keyring::{Keyring, Keys};
pub use list::{List, ListReply};
pub use manifest::{FetchedManifest, ManifestHead};
pub use retry::delay;

use crate::config::UpstreamConfig;
use crate::oci::{Digest, Registry, Repository, Target};
use crate::requester::Requester;

/// Is told what goes to and comes from registries. For metrics.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A request is sent.
    fn request(&self, registry: &Registry);
    /// An endpoint failed to give what it was asked for; `reason` is one of a fixed set.
    fn error(&self, registry: &Registry, reason: &'static str);
    /// Bytes of a body have come.
    fn bytes(&self, registry: &Registry, count: u64);
}

/// Nobody wants to know.
impl Observer for () {
    fn request(&self, _: &Registry) {}
    fn error(&self, _: &Registry, _: &'static str) {}
    fn bytes(&self, _: &Registry, _: u64) {}
}

/// All upstream registries. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Upstream {
    asking: Arc<Asking>,
}

impl Upstream {
    /// Reads the files that the configuration names. Connects nowhere.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be; the error names it.
    pub fn new(config: UpstreamConfig, observer: Arc<dyn Observer>) -> Result<Self, UpstreamSetupError> {
        let asking = Asking {
            clients: Clients::new(&config)?,
            auth: Auth::new(Credentials::new(config.auth_file.clone())?),
            endpoints: Endpoints::new(),
            turns: Turns::default(),
            circuits: Circuits::new(),
            observer,
            config,
        };
        Ok(Self { asking: Arc::new(asking) })
    }

    /// Reads the trusted authorities of the machine, which the first request would wait for. Blocks.
    pub fn prepare(&self) {
        self.asking.clients.prepare();
    }

    /// Where pull secrets of namespaces come from, from here on.
    pub fn join(&self, keyring: Arc<dyn Keyring>) {
        self.asking.auth.join(keyring);
    }

    /// Whether the agent has credentials of its own for a repository.
    #[must_use]
    pub fn has_credentials(&self, repository: &Repository) -> bool {
        self.asking.auth.has_credentials(repository)
    }

    /// Whether everybody may pull from a repository, as far as is known.
    #[must_use]
    pub fn is_open(&self, repository: &Repository) -> bool {
        self.asking.auth.keyring().is_some_and(|keyring| keyring.is_open(repository))
    }

    /// Whether somebody has proven lately that they may.
    #[must_use]
    pub fn may(&self, requester: &Requester, repository: &Repository) -> bool {
        match requester {
            Requester::Namespace(namespace) => self.asking.auth.keyring().is_some_and(|keyring| keyring.may(namespace, repository)),
            Requester::Anyone | Requester::Nobody | Requester::Agent => false,
        }
    }

    /// To be asked for somebody: nothing is asked without saying for whom.
    #[must_use]
    pub fn by(&self, requester: &Requester) -> Errand {
        Errand { asking: Arc::clone(&self.asking), requester: requester.clone() }
    }
}

/// Upstream, asked for somebody. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Errand {
    asking: Arc<Asking>,
    requester: Requester,
}

impl Errand {
    /// For whom it is.
    #[must_use]
    pub fn requester(&self) -> &Requester {
        &self.requester
    }

    /// What upstream says about a manifest.
    ///
    /// # Errors
    /// See [`UpstreamError`]; this goes for all that follow.
    pub async fn head_manifest(&self, repository: &Repository, target: &Target) -> Result<ManifestHead, UpstreamError> {
        match self.asking.ask(&self.requester, repository, &HeadManifest { target, method: Method::HEAD }, &[]).await {
            Err(UpstreamError::Status { status: 405 | 501, .. }) => {
                self.asking.ask(&self.requester, repository, &HeadManifest { target, method: Method::GET }, &[]).await
            }
            answered => answered,
        }
    }

    /// A manifest. Its digest is not verified.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub async fn get_manifest(&self, repository: &Repository, target: &Target) -> Result<FetchedManifest, UpstreamError> {
        self.asking.ask(&self.requester, repository, &GetManifest(target), &[]).await
    }

    /// Whether the repository has the blob; its size, where upstream says it.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub async fn head_blob(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        self.asking.ask(&self.requester, repository, &HeadBlob(digest), &[]).await
    }

    /// A blob from byte `from` on. The endpoints in `avoid` are asked last.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub async fn get_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: u64,
        avoid: &[EndpointId],
    ) -> Result<BlobStream, UpstreamError> {
        self.asking.ask(&self.requester, repository, &GetBlob { digest, from }, avoid).await
    }

    /// A list of tags or referrers.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub async fn list(&self, repository: &Repository, list: &List) -> Result<ListReply, UpstreamError> {
        self.asking.ask(&self.requester, repository, list, &[]).await
    }
}
