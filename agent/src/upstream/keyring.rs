//! Pull secrets of namespaces: what this module needs to know of where they come from.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::credentials::Credential;
use crate::oci::Repository;

/// What there is to show for a namespace.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Best first.
    pub(super) credentials: Vec<Credential>,
    /// What kept one from being among them.
    pub(super) problem: Option<String>,
}

impl Keys {
    /// Takes what the control API gave.
    #[must_use]
    pub fn new(logins: impl IntoIterator<Item = kuik_crd::credentials::Login>, problem: Option<String>) -> Self {
        Self { credentials: logins.into_iter().map(Credential::from).collect(), problem }
    }
}

/// Whoever has the pull secrets of namespaces.
pub trait Keyring: Send + Sync + fmt::Debug {
    /// The pull secrets of a namespace that are for a repository. Bounded in time.
    fn of_namespace(&self, namespace: Arc<str>, repository: Repository) -> BoxFuture<'_, Keys>;

    /// Whether everybody may pull from it, as far as is known.
    fn is_open(&self, repository: &Repository) -> bool;

    /// Whether a namespace has proven lately that it may pull from it.
    fn may(&self, namespace: &Arc<str>, repository: &Repository) -> bool;

    /// Namespaces that have proven that they may pull from it, the latest first.
    fn proven(&self, repository: &Repository) -> Vec<Arc<str>>;
}
