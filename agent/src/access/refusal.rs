//! Why a request is not answered, in words that a developer can act on.

use kuik_crd::pull_token::{PullTokenError, SECRET_NAME};

use super::keyring::Secrets;
use crate::cache::CacheError;
use crate::oci::Repository;

/// Why a request is not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// It shows nothing, or nothing good: 401, with a challenge.
    #[error("{message}")]
    Unauthorized {
        message: String,
        /// It showed something.
        reason: &'static str,
    },
    /// Who asks may not have it, or has not proven that it may: 403.
    #[error("{message}")]
    Denied { message: String, reason: &'static str },
    /// Upstream does not have it: 404.
    #[error("{message}")]
    NotThere { message: String },
    /// Upstream could not be asked, or does not have it.
    #[error("{message}")]
    Unproven { message: String, error: CacheError },
}

impl Refusal {
    /// A short word for metrics and reports.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unauthorized { reason, .. } | Self::Denied { reason, .. } => reason,
            Self::NotThere { .. } => "not_found",
            Self::Unproven { error, .. } if error.is_not_found() => "not_found",
            Self::Unproven { .. } => "unavailable",
        }
    }

    pub(super) fn challenge(repository: &Repository) -> Self {
        let message = format!(
            "{repository} is not open to everybody, and the request shows no pull token: pods get theirs from the Secret {SECRET_NAME} of their \
             namespace, which kube-image-keeper adds to their imagePullSecrets"
        );
        Self::Unauthorized { message, reason: "anonymous" }
    }

    pub(super) fn bad_token(repository: &Repository, error: &PullTokenError) -> Self {
        Self::Unauthorized { message: format!("{repository} is not open to everybody, and {error}"), reason: "token" }
    }

    /// Upstream refused what the namespace has to show.
    pub(super) fn denied(namespace: &str, repository: &Repository, secrets: &Secrets, said: &str) -> Self {
        let asks = format!("the namespace {namespace} may not pull {repository}");
        let problems = secrets.problems.join("; ");
        let hint = if problems.is_empty() { String::new() } else { format!(" ({problems})") };
        if secrets.logins.is_empty() {
            let looked = if secrets.tried.is_empty() {
                "its pods on this node and their service accounts name no pull secret".to_owned()
            } else {
                format!("none of its pull secrets is for this repository; looked at: {}", secrets.tried.join(", "))
            };
            return Self::Denied { message: format!("{asks}: {looked}{hint}; and without: {said}"), reason: "no_secret" };
        }
        let tried = secrets.shown.join(", ");
        Self::Denied { message: format!("{asks}: tried {tried}{hint}; {said}"), reason: "denied" }
    }

    /// Nobody could say which secrets the namespace has.
    pub(super) fn no_credentials(namespace: &str, repository: &Repository, why: &str) -> Self {
        let message =
            format!("the namespace {namespace} cannot prove now that it may pull {repository}: its pull secrets are not known: {why}");
        Self::Denied { message, reason: "no_credentials" }
    }

    /// Upstream does not have it, and who asks has proven nothing yet.
    pub(super) fn not_there(namespace: &str, repository: &Repository) -> Self {
        let message = format!(
            "the namespace {namespace} has not proven that it may pull {repository}, and upstream does not have what it asks for there"
        );
        Self::NotThere { message }
    }

    pub(super) fn unproven(namespace: &str, repository: &Repository, error: CacheError) -> Self {
        let message = format!("the namespace {namespace} cannot prove now that it may pull {repository}: {error}");
        Self::Unproven { message, error }
    }
}
