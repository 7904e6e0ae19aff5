//! Who may have private images: section `auth` of the file, and flags over it.

use std::path::Path;
use std::time::Duration;

use super::error::{ConfigError, Place};
use super::file::AuthFile;
use super::scalar::{Text, Timeout};
use crate::args::AuthArgs;

/// Who may have private images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// Whose rights are looked at.
    pub mode: AuthMode,
    /// A right that was proven so lately is not proven again.
    pub proof_ttl: Duration,
    /// What counts when it cannot be.
    pub on_upstream_down: OnUpstreamDown,
    /// What the agent's own credentials open is open to everybody.
    pub share_registry_auth: bool,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            mode: AuthMode::None,
            proof_ttl: Duration::from_secs(12 * 3600),
            on_upstream_down: OnUpstreamDown::LastProven,
            share_registry_auth: false,
        }
    }
}

/// Whose rights are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum AuthMode {
    /// Nobody's: everybody gets every image.
    #[default]
    None,
    /// The namespace's, by its pull token and its pull secrets.
    Namespace,
}

/// What counts when a right was proven too long ago, and upstream cannot confirm it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum OnUpstreamDown {
    /// The last proof.
    #[default]
    #[value(name = "lastProven")]
    LastProven,
    /// Nothing.
    Deny,
}

/// Lays flags over the file.
pub(super) fn read(args: AuthArgs, file: AuthFile, path: &Path, has_control: bool) -> Result<AuthConfig, ConfigError> {
    let AuthArgs { auth_mode, auth_proof_ttl, auth_on_upstream_down, auth_share_registry_auth } = args;
    let AuthFile { mode, proof_ttl, on_upstream_down, share_registry_auth } = file;
    let defaults = AuthConfig::default();
    let config = AuthConfig {
        mode: auth_mode.or(mode).unwrap_or(defaults.mode),
        proof_ttl: auth_proof_ttl.or(proof_ttl.map(|Text(span)| span)).map_or(defaults.proof_ttl, |Timeout(time)| time),
        on_upstream_down: auth_on_upstream_down.or(on_upstream_down).unwrap_or(defaults.on_upstream_down),
        share_registry_auth: auth_share_registry_auth.or(share_registry_auth).unwrap_or(defaults.share_registry_auth),
    };
    if config.mode == AuthMode::Namespace && !has_control {
        let place = if auth_mode.is_some() { Place::Flag("--auth-mode") } else { Place::key(path, "auth.mode") };
        return Err(place.refuse("namespace: expected --control-url too, which pull secrets and the keys of pull tokens come from"));
    }
    Ok(config)
}
