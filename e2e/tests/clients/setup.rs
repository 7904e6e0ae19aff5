//! One registry, one agent in front of it, and an image in the registry.

use anyhow::Result;
use kuik_e2e::agent::Agent;
use kuik_e2e::http;
use kuik_e2e::images::{self, Image};
use kuik_e2e::registry::Registry;

pub(crate) struct Setup {
    pub(crate) registry: Registry,
    pub(crate) agent: Agent,
}

impl Setup {
    pub(crate) fn start() -> Result<Self> {
        Self::around(Registry::start()?)
    }

    pub(crate) fn around(registry: Registry) -> Result<Self> {
        let agent = Agent::start(&[registry.host()])?;
        Ok(Self { registry, agent })
    }

    pub(crate) fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<()> {
        images::push(&self.registry, repository, tag, image)
    }

    /// The reference through the agent; `suffix` is `:tag` or `@digest`.
    pub(crate) fn image(&self, repository: &str, suffix: &str) -> String {
        self.agent.image(&self.registry.host(), repository, suffix)
    }

    /// Gets `path` below a repository through the agent.
    pub(crate) fn get(&self, repository: &str, path: &str) -> Result<http::Reply> {
        http::get(&self.agent.url(&self.registry.host(), repository, path))
    }
}
