//! Who we are at registries, as docker writes it down: its `config.json` and the older `.dockercfg`, credential helpers, and what the control
//! API answers to an agent that asks for pull secrets.
//!
//! ```text
//!  config.json, .dockercfg ──▶ docker_config ──▶ (scope, login)…   scope: which hosts, below which path
//!  docker-credential-… get ──▶ helper ─────────▶ login             expiry: until when it is good
//!                                                  └──▶ answer     from the control API to an agent
//! ```
//! Secrets are overwritten when they are dropped, and no `Debug`, error or log line shows one. `helper.rs` runs programs; everything else is
//! pure.

mod answer;
mod docker_config;
mod expiry;
mod helper;
mod login;
mod scope;

pub use answer::{CredentialsAnswer, Given};
pub use docker_config::{DockerConfig, HelperEntry, Malformed};
pub use helper::{HelperAnswer, Helpers, Observer};
pub use login::{Hidden, Login};
pub use scope::{Precision, Scope, ScopeError};

/// What a helper is asked for, for everything on this host.
#[must_use]
pub fn server_of(host: &crate::Registry) -> String {
    /// What `docker login` calls Docker Hub.
    const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

    if *host == crate::Registry::docker_hub() { DOCKER_HUB_SERVER.to_owned() } else { host.to_string() }
}
