//! Credentials from a docker `config.json`: who we are for which host and path.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kuik_crd::credentials::{DockerConfig, Helpers, Login, server_of};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::{info, warn};

use super::docker_config;
use super::error::{UpstreamSetupError, chain};
use super::helper::helpers;
use crate::oci::{Algorithm, Digest, Hasher, Registry, RepositoryName};

/// The file is looked at for changes at most so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Names a credential without telling it. `None` is anonymous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CredentialId(Option<Digest>);

/// What we prove who we are with.
#[derive(Clone)]
pub(super) struct Credential {
    id: CredentialId,
    secret: Secret,
}

/// The kinds of credential.
#[derive(Clone)]
pub(super) enum Secret {
    Anonymous,
    Basic {
        user: String,
        password: SecretString,
    },
    /// A refresh token of the token service.
    Identity(SecretString),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.secret {
            Secret::Anonymous => "Anonymous",
            Secret::Basic { .. } => "Basic",
            Secret::Identity(_) => "Identity",
        })
    }
}

impl Credential {
    pub(super) const ANONYMOUS: Self = Self { id: CredentialId(None), secret: Secret::Anonymous };

    pub(super) fn basic(user: String, password: SecretString) -> Self {
        let id = CredentialId::of(&[user.as_bytes(), password.expose_secret().as_bytes()]);
        Self { id, secret: Secret::Basic { user, password } }
    }

    pub(super) fn identity(token: SecretString) -> Self {
        Self { id: CredentialId::of(&[token.expose_secret().as_bytes()]), secret: Secret::Identity(token) }
    }

    pub(super) fn id(&self) -> CredentialId {
        self.id
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(super) fn is_anonymous(&self) -> bool {
        matches!(self.secret, Secret::Anonymous)
    }
}

impl From<Login> for Credential {
    fn from(login: Login) -> Self {
        match login {
            Login::Password { user, password } => Self::basic(user, password),
            Login::Identity(token) => Self::identity(token),
        }
    }
}

impl CredentialId {
    fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for part in parts {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Self(Some(hasher.finish()))
    }
}

/// What there is to try for a repository.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Best first; never anonymous.
    pub(super) credentials: Vec<Credential>,
    /// What kept a configured credential from being among them.
    pub(super) problem: Option<String>,
}

/// Where credentials come from. Reads the file anew when it has changed.
#[derive(Debug)]
pub(super) struct Credentials {
    file: Option<PathBuf>,
    helpers: Helpers,
    /// Held for looking and reading, never across an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<DockerConfig>,
    stamp: Option<Stamp>,
    looked_at: Instant,
}

/// What changes when a file is written or replaced, as Kubernetes replaces mounted Secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: std::time::SystemTime,
    inode: u64,
    len: u64,
}

impl Credentials {
    /// Reads `file`; without one there are no credentials.
    pub(super) fn new(file: Option<PathBuf>) -> Result<Self, UpstreamSetupError> {
        Self::with_path(file, None)
    }

    /// As [`Credentials::new`], with another `PATH` to look for helpers.
    pub(super) fn with_path(file: Option<PathBuf>, path: Option<OsString>) -> Result<Self, UpstreamSetupError> {
        let (config, stamp) = match &file {
            Some(path) => (docker_config::read(path)?, stamp(path)),
            None => (DockerConfig::default(), None),
        };
        let state = Mutex::new(State { config: Arc::new(config), stamp, looked_at: Instant::now() });
        Ok(Self { file, helpers: helpers(path), state })
    }

    /// Everything to try for `name` on `host`: helpers before the file's own, longer paths before shorter.
    pub(super) async fn candidates(&self, host: &Registry, name: &RepositoryName) -> Candidates {
        let config = self.current();
        let mut candidates = Candidates::default();
        if config.is_empty() {
            return candidates;
        }
        for (program, server) in asked(&config, host, name) {
            match self.helpers.get(std::slice::from_ref(&program), &server).await {
                Ok(login) => candidates.credentials.extend(login.map(Credential::from)),
                Err(detail) => candidates.problem = Some(format!("{program}: {detail}")),
            }
        }
        candidates.credentials.extend(config.logins(host, name).map(|(_, login)| Credential::from(login.clone())));
        let mut seen = HashSet::new();
        candidates.credentials.retain(|credential| seen.insert(credential.id()));
        candidates
    }

    /// Whether there is anything to try for `name` on `host`.
    pub(super) fn has_any(&self, host: &Registry, name: &RepositoryName) -> bool {
        let config = self.current();
        config.logins(host, name).next().is_some() || !asked(&config, host, name).is_empty()
    }

    fn current(&self) -> Arc<DockerConfig> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = self.file.as_deref().filter(|_| state.looked_at.elapsed() >= LOOK_INTERVAL) else {
            return Arc::clone(&state.config);
        };
        state.looked_at = Instant::now();
        let stamp = stamp(path);
        if stamp != state.stamp {
            state.stamp = stamp;
            match docker_config::read(path) {
                Ok(config) => {
                    info!("read the credentials in {} anew", path.display());
                    state.config = Arc::new(config);
                    self.helpers.forget();
                }
                Err(error) => warn!("keeping the credentials read before: {}", chain(&error)),
            }
        }
        Arc::clone(&state.config)
    }
}

/// The programs of the helpers to ask, and by which name of the server.
fn asked(config: &DockerConfig, host: &Registry, name: &RepositoryName) -> Vec<(String, String)> {
    let program = |helper: &str| format!("docker-credential-{helper}");
    let helpers = config.helpers.iter().filter(|helper| helper.scope.covers(host, name));
    let mut asked: Vec<_> = helpers.map(|helper| (program(&helper.name), helper.server.clone())).collect();
    if let Some(store) = &config.store {
        asked.push((program(store), server_of(host)));
    }
    asked
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp { modified: metadata.modified().ok()?, inode: metadata.ino(), len: metadata.len() })
}
