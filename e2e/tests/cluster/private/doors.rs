//! The registries that want to know who asks.

use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use kuik_e2e::cluster::{PASSWORD, USER, Upstream};
use kuik_e2e::images::Image;
use kuik_e2e::token_server::TokenServer;
use serde_json::{Value, json};

use crate::kuik::{Kuik, repository_of_this_run};

/// A registry that runs, and who may pull from it.
pub(super) struct Door {
    pub(super) upstream: Upstream,
    tokens: Option<Arc<TokenServer>>,
}

/// What opens a part of a registry.
#[derive(Clone, Debug)]
pub(super) struct Login {
    /// The key of docker's `auths`: a host, maybe with a path.
    pub(super) key: String,
    pub(super) user: String,
    pub(super) password: String,
}

impl Login {
    /// The same with a password that is not right.
    pub(super) fn wrong(&self) -> Self {
        Self { password: format!("not-{}", self.password), ..self.clone() }
    }

    /// An entry of docker's `auths`.
    pub(super) fn entry(&self) -> Value {
        json!({ "username": self.user, "password": self.password })
    }
}

impl Door {
    /// The registry with passwords: one user, who may pull everything.
    pub(super) fn with_passwords(kuik: &Kuik<'_>) -> Result<Self> {
        let upstream = kuik.cluster()?.private_upstream();
        upstream.start()?;
        upstream.know_user(true)?;
        Ok(Self { upstream, tokens: None })
    }

    /// The registry with a token server: users who may pull a part of it.
    pub(super) fn with_tokens(kuik: &Kuik<'_>) -> Result<Self> {
        static TOKENS: OnceLock<Arc<TokenServer>> = OnceLock::new();
        let cluster = kuik.cluster()?;
        let tokens = match TOKENS.get() {
            Some(tokens) => Arc::clone(tokens),
            None => {
                let tokens = Arc::new(cluster.start_token_server()?);
                let upstream = cluster.guarded_upstream(&tokens);
                // One that an earlier run left in a kept cluster trusts that run's token server.
                if upstream.service().running().is_some() {
                    upstream.stop()?;
                }
                Arc::clone(TOKENS.get_or_init(|| tokens))
            }
        };
        let upstream = cluster.guarded_upstream(&tokens);
        upstream.start()?;
        Ok(Self { upstream, tokens: Some(tokens) })
    }

    /// Pushes an image under a repository that no other run has used; returns its reference.
    pub(super) fn push(&self, repository: &str, image: &Image) -> Result<String> {
        let here = repository_of_this_run(repository);
        self.upstream.push(&here, "1", image).with_context(|| format!("push {here}"))?;
        Ok(self.upstream.image(&here, ":1"))
    }

    /// What opens everything below `path`, and with a token server nothing else.
    pub(super) fn login(&self, path: &str) -> Login {
        let host = self.upstream.host();
        let Some(tokens) = &self.tokens else {
            return Login { key: host, user: USER.to_owned(), password: PASSWORD.to_owned() };
        };
        let prefix = repository_of_this_run(path);
        let user = prefix.replace('/', "-");
        let password = format!("password-of-{user}");
        tokens.forget(&user);
        tokens.grant(&user, &password, &prefix);
        Login { key: format!("{host}/{prefix}"), user, password }
    }

    /// From now on the registry does not take this login any more.
    pub(super) fn withdraw(&self, login: &Login) -> Result<()> {
        match &self.tokens {
            Some(tokens) => tokens.forget(&login.user),
            None => self.upstream.know_user(false)?,
        }
        Ok(())
    }
}
